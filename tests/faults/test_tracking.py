"""A search whose MLflow is away, slow or broken, and what is told later: each trial once."""

import json
import resource
import subprocess
import sys
import time
from collections import Counter

import pytest
import typer
from mlflow import MlflowClient
from typer.testing import CliRunner

from tests.faults.faulty_proxy import FaultyProxy
from tests.faults.searches import finished, wait_until
from tests.local_server import mlflow_server
from tests.results.conftest import make_record
from vpetl_ray.errors import SearchError
from vpetl_ray.results.records import TrialState
from vpetl_ray.results.tracking import Tracker, TrackingInfo
from vpetl_ray.results.tracking_uri import store_in
from vpetl_ray.results.waiting_records import WAITING_FILE, WaitingRecords, read_waiting
from vpetl_ray.sync import sync as sync_door

__all__ = ["make_record"]

PASSWORD = "hunter2-of-the-tests"
FEW = ("--set", "search.trials=3", "--set", "training.epochs=1", "--set", "training.probe_epochs=1")
pytestmark = pytest.mark.timeout(240)


def told(uri):
    """How often each trial is in a store, and the states of the runs above them."""
    client = MlflowClient(uri)
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    trials = Counter(r.data.tags["vpetl.trial_id"] for r in runs if "vpetl.trial_id" in r.data.tags)
    return trials, [r.info.status for r in runs if "vpetl.trial_id" not in r.data.tags]


def sync(out, *words):
    """Run it beside the results: MLflow puts artifacts of a store of the user's own where it is."""
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "vpetl_ray.sync", str(out), *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=out.parent,
    )


def count(record_fault, fault, out, trials, seconds):
    expected = finished(out)
    record_fault(
        fault,
        lost=len(set(expected) - set(trials)),
        doubled=sum(number > 1 for number in trials.values()),
        seconds=[seconds],
    )
    assert trials == Counter(expected)
    assert expected


def test_a_server_that_only_answers_500_costs_nothing_and_is_told_later(
    start, project, record_fault
):
    """And its password is nowhere: not in what is said, not in any file, not in MLflow."""
    out = project / "out"
    with FaultyProxy(mode="500") as proxy:
        uri = f"http://tester:{PASSWORD}@127.0.0.1:{proxy.port}"
        search = start("--out", out, *FEW, MLFLOW_TRACKING_URI=uri, MY_API_TOKEN=PASSWORD)
        assert search.wait() == 0, search.said
        assert proxy.num_asked > 1
    assert len(finished(out)) == 3
    assert f"python -m vpetl_ray.sync {out}" in search.said
    assert search.said.count("cannot be written to") == 1
    hidden = PASSWORD.encode()
    holders = [p for p in (*out.rglob("*"), *project.iterdir()) if p.is_file()]
    assert [p for p in holders if hidden in p.read_bytes()] == []
    assert len(holders) > 5

    # Without the password it is known which server it was, and that it needs one.
    refused = sync(out)
    assert refused.returncode == 1
    assert "tester:***@127.0.0.1" in refused.stderr
    store, _ = store_in(project)
    before = time.monotonic()
    first = sync(out, "--tracking-uri", store)
    assert first.returncode == 0, first.stderr
    assert "MLflow has all 3" in first.stdout
    trials, statuses = told(store)
    count(record_fault, "MLflow answers 500 for good", out, trials, time.monotonic() - before)
    assert statuses == ["FINISHED"]
    assert not (out / WAITING_FILE).exists()
    assert PASSWORD.encode() not in (project / "mlflow.db").read_bytes()
    again = sync(out, "--tracking-uri", store)
    assert (again.returncode, "nothing waits" in again.stdout) == (0, True)


def test_what_waits_outlives_a_process_that_is_killed(tmp_path, make_record):
    """A line cut off in the middle, and going on behind it; the folder may have been moved."""
    (tmp_path / "adapters").mkdir()
    adapter = tmp_path / "adapters" / "t0000.safetensors"
    adapter.write_bytes(b"weights")
    uri = f"http://tester:{PASSWORD}@127.0.0.1:9"
    info = TrackingInfo(search_id="s1", name="x", uri=uri, experiment="x", spec_text="name: x\n")
    killed = Tracker(info, directory=tmp_path)
    killed.log_trial(make_record(0, 1500), adapter)
    killed.log_trial(make_record(1, 1600))
    path = tmp_path / WAITING_FILE
    path.write_bytes(path.read_bytes()[:-20])
    Tracker(info, directory=tmp_path).log_trial(make_record(2, 1700))
    assert PASSWORD not in path.read_text()
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    waiting = read_waiting(moved, "http://127.0.0.1:9")
    assert list(waiting.trials) == ["t0000", "t0002"]
    assert waiting.trials["t0000"] == (make_record(0, 1500), moved / "adapters" / adapter.name)
    assert (waiting.status, waiting.info.uri) == ("KILLED", "http://127.0.0.1:9")


