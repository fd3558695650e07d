"""A search told to a real SQLite store, with the failures a store and a network can have."""

import json
import re
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from vpetl_ray.results import mlflow_writer
from vpetl_ray.results import tracking as tracking_module
from vpetl_ray.results.front import front_of
from vpetl_ray.results.records import EpochRow, TrialState
from vpetl_ray.results.tracking import Tracker, TrackingInfo
from vpetl_ray.results.tracking_uri import store_in

EXPERIMENT = "demo"


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow takes seconds to make a database: it is made once and copied."""
    directory = tmp_path_factory.mktemp("store")
    MlflowClient(store_in(directory)[0]).search_experiments()
    return directory / "mlflow.db"


@pytest.fixture
def info(tmp_path: Path, empty_store: Path) -> TrackingInfo:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    uri, artifact_location = store_in(tmp_path)
    return TrackingInfo(
        search_id="s1",
        name="position_scale",
        uri=uri,
        artifact_location=artifact_location,
        experiment=EXPERIMENT,
        spec_text="name: position_scale\n",
        settings={"budget": 34_409, "deterministic": True, "unset": None},
        environment={"python": "3.11.7", "git_commit": "abc"},
        description="Starting.",
    )


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_FIRST_PAUSE", "_LONGEST_PAUSE", "_LONGEST_PAUSE_AT_END"):
        monkeypatch.setattr(tracking_module, name, 0.05)


@pytest.fixture
def started(info: TrackingInfo) -> Iterator[Callable[..., Tracker]]:
    """Start trackers whose warnings are kept, and end what a test leaves running."""
    trackers = []

    def start(**changes: object) -> Tracker:
        warnings: list[str] = []
        values = {field: getattr(info, field) for field in info.__dataclass_fields__}
        tracker = Tracker(TrackingInfo(**{**values, **changes}), warn=warnings.append)
        tracker.warnings = warnings
        tracker.start()
        trackers.append(tracker)
        return tracker

    yield start
    for tracker in trackers:
        tracker.finish("KILLED", timeout=0.0)


def client_of(info: TrackingInfo) -> MlflowClient:
    return MlflowClient(info.uri)


def runs_of(info: TrackingInfo, query: str = "", order: str = "tags.`vpetl.trial_id`") -> list[Run]:
    client = client_of(info)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    return list(client.search_runs([experiment.experiment_id], query, order_by=[order]))


def children_of(info: TrackingInfo, query: str = "") -> dict[str, Run]:
    runs = [run for run in runs_of(info, query) if "vpetl.trial_id" in run.data.tags]
    ids = [run.data.tags["vpetl.trial_id"] for run in runs]
    assert len(ids) == len(set(ids)), "a trial has one run"
    return dict(zip(ids, runs, strict=True))


def parent_of(info: TrackingInfo) -> Run:
    (parent,) = runs_of(info, "tags.`vpetl.search_id` = 's1'")
    return parent


def artifacts_of(info: TrackingInfo, run: Run) -> set[str]:
    return {entry.path for entry in client_of(info).list_artifacts(run.info.run_id)}


def test_a_search_becomes_a_parent_run_with_a_child_for_each_trial(
    info, started, make_record, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    figure = tmp_path / "front.png"
    figure.write_bytes(b"png")
    records = [
        make_record(0, 1500, 66.0, name="linear probe"),
        make_record(1, 9000, 40.0, TrialState.STOPPED),
        make_record(2, 9500, None, TrialState.FAILED, reason="the loss became NaN in epoch 2"),
        make_record(3, 99_000, None, TrialState.INFEASIBLE, curve=(), seconds=0.0, epochs=0),
    ]
    tracker = started()
    for record in records:
        tracker.log_trial(record)
    tracker.update_front(front_of(records), files=[figure], note="Front of 1: **t0000**.")
    report = tracker.finish("FINISHED")

    assert (report.delivered, report.undelivered, report.is_complete) == (3, 0, True)
    assert report.problem is None
    assert tracker.warnings == []
    assert capfd.readouterr() == ("", ""), "MLflow says nothing on the terminal"

    parent = parent_of(info)
    assert parent.info.run_id == report.parent_run_id
    assert report.ui_page is not None
    assert report.ui_page.startswith("http://127.0.0.1:5000/#/experiments/")
    assert parent.info.run_id in report.ui_page
    assert (parent.info.run_name, parent.info.status) == ("position_scale", "FINISHED")
    assert parent.data.params == {"budget": "34409", "deterministic": "true"}
    assert parent.data.tags["env.python"] == "3.11.7"
    assert parent.data.tags["mlflow.source.git.commit"] == "abc"
    assert parent.data.tags["mlflow.note.content"].startswith("Front of 1: **t0000**.")
    assert "#/experiments/" in parent.data.tags["mlflow.note.content"]
    assert parent.data.metrics["trials_complete"] == 1
    assert parent.data.metrics["trials_infeasible"] == 1
    assert parent.data.metrics["best_top1"] == 66.0
    assert artifacts_of(info, parent) == {"spec.yaml", "environment.json", "front.png"}

    children = children_of(info)
    assert [run.info.run_name for run in children.values()] == [
        "t0000 linear probe",
        "t0001 patt kv d8 s0.8",
        "t0002 patt kv d8 s0.8",
    ]
    assert [run.info.status for run in children.values()] == ["FINISHED", "FINISHED", "FAILED"]
    assert [run.data.tags["state"] for run in children.values()] == [
        "complete",
        "stopped",
        "failed",
    ]
    assert all(
        run.data.tags["mlflow.parentRunId"] == parent.info.run_id for run in children.values()
    )
    assert children["t0002"].data.tags["reason"] == "the loss became NaN in epoch 2"


def test_the_description_links_to_pages_that_exist(info, started) -> None:
    tracker = started(columns=["petl.patt.d_bottle"])
    tracker.update_front([], note="Trials: none yet.\n\nWhere to adapt.")
    tracker.finish("FINISHED")
    first, links, rest = parent_of(info).data.tags["mlflow.note.content"].split("\n\n")
    assert (first, rest) == ("Trials: none yet.", "Where to adapt.")
    tags = client_of(info).get_experiment_by_name(EXPERIMENT).tags
    keys = re.findall(r"viewStateShareKey=([\w-]+)", links)
    assert len(keys) == 3
    states = [json.loads(tags[f"mlflow.sharedViewState.{key}"]) for key in keys]
    assert "tags.pareto = 'true'" in states[0]["searchFilter"]
    assert "params.`petl.patt.d_bottle`" in states[0]["selectedColumns"]
    assert states[2]["compareRunCharts"][0]["type"] == "SCATTER"
    assert all(len(value) < 5000 for value in tags.values())


def test_a_trial_keeps_its_config_its_curves_and_its_price(info, started, make_record) -> None:
    curve = (
        EpochRow(epoch=1, top1=50.0, loss=2.0, train_loss=float("nan"), seconds=2.0),
        EpochRow(epoch=2, top1=60.0, loss=1.5, train_loss=1.4, seconds=3.0),
    )
    tracker = started()
    tracker.log_trial(
        make_record(0, 1500, 60.0, curve=curve, loss=1.5, epochs=2, seconds=5.0, test_top1=58.0)
    )
    tracker.finish("FINISHED")
    run = children_of(info)["t0000"]
    assert run.data.params == {
        "petl.patt.targets": "kv",
        "petl.patt.d_bottle": "8",
        "petl.patt.scale": "0.8",
        "petl.adapter.enabled": "false",
        "training.learning_rate": "0.01",
    }
    assert run.data.metrics == {
        "top1": 60.0,
        "loss": 1.5,
        "train_loss": 1.4,
        "trainable_params": 1500.0,
        "epochs": 2.0,
        "seconds": 5.0,
        "test_top1": 58.0,
        "ppt": pytest.approx(59.996, abs=1e-3),
    }
    history = client_of(info).get_metric_history(run.info.run_id, "top1")
    assert [(point.step, point.value) for point in history] == [(1, 50.0), (2, 60.0)]
    assert history[1].timestamp - history[0].timestamp == 3000
    assert [p.step for p in client_of(info).get_metric_history(run.info.run_id, "train_loss")] == [
        2
    ]
    assert run.info.end_time - run.info.start_time == 5000


def test_the_filter_for_the_pareto_tag_follows_the_front(info, started, make_record) -> None:
    records = [
        make_record(i, params, top1)
        for i, (params, top1) in enumerate(
            [(1500, 60.0), (5000, 55.0), (9000, 70.0), (4000, 72.0), (20_000, 80.0)]
        )
    ]
    tracker = started()
    for end in range(1, len(records) + 1):
        tracker.log_trial(records[end - 1])
        tracker.update_front(front_of(records[:end]))
    tracker.finish("FINISHED")
    found = children_of(info, "tags.pareto = 'true'")
    assert set(found) == {record.id for record in front_of(records)} == {"t0000", "t0003", "t0004"}
    by_price = runs_of(info, "tags.pareto = 'true'", "metrics.trainable_params")
    assert [run.data.metrics["trainable_params"] for run in by_price] == [1500, 4000, 20_000]


def test_only_tags_that_change_are_written(info, make_record, monkeypatch) -> None:
    writer = mlflow_writer.MlflowWriter(info)
    for number in range(3):
        writer.write_trial(make_record(number), pareto=number == 0)
    written = []
    monkeypatch.setattr(
        MlflowClient, "set_tag", lambda _self, _run, key, value: written.append((key, value))
    )
    for front in (["t0000"], ["t0000", "t0002"], ["t0002"], ["t0002"]):
        writer.write_pareto(front)
    assert written == [("pareto", "true"), ("pareto", "false")]


def test_adapter_weights_are_kept_for_the_front_alone(
    info, started, make_record, tmp_path: Path
) -> None:
    tracker = started()
    records = [make_record(0, 1500, 60.0), make_record(1, 5000, 55.0), make_record(2, 9000, 70.0)]
    for record in records:
        path = tmp_path / f"{record.id}.safetensors"
        path.write_bytes(b"weights")
        tracker.log_trial(record, path)
    tracker.update_front(front_of(records))
    tracker.finish("FINISHED")
    kept = {trial: artifacts_of(info, run) for trial, run in children_of(info).items()}
    assert kept == {"t0000": {"t0000.safetensors"}, "t0001": set(), "t0002": {"t0002.safetensors"}}


def test_an_adapter_file_that_is_gone_holds_nothing_up(
    info, started, make_record, tmp_path: Path
) -> None:
    tracker = started()
    tracker.log_trial(make_record(0), tmp_path / "gone.safetensors")
    tracker.update_front([make_record(0)])
    report = tracker.finish("FINISHED")
    assert report.is_complete
    assert "the adapter file of t0000 is gone" in tracker.warnings[0]


@pytest.mark.parametrize("infeasible_runs", [False, True])
def test_infeasible_trials_are_counted_and_are_runs_only_when_asked_for(
    info, started, make_record, infeasible_runs: bool
) -> None:
    tracker = started(infeasible_runs=infeasible_runs)
    tracker.log_trial(make_record(0))
    tracker.log_trial(make_record(1, 99_000, None, TrialState.INFEASIBLE, curve=()))
    report = tracker.finish("FINISHED")
    assert len(children_of(info)) == report.delivered == 1 + infeasible_runs
    assert parent_of(info).data.metrics["trials_infeasible"] == 1


def test_a_search_that_goes_on_doubles_nothing(info, started, make_record) -> None:
    records = [make_record(i, 1500 + i, 60.0 + i) for i in range(3)]
    first = started()
    for record in records[:2]:
        first.log_trial(record)
    first.update_front(front_of(records[:2]))
    assert first.finish("KILLED").is_complete
    assert parent_of(info).info.status == "KILLED"

    second = started()
    known_better = make_record(1, 1501, 61.0, test_top1=59.0)
    for record in (records[0], known_better, records[2]):
        second.log_trial(record)
    second.update_front(front_of(records))
    report = second.finish("FINISHED")

    assert (report.delivered, report.undelivered) == (3, 0)
    assert report.parent_run_id == first.parent_run_id
    assert parent_of(info).info.status == "FINISHED"
    children = children_of(info)
    assert set(children) == {"t0000", "t0001", "t0002"}
    assert children["t0001"].data.metrics["test_top1"] == 59.0
    history = client_of(info).get_metric_history(children["t0001"].info.run_id, "top1")
    assert [point.step for point in history] == [1, 2, 3]


def test_another_search_of_the_experiment_has_its_own_parent(info, started, make_record) -> None:
    for search_id in ("s1", "s2"):
        tracker = started(search_id=search_id)
        tracker.log_trial(make_record(0))
        tracker.finish("FINISHED")
    runs = runs_of(info)
    assert Counter("mlflow.parentRunId" in run.data.tags for run in runs) == {True: 2, False: 2}


@pytest.mark.parametrize("call", ["create_run", "log_batch", "set_terminated", "set_tag"])
def test_an_answer_that_is_lost_doubles_nothing(
    info, started, make_record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Each call does its work, and then the line breaks: twice for every call."""
    real, calls = getattr(MlflowClient, call), Counter()

    def lossy(*arguments: object, **options: object) -> object:
        result = real(*arguments, **options)
        calls[call] += 1
        if calls[call] % 3:
            raise ConnectionError("the line broke")
        return result

    monkeypatch.setattr(MlflowClient, call, lossy)
    records = [make_record(i, 1500 + i, 60.0 + i) for i in range(3)]
    adapter = tmp_path / "adapter.safetensors"
    adapter.write_bytes(b"weights")
    tracker = started()
    for end in (1, 3):
        for record in records[end - 1 : end]:
            tracker.log_trial(record, adapter)
        tracker.update_front(front_of(records[:end]))
    tracker.log_trial(records[1], adapter)
    report = tracker.finish("FINISHED")
    monkeypatch.undo()

    assert report.is_complete
    assert len(tracker.warnings) == 1
    assert "the line broke" in tracker.warnings[0]
    assert len(children_of(info)) == 3
    assert len(children_of(info, "tags.pareto = 'true'")) == 3
    for run in children_of(info).values():
        history = client_of(info).get_metric_history(run.info.run_id, "top1")
        assert [point.step for point in history] == [1, 2, 3]


