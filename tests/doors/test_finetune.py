"""The finetune door: one tiny search, and its trials trained again from wherever they are kept."""

import json
from pathlib import Path

import optuna
import pytest
from mlflow.tracking import MlflowClient

from vpetl_ray.errors import SpecError
from vpetl_ray.finetune_source import Request, choose
from vpetl_ray.petl.adapter_file import read_header
from vpetl_ray.results.records import TrialState, read_trials
from vpetl_ray.spec.load import load_spec
from vpetl_ray.tuning.space import NothingToTrain

pytestmark = pytest.mark.timeout(280)  # the first one waits for the search


@pytest.fixture
def trial(search):
    """Give a trial that is no linear probe, on the front or not."""
    records = read_trials(search / "trials.parquet")
    return next(r for r in records if r.state is TrialState.COMPLETE and r.name is None)


def client_of(folder):
    return MlflowClient(f"sqlite:///{folder}/mlflow.db")


def runs_of(folder):
    client = client_of(folder)
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    return list(client.search_runs(ids))


def run_of(search, trial):
    return next(r for r in runs_of(search) if r.data.tags.get("vpetl.trial_id") == trial.id)


def test_a_trial_trained_again_with_its_seed_gives_the_same_numbers(run, search, trial, tmp_path):
    done = run("finetune", search, "--trial", trial.id)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "runs" / f"tiny-{trial.id}-finetune"
    results = json.loads((out / "results.json").read_text())
    [seed] = results["seeds"]
    assert (seed["seed"], seed["state"], seed["epochs"]) == (3, "complete", 2)
    for told, row in zip(seed["curve"], trial.curve, strict=True):
        assert (told["top1"], told["loss"], told["train_loss"]) == (
            row.top1, row.loss, row.train_loss,
        )  # fmt: skip
    assert results["from"] == {"search": "tiny", "trial": trial.id}
    assert results["trainable_params"] == trial.trainable_params
    # Six frames, of which a clip has four; a clip is all of a frame.
    assert results["views"] == {"segments": 4, "crops": 1, "total": 4}
    assert seed["test_top1"] is not None
    assert seed["test_top1_multi_view"] is not None
    header = read_header(out / "adapter-seed3.safetensors")
    assert header["config"] == results["config"] == json.loads((out / "config.json").read_text())
    assert "4 segments x 1 crop = 4 views a clip" in done.stdout
    assert f"sqlite:///{out}/mlflow.db" in done.stdout

    [told] = runs_of(out)
    assert told.info.status == "FINISHED"
    assert told.data.tags["vpetl.from_trial"] == trial.id
    assert told.data.metrics["test_top1_multi_view"] == seed["test_top1_multi_view"]
    assert told.data.metrics["loss"] == trial.loss
    assert told.data.params["seed"] == "3"
    kept = {artifact.path for artifact in client_of(out).list_artifacts(told.info.run_id)}
    assert {"adapter-seed3.safetensors", "config.json", "results.json", "spec.yaml"} <= kept

    again = run("finetune", search, "--trial", trial.id)
    assert again.returncode == 2
    assert "is not empty" in again.stderr
    expected = choose(Request(source=str(search), trial=trial.id)).config
    assert choose(Request(source=str(out))).config.petl == expected.petl
    rebuilt = choose(Request(source=str(out / "spec.yaml"))).config
    assert (rebuilt.petl, rebuilt.recipe) == (expected.petl, expected.recipe)


