"""Names and values that mean something to other systems: SQL, URLs, shells, pages, terminals."""

import json
import subprocess

import pytest
from mlflow import MlflowClient

from tests.faults.spec_files import FLAGSHIP
from tests.results.conftest import make_record
from vpetl_ray.errors import SpecError
from vpetl_ray.results.mlflow_query import tag_is
from vpetl_ray.results.records import TrialState
from vpetl_ray.results.tracking import Tracker, TrackingInfo
from vpetl_ray.results.tracking_uri import store_in
from vpetl_ray.spec.load import load_spec
from vpetl_ray.tuning.job_client import SearchJobRequest, ray_command

__all__ = ["make_record"]
HOSTILE = {
    "SQL": "x'; DROP TABLE runs; --",
    "SQL too": '" OR 1=1 UNION SELECT * FROM runs --',
    "shell": "$(touch owned) `touch owned`; touch owned & | > owned",
    "page": "<script>alert(1)</script>",
    "path": "../../../etc/passwd",
    "URL": "http://127.0.0.1:9/?a=b&c=%00#d",
    "format": "%s%n {0} {x!r} ${HOME} \\x1b[2J",
    "unicode": "\u202eevil\u2066 🎬 é",
    "long": "x" * 900,
}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store in which another search's run is already."""
    folder = tmp_path_factory.mktemp("mlflow")
    uri, artifacts = store_in(folder)
    client = MlflowClient(uri)
    other = client.create_experiment("other", artifact_location=artifacts)
    run = client.create_run(other, run_name="of somebody else")
    return client, uri, artifacts, run.info.run_id


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_mlflow_is_told_stays_a_value(store, make_record, kind, tmp_path):
    client, uri, artifacts, other = store
    text = HOSTILE[kind]
    info = TrackingInfo(
        search_id=kind.replace(" ", "-"), name=text[:200], uri=uri, artifact_location=artifacts,
        experiment=f"e {text}"[:200], spec_text=f"name: {text}\n", settings={"data": text},
        environment={"git_commit": text}, description=text,
    )  # fmt: skip
    tracker = Tracker(info, directory=tmp_path)
    tracker.start()
    tracker.log_trial(make_record(0, name=text, reason=text, state=TrialState.FAILED))
    report = tracker.finish("FINISHED", timeout=60)
    assert (report.is_complete, report.problem) == (True, None)
    experiment = client.get_experiment_by_name(info.experiment)
    runs = client.search_runs([experiment.experiment_id])
    trial = next(run for run in runs if "vpetl.trial_id" in run.data.tags)
    parent = next(run for run in runs if run is not trial)
    assert len(runs) == 2
    assert text in {*trial.data.tags.values(), *trial.data.params.values()}
    assert parent.data.params["data"][:490] == text[:490]
    assert client.get_run(other).info.run_name == "of somebody else"
    assert [path.name for path in tmp_path.rglob("owned")] == []


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_searchs_own_name_is_a_plain_one(kind):
    """It is a folder, a model's name in the registry, and part of a job's id."""
    with pytest.raises(SpecError, match="name: must be a name of letters"):
        load_spec(FLAGSHIP, [f"name={json.dumps(HOSTILE[kind])}"])


@pytest.mark.parametrize("kind", HOSTILE)
def test_words_of_a_job_reach_the_search_as_they_are(tmp_path, kind):
    """Ray hands the entrypoint to a shell; so does who copies the command that is shown."""
    text = HOSTILE[kind]
    words = ("python", "-m", "vpetl_ray.search", "s.yaml", "--set", f"tracking.experiment={text}",
             "--out", text)  # fmt: skip
    request = SearchJobRequest(job_id="j", words=words, working_dir=text, env={"A": text})
    for command, expected in (
        (request.entrypoint, list(words)),
        (ray_command(request, "http://127.0.0.1:1").replace("ray job", "set --", 1), None),
    ):
        done = subprocess.run(
            ["sh", "-c", f"set -- {command}; printf '%s\\0' \"$@\""],
            cwd=tmp_path, capture_output=True, check=True,
        )  # fmt: skip
        seen = done.stdout.decode().split("\0")[:-1]
        assert seen[-len(words) :] == list(words)
        assert expected is None or seen == expected
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", sorted(HOSTILE.keys() - {"long"}))
def test_an_id_from_a_file_or_a_command_line_is_no_query(kind):
    with pytest.raises(SpecError, match=r"vpetl\.trial_id: an id has letters, digits"):
        tag_is("vpetl.trial_id", HOSTILE[kind])
    assert tag_is("vpetl.trial_id", "t0007") == "tags.`vpetl.trial_id` = 't0007'"
