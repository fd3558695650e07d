"""The confirm door: a tiny search's trials with other seeds, broken off and gone on with."""

import json
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from vpetl_ray.confirm_source import plan_confirmation
from vpetl_ray.errors import SpecError
from vpetl_ray.results.records import TrialState, read_trials

pytestmark = pytest.mark.timeout(280)  # the first one waits for the search


@pytest.fixture
def pair(search: Path) -> list[str]:
    """Two complete trials, on the front or not."""
    records = read_trials(search / "trials.parquet")
    return [r.id for r in records if r.state is TrialState.COMPLETE][:2]


def test_by_default_the_front_is_trained_with_seeds_that_did_not_choose_it(search):
    plan = plan_confirmation(search)
    front = [entry["id"] for entry in json.loads((search / "front.json").read_text())["front"]]
    assert sorted(plan.wanted) == sorted(front)
    assert plan.seeds == (4, 5, 6), "the search's own is 3"
    assert len(plan.runs) == 3 * len(front)
    assert {run.seed for run in plan.runs[: len(front)]} == {4}, "every member gets a seed first"
    rows = {r.id: r for r in read_trials(search / "trials.parquet")}
    for run in plan.runs:
        trial = rows[run.record.id.partition("-")[0]]
        assert run.record.trainable_params == trial.trainable_params
        values = run.config.values
        assert values.get("petl.patt.d_bottle") == trial.config["petl.patt.d_bottle"]


def test_seeds_are_trained_once_kept_and_told_to_mlflow(run, search, pair):
    words = ("confirm", search, "--trials", ",".join(pair), "--set", "resources.groups=1")
    first = run(*words, "--seed", 7)
    assert first.returncode == 0, first.stderr
    assert "one seed has no spread" in first.stdout
    before = json.loads((search / "confirmed.json").read_text())
    again = run(*words, "--seed", 7, "--seed", 8)
    assert again.returncode == 0, again.stderr
    assert "[2/2]" in again.stdout, "two runs were missing"
    written = json.loads((search / "confirmed.json").read_text())
    assert {m["id"] for m in written["members"]} == set(pair)
    for member, old in zip(written["members"], before["members"], strict=True):
        assert [seed["seed"] for seed in member["seeds"]] == [7, 8]
        assert member["seeds"][0] == old["seeds"][0], "what was there is kept as it was"
        both = [seed["test_top1"] for seed in member["seeds"]]
        assert member["mean"]["test_top1"] == pytest.approx(sum(both) / 2)
        assert member["standing"] in {"confirmed", "within noise", "behind"}
    assert written["num_test_clips"] == 8
    assert (search / "spec.yaml").read_text().startswith("name: tiny")

    client = MlflowClient(f"sqlite:///{search}/mlflow.db")
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(ids)
    [parent] = [r for r in runs if "vpetl.search_id" in r.data.tags]
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["confirmed_hypervolume"] == pytest.approx(written["hypervolume"])
    assert parent.data.tags["mlflow.note.content"].count("Confirmed with several seeds") == 1
    told = {r.data.tags.get("vpetl.trial_id"): r for r in runs}
    front = {entry["id"] for entry in json.loads((search / "front.json").read_text())["front"]}
    for version in client.search_model_versions("name = 'tiny'"):
        card = (search / "adapters" / f"{version.tags['trial']}.md").read_text()
        assert version.description == card
        assert ("over seeds 7, 8" in card) == (version.tags["trial"] in set(pair) & front)
    for member in written["members"]:
        metrics = told[member["id"]].data.metrics
        assert metrics["confirmed_test_top1"] == pytest.approx(member["mean"]["test_top1"])
        assert told[member["id"]].data.tags["confirmed"] == member["standing"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trials": ["t0999"]}, r"--trials: there is no trial t0999 in .*; it has t0000 to"),
        ({"overrides": ["petl.patt.d_bottle=3"]}, "only keys that begin with training"),
        ({"overrides": ["training.epoks=3"]}, "training.epoks: unknown key"),
        ({"seeds": [1, 1]}, "--seed: 1 is given twice"),
        ({"seeds": [1], "num_seeds": 2}, "--seeds: goes without --seed"),
    ],
)
def test_what_cannot_be_confirmed_is_said_in_one_sentence(search, options, message):
    with pytest.raises(SpecError, match=message):
        plan_confirmation(search, **options)


def test_a_folder_without_a_search_is_refused(tmp_path):
    with pytest.raises(SpecError, match=r"is no search's results folder, it has no spec\.yaml"):
        plan_confirmation(tmp_path)
