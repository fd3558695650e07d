"""A door: `python -m vpetl_ray.submit SPEC.yaml --address URL` searches as a job of a cluster."""

from __future__ import annotations

import os
import re
import secrets
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vpetl_ray.door_options import refuse_secrets
from vpetl_ray.errors import SearchError, SpecError, VpetlError
from vpetl_ray.exits import EXIT_FAILED, EXIT_INPUT, fail
from vpetl_ray.spec.load import load_spec
from vpetl_ray.stop_signals import exit_code

if TYPE_CHECKING:
    from vpetl_ray.tuning.job_client import JobClient, JobState

COMMANDS = ("submit", "attach", "status", "stop")
_SECRET = re.compile(r"TOKEN|PASSWORD|PASSWD|SECRET|CREDENTIAL|API_?KEY|ACCESS_KEY|PRIVATE")
_JOB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

JobAddress = Annotated[
    str,
    typer.Option(
        envvar=["RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"],
        help="The cluster's job server, which is its dashboard.",
    ),
]
DEFAULT_ADDRESS = "http://127.0.0.1:8265"
JobId = Annotated[str, typer.Argument(metavar="JOB", help="The job's id.", show_default=False)]


def submit(
    spec: Annotated[Path, typer.Argument(help="The search space file (YAML).", show_default=False)],
    address: JobAddress = DEFAULT_ADDRESS,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY.PATH=VALUE", help="Override a value of the file."),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            help="Results folder, as the cluster's head sees it; relative, it is one of here.",
            show_default="$VPETL_RUNS/NAME there",
        ),
    ] = None,
    trials: Annotated[int | None, typer.Option(help="Configs to train.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the search there.")] = False,
    tracking_uri: Annotated[
        str | None, typer.Option(help="MLflow's server, as the cluster's head reaches it.")
    ] = None,
    working_dir: Annotated[
        Path, typer.Option(help="Shipped to the cluster; the spec lies in it.")
    ] = Path(),
    env: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="A variable of the job; never a secret."),
    ] = None,
    job_id: Annotated[
        str | None, typer.Option(help="The job's id.", show_default="the name and a number")
    ] = None,
    wait: Annotated[
        bool, typer.Option(help="Follow the log, end with the job's exit code.")
    ] = True,
) -> None:
    """Search on a Ray cluster, as a job that goes on when this terminal is gone.

    `attach JOB`, `status [JOB]` and `stop JOB` in place of the spec follow it again, say where it
    is, and end it. Exit codes are the search's own; 2 also if the cluster did not take it; 130 if
    following it was interrupted, or it was stopped.
    """
    words = ["python", "-m", "vpetl_ray.search"]
    try:
        loaded = load_spec(spec, overrides or [])
        words += [_inside(spec, working_dir)]
        job = _checked_id(job_id or f"{_slug(loaded.name)}-{secrets.token_hex(3)}")
        variables = _variables(env or [])
        refuse_secrets({"--out": out, "--tracking-uri": tracking_uri, "--address": address})
        if not address.startswith(("http://", "https://")):
            raise SpecError(
                f"--address: must be the URL of the job server, like {DEFAULT_ADDRESS}, "
                f"got {address}"
            )
    except VpetlError as error:
        fail(str(error), EXIT_INPUT)
    for override in overrides or []:
        words += ["--set", override]
    options = {"--out": _absolute(out), "--trials": trials, "--tracking-uri": tracking_uri}
    words += [str(w) for name, value in options.items() if value is not None for w in (name, value)]
    words += ["--resume"] if resume else []
    from vpetl_ray.tuning.job_client import SearchJobRequest, ray_command  # noqa: PLC0415 - slow

    request = SearchJobRequest(
        job_id=job, words=tuple(words), working_dir=str(working_dir), env=variables
    )
    typer.echo(f"the same by Ray's own command:\n  {ray_command(request, address)}", err=True)
    try:
        client = _client(address)
        client.submit(request)
    except VpetlError as error:
        fail(str(error), EXIT_INPUT)
    typer.echo(f"job {job} is submitted", err=True)
    for command in ("attach", "stop"):
        typer.echo(f"  {command}: {_again(command, job, address)}", err=True)
    if wait:
        _follow(client, job)


