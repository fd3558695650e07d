"""The search door, as a user meets it: real mp4 files, a real Ray cluster, a real MLflow store."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import torch
from mlflow.tracking import MlflowClient

from vpetl_ray.errors import SpecError
from vpetl_ray.models.arch import SwinArch
from vpetl_ray.models.checkpoints import save_backbone
from vpetl_ray.models.video_swin import VideoSwin
from vpetl_ray.results_folder import check_folder, claimed
from vpetl_ray.spec.load import load_spec


@pytest.mark.timeout(280)
def test_a_search_leaves_a_front_its_files_and_mlflow_runs(run, spec_file, tmp_path):
    out = tmp_path / "results"
    done = run("search", spec_file, "--out", out)
    assert done.returncode == 0, done.stderr
    assert "Pareto front" in done.stdout
    assert f"mlflow ui --workers 1 --backend-store-uri sqlite:///{out}/mlflow.db" in done.stdout

    trials = pd.read_parquet(out / "trials.parquet")
    trained = trials[trials.state == "complete"]
    assert len(trained) == 4
    assert (trained.trainable_params <= 12_000).all()
    assert trials.id.is_unique
    assert set(load_spec(out / "spec.yaml").space(2).columns) <= set(trials.columns)
    assert trials.name.tolist().count("linear probe") == 1

    front = json.loads((out / "front.json").read_text())["front"]
    assert [m["trainable_params"] for m in front] == sorted(m["trainable_params"] for m in front)
    assert all(m["test_top1"] is not None for m in front)
    assert pd.read_parquet(out / "front.parquet").id.tolist() == [m["id"] for m in front]
    assert (out / "front.png").stat().st_size > 10_000
    history = pd.read_parquet(out / "history.parquet")
    assert len(history) == 4
    assert history.epochs.is_monotonic_increasing
    assert history.seconds.gt(0).all()
    written = json.loads((out / "front.json").read_text())["hypervolume"]
    assert history.hypervolume.iloc[-1] == pytest.approx(written)
    assert "4 trials" in json.loads((out / "importance.json").read_text())["of"]
    assert {"history.png", "positions.png"} <= {path.name for path in out.iterdir()}
    kept = {path.stem for path in (out / "adapters").iterdir()}
    assert kept == {member["id"] for member in front}

    runs = _runs(out)
    children = [r for r in runs if "mlflow.parentRunId" in r.data.tags]
    assert len(runs) == len(children) + 1 == 5
    pareto = {r.data.tags["vpetl.trial_id"] for r in children if r.data.tags["pareto"] == "true"}
    assert pareto == kept
    assert not list(out.glob(".*.tmp*")), "nothing half-written is left"


def _runs(out: Path) -> list[mlflow.entities.Run]:
    client = MlflowClient(f"sqlite:///{out}/mlflow.db")
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    return list(client.search_runs(ids))


@pytest.mark.timeout(400)
def test_an_interrupted_search_goes_on_without_losing_or_doubling_a_trial(
    run, spec_file, tmp_path, cache
):
    out = tmp_path / "results"
    command = [sys.executable, "-m", "vpetl_ray.search", str(spec_file), "--out", str(out)]
    process = subprocess.Popen(
        [*command, "--trials", "40"],
        cwd=tmp_path,
        env={**os.environ, "VPETL_CACHE": str(cache)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    _wait_for_trials(out, at_least=2)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "--resume" in said
    before = pd.read_parquet(out / "trials.parquet")

    refused = run("search", spec_file, "--out", out)
    assert refused.returncode == 2
    assert "holds a search already" in refused.stderr

    goal = int((before.state == "complete").sum()) + 3
    done = run("search", spec_file, "--out", out, "--trials", goal, "--resume")
    assert done.returncode == 0, done.stderr
    after = pd.read_parquet(out / "trials.parquet")
    assert (after.state == "complete").sum() == goal
    assert after.id.is_unique
    finished = before[before.state == "complete"].set_index("id").top1
    assert (after.set_index("id").top1[finished.index] == finished).all()
    children = [r for r in _runs(out) if "mlflow.parentRunId" in r.data.tags]
    assert len(children) == len({r.data.tags["vpetl.trial_id"] for r in children}) == goal


def _wait_for_trials(out: Path, *, at_least: int) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        if (out / "trials.parquet").exists():
            states = pd.read_parquet(out / "trials.parquet", columns=["state"]).state
            if (states == "complete").sum() >= at_least:
                return
        time.sleep(0.2)
    raise AssertionError("no trial was finished in time")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_same_seed_and_one_group_give_the_same_trials_and_numbers(run, spec_file, tmp_path):
    tables = []
    for name in ("a", "b"):
        done = run(
            "search", spec_file, "--out", tmp_path / name, "--set", "resources.groups=1",
            "--trials", 10,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        table = pd.read_parquet(tmp_path / name / "trials.parquet")
        tables.append(table.drop(columns=["seconds", "curve"]))
    pd.testing.assert_frame_equal(tables[0], tables[1])


def test_dry_run_says_what_would_be_searched_and_creates_nothing(run, spec_file, tmp_path):
    before = sorted(tmp_path.iterdir())
    done = run("search", spec_file, "--dry-run")
    assert done.returncode == 0, done.stderr
    for word in ("smallest", "median", "largest", "structures", "worker group"):
        assert word in done.stdout
    assert sorted(tmp_path.iterdir()) == before


def test_three_mistakes_are_said_at_once_with_their_lines(run, tmp_path):
    path = tmp_path / "wrong.yaml"
    path.write_text(
        "name: wrong\n"
        "petl:\n"
        "  patt:\n"
        "    targets: {subset: [q, x]}\n"
        "    d_botle: 4\n"
        "    d_bottle: {int: [8, 2]}\n"
        "training: {learning_rate: 0.01, epochs: 2, batch_size: 4}\n"
    )
    done = run("search", path)
    assert done.returncode == 2
    lines = done.stderr.strip().splitlines()
    assert [line.split(":")[1] for line in lines] == ["4", "5", "6"]
    assert "'x'" in lines[0]
    assert "d_bottle" in lines[1]
    assert not (tmp_path / "runs").exists()


def test_a_checkpoint_of_another_architecture_is_named(run, spec_file, tmp_path):
    arch = SwinArch(name="other", embed_dim=16, depths=(1, 1), num_heads=(2, 2))
    torch.manual_seed(0)
    save_backbone(VideoSwin(arch, 2), tmp_path / "other.safetensors", metadata={})
    done = run("search", spec_file, "--set", "backbone.weights=other.safetensors")
    assert done.returncode == 2, done.stdout
    assert "swin3d_nano" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_folder_of_unreadable_videos_is_refused_by_name(run, spec_file, tmp_path):
    folder = tmp_path / "bad"
    for split in ("train", "val", "test"):
        for label in ("left", "right"):
            (folder / split / label).mkdir(parents=True)
            (folder / split / label / "notes.mp4").write_text("not a video")
            (folder / split / label / "empty.mp4").touch()
    done = run("search", spec_file, "--set", "data.path=bad")
    assert done.returncode == 2
    assert "notes.mp4" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_results_folder_with_other_files_is_refused(run, spec_file, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    done = run("search", spec_file, "--out", "mine")
    assert done.returncode == 2
    assert "not empty" in done.stderr
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_resume_without_a_search_says_so(run, spec_file):
    done = run("search", spec_file, "--resume")
    assert done.returncode == 2
    assert "there is no search in" in done.stderr


def test_two_searches_in_one_folder_are_refused(spec_file, tmp_path):
    spec = load_spec(spec_file)
    with claimed(tmp_path / "results", spec):
        folder, file = str(tmp_path / "results"), str(spec_file)
        other = (
            "from pathlib import Path; from vpetl_ray.results_folder import claimed;"
            "from vpetl_ray.spec.load import load_spec;"
            f"claimed(Path({folder!r}), load_spec({file!r})).__enter__()"
        )
        command = [sys.executable, "-c", other]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "another run is at work" in done.stderr


def test_a_folder_that_cannot_be_made_is_said_in_a_sentence(spec_file):
    with (
        pytest.raises(SpecError, match="cannot be made"),
        claimed(Path("/proc/vpetl_results"), load_spec(spec_file)),
    ):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_no_write_permission_is_said_before_anything_is_done(run, spec_file, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    done = run("search", spec_file, "--out", locked / "results")
    assert done.returncode == 2
    assert "no permission to write" in done.stderr


def test_resume_with_another_spec_is_refused_naming_the_difference(spec_file, tmp_path):
    spec = load_spec(spec_file)
    with claimed(tmp_path / "results", spec):
        (tmp_path / "results" / "study.db").touch()
    more_trials = load_spec(spec_file, ["search.trials=50"])
    check_folder(tmp_path / "results", more_trials, resume=True)
    changed = load_spec(spec_file, ["training.epochs=9"])
    with pytest.raises(SpecError, match=r"training\.epochs: was 2, is 9"):
        check_folder(tmp_path / "results", changed, resume=True)


@pytest.mark.timeout(280)
def test_a_list_trains_its_rows_and_measures_each_on_test(run, spec_file, tmp_path):
    rows = (
        "{name: one, petl: {patt: {targets: [k, v], d_bottle: 4, stages: [2]}}}, "
        "{name: probe}, {name: two, petl: {patt: {targets: [v], d_bottle: 4, stages: [2]}}}"
    )
    out = tmp_path / "out"
    done = run(
        "search", spec_file, "--out", out, "--set", "budget.trainable_params=null",
        "--set", f"search={{sampler: list, test: all, start: [{rows}]}}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    table = pd.read_parquet(out / "trials.parquet")
    assert table.name.tolist() == ["one", "probe", "two"]
    assert table.test_top1.notna().all()
    shown = done.stdout[done.stdout.rindex("measuring all trials") :].splitlines()
    names = [line.split()[0] for line in shown[4:7]]
    assert names == ["one", "probe", "two"], shown
    written = json.loads((out / "front.json").read_text())
    assert written["budget"] is None, "a list without a budget has none in its picture either"
    front = {member["id"] for member in written["front"]}
    assert {path.stem for path in (out / "adapters").iterdir()} == front
    tested = [
        run.data.metrics["test_top1"] for run in _runs(out) if "test_top1" in run.data.metrics
    ]
    assert len(tested) == 3


def test_dry_run_of_a_list_needs_no_data_where_its_classes_are_known(run, tmp_path):
    table = Path(__file__).parents[2] / "search_spaces" / "paper" / "table4_targets.yaml"
    done = run("search", table, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "No Z (K, V) (8 737 710)" in done.stdout
    assert "paper/../" not in done.stdout
    assert "data/ssv2 does not exist; expected" in done.stdout
    done = run("search", table)
    assert done.returncode == 2
    assert "data/ssv2 does not exist; expected" in done.stderr
    assert not (tmp_path / "runs").exists()
