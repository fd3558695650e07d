"""A member of a front is picked in a terminal and used by its name in MLflow."""

import json

import mlflow
import pandas as pd
import pytest
import typer
from mlflow import MlflowClient

import vpetl_ray
from vpetl_ray.errors import SpecError
from vpetl_ray.inference.find import choose_member, read_front
from vpetl_ray.pick import pick
from vpetl_ray.results.pareto_choice import Member, Wanted, choose

pytestmark = pytest.mark.timeout(280)  # the first one waits for the search


@pytest.fixture(scope="module")
def uri(search):
    return f"sqlite:///{search}/mlflow.db"


@pytest.fixture(scope="module")
def video(videos):
    return videos / "test" / "left" / "00.mp4"


def member(trial, params, top1):
    return Member(trial=trial, trainable_params=params, top1=top1, test_top1=None, config=trial)


def test_wishes():
    front = [member("a", 100, 40.0), member("b", 1000, 80.0), member("c", 10_000, 82.0)]
    for wanted, trial in (
        (Wanted(max_params=5000), "b"),
        (Wanted(max_params=10_000), "c"),
        (Wanted(min_top1=81), "c"),
        (Wanted(min_top1=10), "a"),
        (Wanted(max_params=5000, min_top1=30), "b"),
        (Wanted(knee=True), "b"),
        (Wanted(knee=True, min_top1=81), "c"),
    ):
        assert choose(front, wanted).trial == trial
    assert choose(front, Wanted(max_params=99)) is None
    assert Wanted().nearest(front) == "it goes from 40.0% with 100 to 82.0% with 10k"


@pytest.mark.parametrize("name", ["[/x]", "[bold]x[/bold]"])
def test_a_member_whose_name_looks_like_markup_is_shown(name, tmp_path, capsys):
    entry = {"id": "t0000", "name": name, "trainable_params": 9, "top1": 50.0, "config": {}}
    folder = tmp_path / "o[/x]"
    folder.mkdir(parents=True)
    (folder / "front.json").write_text(json.dumps({"front": [entry]}))
    pick(str(folder))
    said = capsys.readouterr().out
    assert name in said
    assert f"vpetl_ray.predict {folder}@t0000" in said


def test_a_limit_beyond_all_floats_is_refused(tmp_path, capsys):
    with pytest.raises(typer.Exit) as end:
        pick(str(tmp_path), max_params="9" * 5000)
    assert end.value.exit_code == 2
    assert capsys.readouterr().err.startswith("--max-params: must be a count")


def test_each_front_member_is_a_version(search, uri):
    client = MlflowClient(uri)
    front = read_front(search)
    versions = {v.tags["trial"]: v for v in client.search_model_versions("name = 'tiny'")}
    assert set(versions) == {entry["id"] for entry in front}
    for entry in front:
        version = versions[entry["id"]]
        assert int(version.tags["trainable_params"]) == entry["trainable_params"]
        assert float(version.tags["top1"]) == pytest.approx(entry["top1"], abs=0.01)
        assert float(version.tags["test_top1"]) == pytest.approx(entry["test_top1"], abs=0.01)
        assert json.loads(version.tags["values"]) == entry["config"]
        card = (search / "adapters" / f"{entry['id']}.md").read_text()
        assert version.description == card
        assert f"| trainable parameters | {entry['trainable_params']:,} |" in card
        run = client.get_run(version.run_id)
        assert run.data.tags["vpetl.trial_id"] == entry["id"]
    aliases = client.get_registered_model("tiny").aliases
    trial_of = {str(v.version): trial for trial, v in versions.items()}
    for role in ("best", "knee", "smallest"):
        assert trial_of[str(aliases[role])] == choose_member(search, role)["id"]