def attach(job: JobId, address: JobAddress = DEFAULT_ADDRESS) -> None:
    """Follow a job's log from its start, and end with its exit code."""
    try:
        client = _client(address)
        client.state(job)
    except VpetlError as error:
        fail(str(error), EXIT_INPUT)
    _follow(client, job)


def status(
    job: Annotated[
        str | None, typer.Argument(metavar="JOB", help="The job's id.", show_default="all")
    ] = None,
    address: JobAddress = DEFAULT_ADDRESS,
) -> None:
    """Say where a job is, or all of them. Exit code 0 whatever became of it."""
    try:
        client = _client(address)
        states = client.states() if job is None else [client.state(job)]
    except VpetlError as error:
        fail(str(error), EXIT_INPUT)
    for state in states:
        typer.echo(_line(state))


def stop(job: JobId, address: JobAddress = DEFAULT_ADDRESS) -> None:
    """End a job in order: running trials end their epoch, and `--resume` goes on from there."""
    try:
        client = _client(address)
        was_running = client.stop(job)
    except VpetlError as error:
        fail(str(error), EXIT_INPUT)
    typer.echo(f"{job} is told to stop" if was_running else _line(client.state(job)))


def _follow(client: JobClient, job: str) -> None:
    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    try:
        state = client.follow(job, write, lambda text: typer.echo(text, err=True))
    except SearchError as error:
        fail(f"{error}; {_again('attach', job, client.address)}", EXIT_FAILED)
    except VpetlError as error:
        fail(str(error), EXIT_INPUT)
    except KeyboardInterrupt:
        fail(
            f"\nthe job goes on; follow it again: {_again('attach', job, client.address)}",
            exit_code(),
        )
    typer.echo(_line(state), err=True)
    raise typer.Exit(state.exit_code or 0)


def _client(address: str) -> JobClient:
    from vpetl_ray.tuning.job_client import JobClient  # noqa: PLC0415 - Ray's import takes seconds

    refuse_secrets({"--address": address})
    return JobClient(address)


def _inside(spec: Path, working_dir: Path) -> str:
    """Give the spec's path as the job has it."""
    root = working_dir.resolve()
    if not root.is_dir():
        raise SpecError(f"--working-dir: {working_dir} is not a folder")
    try:
        return spec.resolve().relative_to(root).as_posix()
    except ValueError:
        raise SpecError(
            f"--working-dir: {spec} must lie in {root}, which is what is shipped to the cluster"
        ) from None


def _absolute(out: str | None) -> str | None:
    """A job's own working directory is a copy that Ray throws away."""
    return out if out is None or "://" in out else str(Path(out).absolute())


def _variables(given: list[str]) -> dict[str, str]:
    variables = {}
    for entry in given:
        name, sign, value = entry.partition("=")
        if not (sign and name.isidentifier()):
            raise SpecError(f"--env: must be NAME=VALUE, got {name!r}")
        if _SECRET.search(name.upper()):
            raise SpecError(
                f"--env: {name} looks like a secret, and a job's variables are shown to everybody "
                "on the dashboard; set it in the environment of the cluster's head instead"
            )
        refuse_secrets({f"--env {name}": value})
        variables[name] = value
    return variables


def _checked_id(job: str) -> str:
    if not _JOB_ID.fullmatch(job):
        raise SpecError(f"--job-id: letters, digits, '.', '_' and '-' alone, got {job!r}")
    return job


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:60] or "search"


def _again(command: str, job: str, address: str) -> str:
    return shlex.join(["python", "-m", "vpetl_ray.submit", command, job, "--address", address])


def _line(state: JobState) -> str:
    code = "" if state.exit_code is None else f" (exit code {state.exit_code})"
    about = f": {state.message}" if state.message else ""
    return f"{state.job_id} {state.status}{code}{about}"


def main() -> None:
    """Run the command; also installed as `vpetl-submit`."""
    words = sys.argv[1:]
    if words and words[0] not in (*COMMANDS, "--help"):
        words = ["submit", *words]
    elif words[:1] == ["--help"]:
        words = ["submit", "--help"]
    os.environ.setdefault("RAY_LOG_TO_STDERR", "0")
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    for command in (submit, attach, status, stop):
        app.command()(command)
    app(args=words or ["submit", "--help"], prog_name="python -m vpetl_ray.submit")


if __name__ == "__main__":
    main()