def test_two_seeds_of_an_mlflow_run_on_two_workers(run, search, trial, tmp_path):
    uri = f"sqlite:///{search}/mlflow.db"
    before = {r.info.run_id for r in runs_of(search)}
    done = run(
        "finetune", run_of(search, trial).info.run_id, "--tracking-uri", uri,
        "--seed", 3, "--seed", 4, "--set", "resources.workers_per_group=2", "--out", "two",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "1 worker group of 2 workers" in done.stdout
    results = json.loads((tmp_path / "two" / "results.json").read_text())
    first, second = results["seeds"]
    assert (first["seed"], second["seed"]) == (3, 4)
    assert first["val_loss"] == pytest.approx(trial.loss, rel=1e-4)
    assert second["val_loss"] != pytest.approx(trial.loss, rel=1e-4)
    both = [seed["test_top1_multi_view"] for seed in (first, second)]
    assert results["mean"]["test_top1_multi_view"] == pytest.approx(sum(both) / 2)
    spread = abs(both[0] - both[1]) / 2**0.5
    assert results["sd"]["test_top1_multi_view"] == pytest.approx(spread)
    assert "mean" in done.stdout

    told = [r for r in runs_of(search) if r.info.run_id not in before]
    [parent] = [r for r in told if "vpetl.finetune_id" in r.data.tags]
    children = [r for r in told if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(told) == 1 + len(children) == 3
    assert {r.data.params["seed"] for r in children} == {"3", "4"}
    assert not any("pareto" in r.data.tags for r in told)
    assert parent.data.metrics["test_top1_mean"] == results["mean"]["test_top1"]


def test_a_trial_is_the_same_wherever_it_is_read_from(search, trial, tmp_path):
    uri = f"sqlite:///{search}/mlflow.db"
    child = run_of(search, trial)
    parent = child.data.tags["mlflow.parentRunId"]
    by_parquet = choose(Request(source=str(search), trial=trial.id))
    by_child = choose(Request(source=child.info.run_id, tracking_uri=uri))
    by_parent = choose(Request(source=f"runs:/{parent}", tracking_uri=uri, trial=trial.id))
    # The spec, and the trial's values as a person would type them.
    words = {path: value for path, value in by_parquet.config.values.items() if path in spec_paths}
    typed = tuple(f"{p}={list(v) if isinstance(v, tuple) else v}" for p, v in words.items())
    by_spec = choose(Request(source=str(search / "spec.yaml"), overrides=typed))
    config_file = tmp_path / "mine.json"
    config_file.write_text(json.dumps(by_parquet.config.petl.to_dict()))
    rate = by_parquet.config.recipe.learning_rate
    by_file = choose(
        Request(
            source=str(config_file),
            spec=search / "spec.yaml",
            overrides=(f"training.learning_rate={rate}",),
        )
    )
    expected = (by_parquet.config.petl, by_parquet.config.recipe)
    for other in (by_child, by_parent, by_spec, by_file):
        assert (other.config.petl, other.config.recipe) == expected
    assert by_child.origin["run"] == child.info.run_id
    assert by_parquet.columns == by_child.columns


spec_paths = (
    "petl.patt.targets", "petl.patt.d_bottle", "petl.patt.stages", "training.learning_rate",
)  # fmt: skip


def test_the_best_the_knee_and_the_smallest_of_a_front(search):
    front = json.loads((search / "front.json").read_text())
    best = max(front["front"], key=lambda member: member["top1"])["id"]
    wanted = {None: best, "best": best, "knee": front["knee"], "smallest": front["front"][0]["id"]}
    for word, trial_id in wanted.items():
        for source in (search, search / "front.json"):
            assert choose(Request(source=str(source), trial=word)).origin["trial"] == trial_id


SHIPPED = sorted(Path("search_spaces").rglob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_config_of_any_space_survives_its_row_and_its_spec(path, tmp_path):
    """Also with switches for blocks and a width for every stage."""
    space = load_spec(path).space(12)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    for _ in range(3):
        values = space.suggest(study.ask())
        try:
            config = space.build(values)
        except NothingToTrain:
            continue
        row = {p: v for p, v in space.config_columns(values).items() if v is not None}
        (tmp_path / "spec.yaml").write_text(load_spec(path).to_yaml())
        entry = {"id": "t0000", "trainable_params": 1, "top1": 50.0, "config": row}
        (tmp_path / "front.json").write_text(json.dumps({"name": "shipped", "front": [entry]}))
        chosen = choose(Request(source=str(tmp_path)))
        assert chosen.config == config
        (tmp_path / "fixed.yaml").write_text(chosen.spec.to_yaml())
        again = choose(Request(source=str(tmp_path / "fixed.yaml"))).config
        assert (again.petl, again.recipe) == (config.petl, config.recipe)


def test_overrides_win_over_the_trial(search, trial):
    request = Request(
        source=str(search),
        trial=trial.id,
        overrides=("training.epochs=70", "petl.patt.d_bottle=3", "name=mine"),
    )
    chosen = choose(request)
    assert chosen.config.recipe.epochs == 70
    assert [method.d_bottle for method in chosen.config.petl.methods] == [3]
    assert chosen.spec.name == "mine"


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("nowhere", {}, "nowhere: is neither a file, nor a search's results folder"),
        ("SPEC", {}, "leaves open petl.patt.targets, .*training.learning_rate; fix each with"),
        ("SPEC", {"trial": "t0000"}, "--trial: goes with a search's results folder or run alone"),
        ("SEARCH", {"trial": "t0999"}, r"no trial t0999 in .*; it has t0000 to"),
        ("SEARCH", {"overrides": ("training.epoks=3",)}, "training.epoks: unknown key"),
        ("CONFIG", {}, "is a config; --spec must name the search space file"),
        ("a" * 32, {}, "say where this MLflow run is, by --tracking-uri or MLFLOW_TRACKING_URI"),
        ("a" * 32, {"tracking_uri": "sqlite:///none.db"}, "there is no file none.db"),
        ("a" * 32, {"tracking_uri": "MLFLOW"}, "there is no run a+ in sqlite"),
        ("SEARCH", {"spec": "SPEC"}, "--spec: goes with a config file alone"),
    ],
)
def test_what_cannot_be_trained_is_said_in_one_sentence(
    search, tmp_path, monkeypatch, source, options, message
):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    config = tmp_path / "mine.yaml"
    config.write_text("methods: [{name: patt, targets: [k], d_bottle: 2}]\n")
    places = {
        "SPEC": str(search / "spec.yaml"),
        "SEARCH": str(search),
        "CONFIG": str(config),
        "MLFLOW": f"sqlite:///{search}/mlflow.db",
    }
    options = {k: places.get(v, v) if isinstance(v, str) else v for k, v in options.items()}
    with pytest.raises(SpecError, match=message) as raised:
        choose(Request(source=places.get(source, source), **options))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("methods: [{name: pat, d_bottle: 2}]", "unknown method 'pat'.*patt"),
        ("methods: [{name: patt, targets: [k], d_bottle: 2, stages: [9]}]", "stage 9 does not"),
        ("train_classifier: false", "every method is off and the classifier is frozen"),
    ],
)
def test_a_wrong_config_file_is_named(search, tmp_path, text, message):
    config = tmp_path / "mine.yaml"
    config.write_text(text)
    overrides = ("training.learning_rate=0.01",)
    with pytest.raises(SpecError, match=rf"mine\.yaml: .*{message}"):
        choose(Request(source=str(config), spec=search / "spec.yaml", overrides=overrides))