SUMMARY = {"front": [], "metrics": {}, "files": [], "note": ""}


@pytest.mark.parametrize(
    "line",
    [
        "[" * 100_000,
        "3",
        '"format"',
        json.dumps({"format": 1, "info": []}),
        json.dumps({"trial": "x", "adapter": None}),
        json.dumps({"trial": [], "adapter": None}),
        json.dumps({"trial": {}, "adapter": 1}),
        json.dumps({"trial": {"id": 1}, "adapter": None}),
        json.dumps({"summary": {"metrics": {}, "files": [], "note": ""}}),
        json.dumps({"summary": {**SUMMARY, "metrics": {"a": "b"}}}),
        json.dumps({"summary": {**SUMMARY, "files": [1]}}),
        json.dumps({"summary": {**SUMMARY, "note": 5}}),
        json.dumps({"registration": {"name": "x", "members": [1], "aliases": {}}}),
        json.dumps({"status": "ASLEEP"}),
        json.dumps({"status": 5}),
    ],
    ids=lambda line: line[:60],
)
def test_a_line_of_another_shape_is_refused(tmp_path, line):
    uri = "http://127.0.0.1:9"
    info = TrackingInfo(search_id="s1", name="x", uri=uri, experiment="x", spec_text="")
    WaitingRecords(tmp_path, info).close(is_delivered=False)
    assert read_waiting(tmp_path) is not None
    with (tmp_path / WAITING_FILE).open("a") as file:
        file.write(line + "\n")
    with pytest.raises(SearchError, match=r"is damaged|cannot be read"):
        read_waiting(tmp_path)


def test_a_disk_without_room_for_what_waits_is_no_end(tmp_path, make_record):
    """The search goes on, and MLflow is told as before."""
    uri = "http://127.0.0.1:9"
    info = TrackingInfo(search_id="s1", name="x", uri=uri, experiment="x", spec_text="")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        tracker = Tracker(info, directory=tmp_path)
        for number in range(3):
            tracker.log_trial(make_record(number))
        report = tracker.finish("KILLED", timeout=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert report.undelivered == 3
    assert (tmp_path / WAITING_FILE).stat().st_size <= 1000


@pytest.mark.parametrize(
    ("make", "sentence", "code"),
    [
        (lambda folder: None, "is no results folder", 2),
        (lambda folder: (folder / "spec.yaml").touch(), "nothing waits", 0),
        (
            lambda folder: [(folder / n).write_text("{}\n") for n in ("spec.yaml", WAITING_FILE)],
            "is damaged",
            1,
        ),
    ],
    ids=["no folder of results", "nothing waits", "damaged"],
)
def test_sync_says_what_it_found(tmp_path, make, sentence, code):
    door = typer.Typer()
    door.command()(sync_door)
    make(tmp_path)
    result = CliRunner().invoke(door, [str(tmp_path)])
    assert (result.exit_code, sentence in " ".join(result.output.split())) == (code, True)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mlflow")
    with mlflow_server(folder / "server.db", folder) as uri:
        yield uri


@pytest.mark.faults
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("fault", "first", "then", "last"),
    [
        ("MLflow away at the start", "500", "pass", "pass"),
        ("MLflow away in the middle", "pass", "hang", "pass"),
        ("MLflow loses its answers", "cut", "cut", "pass"),
        ("MLflow slow", "slow", "slow", "pass"),
    ],
)
def test_a_real_server_that_fails_for_a_while_has_each_trial_once(
    start, project, server, record_fault, fault, first, then, last
):
    out = project / "out"
    with FaultyProxy(server, first) as proxy:
        before = time.monotonic()
        search = start("--out", out, *FEW, "--set", f"tracking.experiment={fault}",
                       MLFLOW_TRACKING_URI=proxy.uri)  # fmt: skip
        wait_until(lambda: proxy.num_asked > 2, 200, lambda: search.said)
        proxy.mode = then
        wait_until(lambda: len(finished(out)) > 1, 200, lambda: search.said)
        proxy.mode = last
        assert search.wait() == 0, search.said
        seconds = time.monotonic() - before
        if (out / WAITING_FILE).exists():
            assert sync(out).returncode == 0
    client = MlflowClient(server)
    experiment = client.get_experiment_by_name(fault)
    runs = client.search_runs([experiment.experiment_id])
    ids = [run.data.tags["vpetl.trial_id"] for run in runs if "vpetl.trial_id" in run.data.tags]
    count(record_fault, fault, out, Counter(ids), seconds)
    assert TrialState.COMPLETE.value in {run.data.tags.get("state") for run in runs}
