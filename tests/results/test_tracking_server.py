"""The same against a real `mlflow server` process, which also dies and comes back."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from mlflow import MlflowClient

from vpetl_ray.results.front import front_of
from vpetl_ray.results.tracking import Tracker, TrackingInfo

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
SECONDS_TO_START = 180


class Server:
    """`mlflow server` on loopback, always on the same port and the same database."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
        command += ["--host", "127.0.0.1", "--port", str(self._port)]
        command += ["--backend-store-uri", f"sqlite:///{self._directory / 'server.db'}"]
        command += ["--artifacts-destination", str(self._directory / "artifacts")]
        with (self._directory / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self._directory, start_new_session=True
            )
        deadline = time.monotonic() + SECONDS_TO_START
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=5).close()
            except (urllib.error.URLError, OSError):
                time.sleep(0.5)
            else:
                return
        pytest.fail((self._directory / "server.log").read_text()[-2000:])

    def stop(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)  # its own session: it starts helpers
            self._process.wait(30)
            self._process = None


@pytest.fixture
def server(tmp_path: Path):
    server = Server(tmp_path)
    yield server
    server.stop()


def test_a_server_that_dies_and_comes_back_gets_everything_once(
    server: Server, make_record, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    adapter = tmp_path / "adapter.safetensors"
    adapter.write_bytes(b"weights")
    records = [make_record(i, 1500 + 100 * i, 60.0 + i) for i in range(12)]
    warnings: list[str] = []
    tracker = Tracker(
        TrackingInfo(
            search_id="s1",
            name="demo",
            uri=server.uri,
            experiment="demo",
            spec_text="name: demo\n",
        ),
        warn=warnings.append,
    )
    server.start()
    tracker.start()
    for record in records[:6]:
        tracker.log_trial(record, adapter)
    tracker.update_front(front_of(records[:6]), note="half")
    while tracker.parent_run_id is None:
        time.sleep(0.05)
    server.stop()
    for record in records[6:]:
        tracker.log_trial(record, adapter)
    tracker.update_front(front_of(records), note="all")
    while not warnings:
        time.sleep(0.05)
    server.start()
    report = tracker.finish("FINISHED", timeout=240)

    assert (report.delivered, report.undelivered, report.is_complete) == (12, 0, True)
    assert report.ui_command == server.uri
    assert len(warnings) == 1
    assert capfd.readouterr() == ("", "")
    client = MlflowClient(server.uri)
    experiment = client.get_experiment_by_name("demo")
    assert len(client.search_runs([experiment.experiment_id])) == 13
    front = client.search_runs([experiment.experiment_id], "tags.pareto = 'true'")
    assert {run.data.tags["vpetl.trial_id"] for run in front} == {r.id for r in front_of(records)}
    for run in front:
        (artifact,) = client.list_artifacts(run.info.run_id)
        assert artifact.path == "adapter.safetensors"
        history = client.get_metric_history(run.info.run_id, "top1")
        assert [point.step for point in history] == [1, 2, 3]
