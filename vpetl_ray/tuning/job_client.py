"""A search as a job of a Ray cluster: handed over, followed, found again, stopped.

The job lives on the cluster. Whoever follows it may be cut off and come back; its log is read from
the start each time, and what was shown before is passed over.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import aiohttp
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient

from vpetl_ray.errors import SearchError, SpecError

EXCLUDED = (".git", ".venv", "runs", "mlruns", "mlflow.db", "**/__pycache__")
"""Of the working directory, what no job needs."""
STOP_SECONDS = 120
"""How long a job that is told to stop may take to end its epochs and write its files."""
RETRY_SECONDS = 2.0
AGENT_SECONDS = 60.0
"""How long a cluster that has just been started may take until a node can run jobs."""
LOST_SECONDS = 600.0
"""How long a cluster may be out of reach before following it is given up."""
EXIT_OF = {JobStatus.SUCCEEDED: 0, JobStatus.STOPPED: 130, JobStatus.FAILED: 1}
"""Where a job's process left no exit code of its own."""
_NO_AGENT = "No available agent"
"""Of what the job server says while the agents of its nodes are starting; no job is made then."""
_ADDRESS_VARIABLES = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
_CUT = (RuntimeError, ConnectionError, OSError, aiohttp.ClientError, requests.RequestException)


@dataclass(frozen=True, kw_only=True)
class SearchJobRequest:
    """What is handed to the cluster."""

    job_id: str
    words: tuple[str, ...]
    """The command that runs there."""
    working_dir: str
    env: Mapping[str, str]
    """Variables of the job; seen by everybody who may look at the cluster's jobs."""

    @property
    def entrypoint(self) -> str:
        """The command as a shell reads it."""
        return shlex.join(self.words)

    @property
    def runtime_env(self) -> dict[str, Any]:
        """Ray's runtime environment, without the working directory."""
        variables = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS), **self.env}
        return {"excludes": list(EXCLUDED), "env_vars": variables}


@dataclass(frozen=True, kw_only=True)
class JobState:
    """Where a job is."""

    job_id: str
    status: str
    message: str
    entrypoint: str
    exit_code: int | None
    """None while it runs."""