def test_a_server_that_is_not_there_costs_one_warning_and_is_reported(
    started, make_record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    tracker = started(uri="http://ann:hunter22@127.0.0.1:9")
    for number in range(5):
        tracker.log_trial(make_record(number))
    tracker.update_front([make_record(0)], note="x")
    report = tracker.finish("FINISHED", timeout=2.0)
    assert (report.delivered, report.undelivered, report.is_complete) == (0, 5, False)
    assert report.parent_run_id is None
    assert report.ui_command == "http://ann:***@127.0.0.1:9"
    (warning,) = tracker.warnings
    assert warning.startswith("MLflow at http://ann:***@127.0.0.1:9 cannot be written to: ")
    assert "hunter22" not in warning + (report.problem or "")


def test_what_waited_is_delivered_when_the_store_comes_back(
    info, started, make_record, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, is_down, tried = mlflow_writer.MlflowWriter, threading.Event(), threading.Event()
    is_down.set()

    def connect(info: TrackingInfo) -> mlflow_writer.MlflowWriter:
        if is_down.is_set():
            tried.set()
            raise ConnectionError("nobody answers")
        return real(info)

    monkeypatch.setattr(mlflow_writer, "MlflowWriter", connect)
    tracker = started()
    for number in range(4):
        tracker.log_trial(make_record(number))
    assert tried.wait(30)
    is_down.clear()
    report = tracker.finish("FINISHED")
    assert (report.delivered, report.undelivered, report.is_complete) == (4, 0, True)
    assert len(tracker.warnings) == 1
    assert len(children_of(info)) == 4


def test_a_store_that_hangs_does_not_hold_the_caller(
    started, make_record, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_over = threading.Event()
    monkeypatch.setattr(mlflow_writer, "MlflowWriter", lambda _info: is_over.wait(60))
    tracker = started()
    for number in range(1000):
        tracker.log_trial(make_record(number))
    report = tracker.finish("FINISHED", timeout=0.2)
    is_over.set()
    assert (report.delivered, report.undelivered) == (0, 1000)


def test_a_record_that_mlflow_refuses_does_not_hold_up_the_others(
    info, started, make_record, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = mlflow_writer.MlflowWriter.write_trial

    def refuse_the_first(self: object, record: object, **options: object) -> None:
        if record.id == "t0000":
            raise MlflowException("a bad name", error_code=1000)  # INVALID_PARAMETER_VALUE
        real(self, record, **options)

    monkeypatch.setattr(mlflow_writer.MlflowWriter, "write_trial", refuse_the_first)
    tracker = started()
    for number in range(3):
        tracker.log_trial(make_record(number))
    report = tracker.finish("FINISHED")
    assert (report.delivered, report.undelivered, report.is_complete) == (2, 1, False)
    assert set(children_of(info)) == {"t0001", "t0002"}


def test_long_records_are_written_in_batches_that_mlflow_takes(
    info, started, make_record, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, sizes = MlflowClient.log_batch, []

    def spy(self, run_id, metrics=(), params=(), tags=()) -> None:
        sizes.append((len(metrics), len(params), len(metrics) + len(params) + len(tags)))
        real(self, run_id, metrics=metrics, params=params, tags=tags)

    monkeypatch.setattr(MlflowClient, "log_batch", spy)
    config = {f"petl.patt.block.{block}": block for block in range(230)}
    curve = tuple(
        EpochRow(epoch=e, top1=50.0, loss=1.0, train_loss=1.0, seconds=0.1) for e in range(1, 701)
    )
    tracker = started()
    tracker.log_trial(make_record(0, top1=50.0, loss=1.0, config=config, curve=curve, epochs=700))
    assert tracker.finish("FINISHED").is_complete
    run = children_of(info)["t0000"]
    assert len(run.data.params) == 230
    assert len(client_of(info).get_metric_history(run.info.run_id, "train_loss")) == 700
    assert all(m <= 1000 and p <= 100 and total <= 1000 for m, p, total in sizes)


def test_an_experiment_that_was_deleted_is_said_so(info, started, make_record) -> None:
    client = client_of(info)
    client.delete_experiment(client.create_experiment(EXPERIMENT))
    tracker = started()
    tracker.log_trial(make_record(0))
    report = tracker.finish("FINISHED", timeout=1.5)
    assert report.undelivered == 1
    assert "the experiment 'demo' is deleted: restore it in MLflow" in tracker.warnings[0]


def test_a_run_deleted_by_hand_while_the_search_goes_on_holds_nothing_up(
    info, started, make_record
) -> None:
    writer_done = threading.Event()
    tracker = started()
    tracker.log_trial(make_record(0))
    for _ in range(400):
        child = children_of(info).get("t0000") if tracker.parent_run_id else None
        if child is not None and "vpetl.digest" in child.data.tags:
            break  # it has everything: until then the writer is in the middle of it
        writer_done.wait(0.05)
    client_of(info).delete_run(children_of(info)["t0000"].info.run_id)
    tracker.log_trial(make_record(1, 2000, 80.0))
    tracker.update_front([make_record(0), make_record(1, 2000, 80.0)])
    assert tracker.finish("FINISHED").is_complete
    assert set(children_of(info, "tags.pareto = 'true'")) == {"t0001"}


def test_credentials_do_not_reach_mlflow(info, started, make_record, tmp_path: Path) -> None:
    uri = f"{info.uri}?password=hunter22"
    tracker = started(uri=uri, spec_text=f"tracking: {{uri: '{uri}'}}\n")
    tracker.log_trial(make_record(0))
    assert tracker.finish("FINISHED").is_complete
    text = client_of(info).download_artifacts(parent_of(info).info.run_id, "spec.yaml")
    assert Path(text).read_text() == f"tracking: {{uri: '{info.uri}?password=***'}}\n"
    assert b"hunter22" not in (tmp_path / "mlflow.db").read_bytes()


def test_finishing_a_tracker_that_never_started_is_a_report(info, make_record) -> None:
    tracker = Tracker(info)
    tracker.log_trial(make_record(0))
    report = tracker.finish("FAILED")
    assert (report.delivered, report.undelivered, report.is_complete) == (0, 1, False)
