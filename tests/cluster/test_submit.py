"""A search as a job, on a cluster of three `ray start` processes with a token."""

import json
import sys
import urllib.error
import urllib.request

import pandas as pd
import pytest

from tests.cluster.nodes import RayNodes
from tests.doors.conftest import SPEC
from vpetl_ray.submit import main

pytestmark = pytest.mark.timeout(240)  # the nodes start slowly where the machine is busy


@pytest.fixture(scope="module")
def nodes(cache):
    """A head without CPUs, and two nodes with one each."""
    with RayNodes(cache) as nodes:
        nodes.head()
        nodes.join()
        nodes.join()
        nodes.wait_for(3)
        yield nodes


@pytest.fixture
def project(tmp_path, videos):
    (tmp_path / "tiny.yaml").write_text(SPEC.replace("path: videos", f"path: {videos}"))
    return tmp_path


def said(process, seconds=200):
    text, _ = process.communicate(timeout=seconds)
    return text


@pytest.mark.parametrize(("token", "code"), [(None, 401), ("0" * 64, 403)], ids=["no", "wrong"])
def test_without_the_clusters_token_no_job_is_taken(nodes, token, code):
    request = urllib.request.Request(
        f"{nodes.url}/api/jobs/",
        data=json.dumps({"entrypoint": "true"}).encode(),
        headers={"Authorization": f"Bearer {token}"} if token else {},
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=30)
    assert refused.value.code == code


def test_a_search_is_submitted_followed_cut_off_and_attached_again(nodes, project):
    anonymous = {k: v for k, v in nodes.env.items() if not k.startswith("RAY_AUTH")}
    refused = nodes.submit("tiny.yaml", "--address", nodes.url, cwd=project, env=anonymous)
    text = said(refused)
    assert refused.returncode == 2, text
    assert "refuses this token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN" in text

    out = project / "out"
    start = nodes.submit(
        "tiny.yaml", "--address", nodes.url, "--job-id", "tiny-1", "--out", out, "--trials", 3,
        "--no-wait", cwd=project,
    )  # fmt: skip
    text = said(start)
    assert start.returncode == 0, text
    assert "ray job submit --address" in text
    assert nodes.token not in text

    follow = nodes.submit("attach", "tiny-1", "--address", nodes.url, cwd=project)
    assert follow.stdout.readline()
    follow.terminate()  # cut off
    follow.wait()

    again = nodes.submit("attach", "tiny-1", "--address", nodes.url, cwd=project)
    text = said(again)
    assert again.returncode == 0, text
    assert "starting 2 worker groups of 1 worker with 1 CPU each" in text
    assert "tiny-1 succeeded (exit code 0)" in text
    assert (out / "front.json").exists()
    trials = pd.read_parquet(out / "trials.parquet")
    assert set(trials["state"]) <= {"complete", "infeasible"}
    for path in out.rglob("*"):
        if path.is_file():
            assert nodes.token.encode() not in path.read_bytes(), path


@pytest.mark.slow
def test_the_exit_code_and_the_reason_are_the_searchs_own(nodes, project):
    start = nodes.submit(
        "tiny.yaml", "--address", nodes.url, "--set", "data.path=/nowhere/videos", cwd=project
    )
    text = said(start)
    assert start.returncode == 2, text
    assert "/nowhere/videos" in text
    assert "failed (exit code 2)" in text


@pytest.mark.slow
def test_stop_ends_the_job_in_order_and_resume_goes_on(nodes, project):
    out = project / "out"
    # Long enough that most of it is left when the word to stop comes through.
    words = ["--address", nodes.url, "--out", out, "--trials", 6, "--set", "training.epochs=300"]
    job = nodes.submit("tiny.yaml", *words, "--job-id", "tiny-stop", cwd=project)
    for line in job.stdout:
        if "complete" in line:
            break
    stop = nodes.submit("stop", "tiny-stop", "--address", nodes.url, cwd=project)
    assert "tiny-stop is told to stop" in said(stop)
    said(job)
    assert job.returncode == 130
    before = pd.read_parquet(out / "trials.parquet")
    num_before = (before["state"] == "complete").sum()
    assert 0 < num_before < 6
    resumed = nodes.submit("tiny.yaml", *words, "--resume", cwd=project)
    text = said(resumed)
    assert resumed.returncode == 0, text
    trials = pd.read_parquet(out / "trials.parquet")
    assert (trials["state"] == "complete").sum() == 6
    print(f"{num_before} trials before the stop, {len(trials)} after the resumption")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nope.yaml"], "nope.yaml: no such file"),
        (["tiny.yaml", "--address", "10.0.0.1:6379"], "--address: must be the URL of the job"),
        (["tiny.yaml", "--address", "http://127.0.0.1:1"], "no Ray job server at http://127.0"),
        (["tiny.yaml", "--env", "MLFLOW_TRACKING_PASSWORD=x"], "looks like a secret"),
        (["tiny.yaml", "--env", "A"], "--env: must be NAME=VALUE"),
        (["tiny.yaml", "--working-dir", "sub"], "must lie in"),
        (["tiny.yaml", "--job-id", "a b"], "--job-id: letters, digits"),
        (["tiny.yaml", "--set", "search.trials=-1"], "search.trials: must be"),
        (["status", "x", "--address", "http://127.0.0.1:1"], "no Ray job server"),
    ],
    ids=["spec", "address", "nobody", "secret", "variable", "folder", "id", "value", "status"],
)
def test_bad_input_is_one_sentence_and_two(project, words, sentence, monkeypatch, capsys):
    (project / "sub").mkdir()
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "argv", ["submit", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert sentence in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("given", "sent"),
    [("runs/x", "{project}/runs/x"), ("/shared/x", "/shared/x"), ("s3://runs/x", "s3://runs/x")],
    ids=["relative", "absolute", "bucket"],
)
def test_results_never_go_to_the_copy_of_the_working_directory(
    project, given, sent, monkeypatch, capsys
):
    monkeypatch.chdir(project)
    words = ["tiny.yaml", "--out", given, "--address", "http://127.0.0.1:1"]
    monkeypatch.setattr(sys, "argv", ["submit", *words])
    with pytest.raises(SystemExit):
        main()
    said = capsys.readouterr().err.replace("\n", "")
    assert f"--out {sent.format(project=project)}" in said