def test_mlflow_loads_it_with_its_signature(search, uri, video, monkeypatch):
    expected = vpetl_ray.load(search).predict(video)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)  # set_tracking_uri would outlive the test
    model = mlflow.pyfunc.load_model("models:/tiny@best")
    rows = [{"path": str(video)}, {"video": video.read_bytes()}]
    for row in rows:
        answer = model.predict(pd.DataFrame([row]))
        assert answer["label"].tolist() == [expected.label]
        assert answer["probabilities"][0] == pytest.approx(list(expected.probabilities))
    assert model.predict(model.input_example)["label"][0] in {"left", "right"}
    assert [column.name for column in model.metadata.signature.inputs] == ["video", "path"]


def test_a_model_is_loaded_by_alias_version_and_run(search, uri, video):
    knee = choose_member(search, "knee")["id"]
    expected = vpetl_ray.load(f"{search}@{knee}").predict(video).probabilities
    client = MlflowClient(uri)
    version = client.get_model_version_by_alias("tiny", "knee")
    parent = client.get_run(version.run_id).data.tags["mlflow.parentRunId"]
    for source in (
        "models:/tiny@knee",
        f"models:/tiny/{version.version}",
        version.run_id,
        f"runs:/{version.run_id}",
        f"{parent}@knee",
        f"{parent}@{knee}",
    ):
        model = vpetl_ray.load(source, tracking_uri=uri)
        assert model.facts.trial == knee
        assert model.predict(video).probabilities == pytest.approx(expected)
    for source, message in {
        "models:/tiny@nope": "has no alias nope; its aliases are best, knee, .*smallest",
        "models:/tinny@knee": "no model is registered as tinny, there is tiny",
        "models:/tiny/99": "has no version 99",
        "0" * 32: "not found",
        f"{parent}@t9999": "there is no such model",
    }.items():
        with pytest.raises(SpecError, match=message):
            vpetl_ray.load(source, tracking_uri=uri)


def test_the_store_of_a_search_is_found_by_its_name(search, video, monkeypatch, tmp_path):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(search.parents[1])
    assert vpetl_ray.load("models:/tiny@best").predict(video).label in {"left", "right"}
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError, match="say in which MLflow store it is"):
        vpetl_ray.load("models:/tiny@best")


def test_picking_in_a_terminal(run, search, uri, video, tmp_path):
    smallest = read_front(search)[0]
    words = ("--max-params", smallest["trainable_params"])
    done = run("pick", "tiny", *words, "--alias", "mine", "--tracking-uri", uri)
    assert done.returncode == 0, done.stderr
    assert "vpetl_ray.predict models:/tiny@mine VIDEO..." in done.stdout
    assert (
        MlflowClient(uri).get_model_version_by_alias("tiny", "mine").tags["trial"]
        == (smallest["id"])
    )
    done = run("predict", "models:/tiny@mine", video, "--tracking-uri", uri, "--json")
    assert done.returncode == 0, done.stderr
    expected = vpetl_ray.load(f"{search}@smallest").predict(video)
    assert next(iter(json.loads(done.stdout)["top"])) == expected.label

    done = run("pick", search, "--knee", "--out", "mine", "--bundle")
    assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in (tmp_path / "mine").iterdir())
    assert names == ["MODEL_CARD.md", "adapter.safetensors", "backbone.safetensors"]
    loaded = vpetl_ray.load(tmp_path / "mine")
    assert loaded.weights == tmp_path / "mine" / "backbone.safetensors"

    for arguments, code, sentence in (
        ((search, "--min-top1", 100.0, "--max-params", 1), 1, "no member of the front has at most"),
        ((search, "--max-params", "many"), 2, "must be a count such as 38924, 500k or 1M"),
        ((search, "--bundle"), 2, "--bundle: goes with --out"),
        ((search, "--out", "mine"), 2, "mine exists already"),
        (("nothing", "--tracking-uri", uri), 2, "nothing: is no folder, and no search has"),
    ):
        done = run("pick", *arguments)
        assert (done.returncode, len(done.stderr.splitlines())) == (code, 1), done.stderr
        assert sentence in done.stderr
