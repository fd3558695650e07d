"""Handing a job to a cluster whose nodes cannot run any yet."""

import asyncio
import os
import signal
import threading

import pytest

from vpetl_ray.errors import SpecError
from vpetl_ray.tuning import job_client
from vpetl_ray.tuning.job_client import JobClient, SearchJobRequest

STARTING = "Request failed with status code 500: No available agent to submit job, try again."
REQUEST = SearchJobRequest(job_id="a", words=("python",), working_dir=".", env={})


class Server:
    """Ray's client of a job server that refuses so many times; a real one does so by chance."""

    def __init__(self, refusals: list[str]) -> None:
        self.refusals = refusals
        self.taken: list[str] = []

    def submit_job(self, *, submission_id: str, **_: object) -> None:
        if self.refusals:
            raise RuntimeError(self.refusals.pop(0))
        self.taken.append(submission_id)


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> JobClient:
    monkeypatch.setattr(job_client, "RETRY_SECONDS", 0.0)
    client = JobClient.__new__(JobClient)
    client.address = "http://127.0.0.1:8265"
    return client


def test_a_cluster_that_has_just_been_started_is_asked_again(client: JobClient):
    server = client._client = Server([STARTING] * 3)
    client.submit(REQUEST)
    assert server.taken == ["a"]


@pytest.mark.parametrize(
    ("refusals", "seconds"), [(["no such image"], 60.0), ([STARTING] * 9, -1.0)],
    ids=["another reason", "too long"],
)  # fmt: skip
def test_a_cluster_that_does_not_take_a_job_is_one_sentence(
    client: JobClient, refusals: list[str], seconds: float, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(job_client, "AGENT_SECONDS", seconds)
    server = client._client = Server(list(refusals))
    with pytest.raises(SpecError, match="did not take the job"):
        client.submit(REQUEST)
    assert server.taken == []
    assert len(server.refusals) == len(refusals) - 1


def test_ctrl_c_ends_the_following_of_a_log_that_says_nothing(client: JobClient):
    class Quiet:
        async def tail_job_logs(self, job_id: str):
            yield "begun"
            await asyncio.sleep(60)

    client._client = Quiet()
    pieces = client._tail("a", 0)
    assert next(pieces) == "begun"
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        next(pieces)
