"""A picked model behind MLflow's own server: `mlflow models serve`, as docs/use.md has it."""

import base64
import json
import urllib.error
import urllib.request

import pytest
from local_server import mlflow

import vpetl_ray

pytestmark = pytest.mark.timeout(280)  # the first one waits for the search


@pytest.fixture(scope="module")
def served(search, tmp_path_factory):
    """Serve the knee, on loopback."""
    words = ("models", "serve", "-m", "models:/tiny@knee", "--env-manager", "local")
    store = f"sqlite:///{search}/mlflow.db"
    folder = tmp_path_factory.mktemp("served")
    with mlflow(*words, folder=folder, ping="ping", MLFLOW_TRACKING_URI=store) as uri:
        yield f"{uri}/invocations"


@pytest.fixture
def example(search):
    """Give a request that lies beside each version, as MLflow shows it."""
    return next(search.rglob("serving_input_example.json")).read_text()


def post(address, body):
    request = urllib.request.Request(
        address, data=body.encode(), headers={"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_a_served_model_says_what_predict_says(served, search, videos, example):
    model = vpetl_ray.load(f"{search}@knee", device="cpu")
    files = [videos / "test" / label / "00.mp4" for label in ("left", "right")]
    expected = [model.predict(file) for file in files]
    for column, cells in {
        "path": [str(file) for file in files],
        "video": [base64.b64encode(file.read_bytes()).decode() for file in files],
    }.items():
        rows = {"columns": [column], "data": [[cell] for cell in cells]}
        status, answer = post(served, json.dumps({"dataframe_split": rows}))
        assert status == 200, answer
        for said, row in zip(expected, answer["predictions"], strict=True):
            assert row["label"] == said.label
            assert row["labels"] == list(said.labels)
            assert row["probabilities"] == pytest.approx(list(said.probabilities), abs=1e-5)
            assert row["probability"] == pytest.approx(said.probabilities[0], abs=1e-5)

    status, answer = post(served, example)
    assert status == 200, answer
    assert answer["predictions"][0]["label"] in {"left", "right"}

    status, answer = post(served, json.dumps({"dataframe_records": [{"path": "/gone.mp4"}]}))
    assert status == 400
    assert "row 0: /gone.mp4: there is no such file" in answer["message"]
    status, answer = post(served, json.dumps({"dataframe_records": [{"path": None}]}))
    assert status == 400
    assert "has neither `video`, a file's bytes, nor `path`" in answer["message"]