class JobClient:
    """Talks to a cluster's job server.

    Args:
        address: its URL, like `http://127.0.0.1:8265`.

    Raises:
        SpecError: there is none, or it wants a token that it is not given.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        # Ray lets these override the address that it is given.
        before = {name: os.environ.pop(name, None) for name in _ADDRESS_VARIABLES}
        try:
            self._client = JobSubmissionClient(address)
        except AuthenticationError as error:
            raise SpecError(_refused(address)) from error
        except Exception as error:  # Ray raises several, some bare
            why = " ".join(str(error).split())[:300]
            raise SpecError(f"--address: no Ray job server at {address}: {why}") from error
        finally:
            os.environ.update({name: value for name, value in before.items() if value is not None})

    def submit(self, request: SearchJobRequest) -> None:
        """Ship the working directory and start the job.

        Raises:
            SpecError: the cluster refuses it.
        """
        deadline = time.monotonic() + AGENT_SECONDS
        while not self._is_taken(request, or_later=time.monotonic() < deadline):
            time.sleep(RETRY_SECONDS)

    def _is_taken(self, request: SearchJobRequest, *, or_later: bool) -> bool:
        try:
            self._client.submit_job(
                entrypoint=request.entrypoint,
                submission_id=request.job_id,
                runtime_env={"working_dir": request.working_dir, **request.runtime_env},
            )
        except AuthenticationError as error:
            raise SpecError(_refused(self.address)) from error
        except (ValueError, *_CUT) as error:
            why = " ".join(str(error).split())[:300]
            if _NO_AGENT in why and or_later:
                return False
            raise SpecError(f"the cluster did not take the job: {why}") from error
        return True

    def follow(
        self,
        job_id: str,
        write: Callable[[str], None],
        note: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> JobState:
        """Write the job's log until it ends, over lost connections.

        Args:
            job_id: the job's.
            write: takes the log, piece by piece, each piece once.
            note: takes a sentence when the cluster is lost, and when it is back.
            clock: seconds that never go back.

        Raises:
            SpecError: the cluster has no such job.
            SearchError: the cluster stayed out of reach.
        """
        shown = 0
        last_contact: float | None = None
        while True:
            try:
                state = self.state(job_id)
                if last_contact is not None:
                    note("the cluster answers again")
                    last_contact = None
                for chunk in self._tail(job_id, shown):
                    shown += len(chunk)
                    write(chunk)
                state = self.state(job_id)
                if state.exit_code is not None:
                    return state
            except AuthenticationError as error:
                raise SpecError(_refused(self.address)) from error
            except _CUT as error:
                if last_contact is None:
                    last_contact = clock()
                    note("the cluster is out of reach; the job may go on, trying again")
                elif clock() - last_contact > LOST_SECONDS:
                    raise SearchError(f"the cluster at {self.address} is gone") from error
            time.sleep(RETRY_SECONDS)

    def state(self, job_id: str) -> JobState:
        """Say where a job is.

        Raises:
            SpecError: the cluster has no such job.
        """
        try:
            info = self._client.get_job_info(job_id)
        except AuthenticationError as error:
            raise SpecError(_refused(self.address)) from error
        except RuntimeError as error:
            if "404" in str(error):
                raise SpecError(f"{self.address} has no job {job_id}") from error
            raise
        exit_code = None
        if info.status.is_terminal():
            known = info.driver_exit_code
            exit_code = EXIT_OF[info.status] if known is None else _as_a_shell_has_it(known)
            if info.status is JobStatus.FAILED and exit_code == 0:
                exit_code = 1
        return JobState(
            job_id=job_id,
            status=str(info.status.value).lower(),
            message=_short(info.message or ""),
            entrypoint=info.entrypoint,
            exit_code=exit_code,
        )

    def states(self) -> list[JobState]:
        """Say where every job is that this cluster knows, the oldest first."""
        jobs = sorted(self._client.list_jobs(), key=lambda job: job.start_time or 0)
        return [self.state(job.submission_id) for job in jobs if job.submission_id]

    def stop(self, job_id: str) -> bool:
        """Tell a job to end; False if it had ended before."""
        self.state(job_id)
        return bool(self._client.stop_job(job_id))

    def _tail(self, job_id: str, skip: int) -> Iterator[str]:
        """Yield the log's pieces from its `skip`th character on, until the job or the line ends."""
        loop = asyncio.new_event_loop()
        stream: Any = self._client.tail_job_logs(job_id)
        position = 0
        try:
            while True:
                try:
                    chunk = loop.run_until_complete(anext(stream))
                except StopAsyncIteration:
                    return
                fresh = chunk[max(0, skip - position) :]
                position += len(chunk)
                if fresh:
                    yield fresh
        finally:
            # After Ctrl-C the stream still waits for its next piece, and cannot be closed.
            with suppress(RuntimeError):
                loop.run_until_complete(stream.aclose())
            loop.close()


def ray_command(request: SearchJobRequest, address: str) -> str:
    """Write what does the same with Ray's own command."""
    return shlex.join(
        [
            "ray", "job", "submit", "--address", address, "--submission-id", request.job_id,
            "--working-dir", request.working_dir,
            "--runtime-env-json", json.dumps(request.runtime_env), "--", *request.words,
        ]
    )  # fmt: skip


def _short(message: str) -> str:
    """Leave out the end of the log, which Ray appends, and say what is behind a common mistake."""
    if "ModuleNotFoundError" in message or "python: not found" in message:
        return (
            "its Python lacks what vpetl_ray needs; start the cluster from the environment that "
            "has it, first on the PATH (docs/cluster.md)"
        )
    return " ".join(message.partition(", last available logs")[0].split())


def _as_a_shell_has_it(code: int) -> int:
    """Turn subprocess's negative signal number into a shell's exit code."""
    return 128 - code if code < 0 else code


def _refused(address: str) -> str:
    return (
        f"{address} refuses this token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, or "
        "RAY_AUTH_TOKEN_PATH, to the cluster's own"
    )
