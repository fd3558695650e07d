"""MLflow's store in a SQLite file: whole or not there, whenever its maker is killed."""

import os
import sqlite3
import subprocess
import sys
import time

import pytest
from mlflow import MlflowClient

from tests.results.conftest import make_record
from vpetl_ray.results.mlflow_writer import MlflowWriter
from vpetl_ray.results.tracking_info import TrackingInfo
from vpetl_ray.results.tracking_uri import store_in

__all__ = ["make_record"]

MAKER = """
import os, signal, sys, time
from pathlib import Path
from vpetl_ray.results.tracking import quiet_client, set_client_defaults
set_client_defaults()
from vpetl_ray.results.mlflow_store import open_store
from vpetl_ray.results.tracking_uri import store_in
quiet_client()

def begin(folder, experiment):  # in a process of its own; MLflow is imported once
    child = os.fork()
    if child == 0:
        open_store(store_in(folder)[0], is_own=True).create_experiment(experiment)
        os._exit(0)
    return child
"""
KILL = """
for seconds in map(float, sys.argv[2:]):
    place = Path(sys.argv[1]) / f"{seconds:.3f}"
    place.mkdir()
    child = begin(place, "cut off")
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
"""
TOGETHER = """
children = [begin(sys.argv[1], name) for name in sys.argv[2:]]
sys.exit(any(os.waitpid(child, 0)[1] for child in children))
"""


def run(script, *words):
    command = [sys.executable, "-W", "ignore", "-c", MAKER + script, *map(str, words)]
    subprocess.run(command, check=True, timeout=300)


def info_of(folder, **changes):
    uri, artifacts = store_in(folder)
    values = {"uri": uri, "artifact_location": artifacts, "experiment": "x", "spec_text": ""}
    return TrackingInfo(search_id="s1", name="x", **values | changes)


def num_runs(uri):
    client = MlflowClient(uri)
    return len(client.search_runs([e.experiment_id for e in client.search_experiments()]))


@pytest.mark.parametrize(
    "moments",
    [
        pytest.param([0.1, 0.3, 0.5, 0.7], id="a few"),
        pytest.param(
            [number / 40 for number in range(1, 48)],
            id="many",
            marks=[pytest.mark.faults, pytest.mark.timeout(300)],
        ),
    ],
)
def test_a_store_whose_maker_was_killed_takes_what_comes_next(tmp_path, make_record, moments):
    run(KILL, tmp_path, *moments)
    for folder in tmp_path.iterdir():
        # The journal is that of a store that was there and in use: SQLite itself takes it back.
        names = {path.name for path in folder.iterdir()}
        assert names in (set(), {"mlflow.db"}, {"mlflow.db", "mlflow.db-journal"})
        writer = MlflowWriter(info_of(folder))
        writer.write_trial(make_record(0), pareto=True)
        assert num_runs(store_in(folder)[0]) == 2


def half_made(path):
    """What a Ctrl-C has left: MLflow finds a table there that it wants to make."""
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE _alembic_tmp_experiments (experiment_id INTEGER)")
    database.close()
    with pytest.raises(Exception, match="already exists"):
        MlflowClient(f"sqlite:///{path}")
    os.utime(path, (time.time() - 60,) * 2)


def test_what_an_earlier_version_left_half_made_in_the_results_is_made_anew(tmp_path):
    """Though this process holds a connection to it, as after a first try."""
    half_made(tmp_path / "mlflow.db")
    MlflowWriter(info_of(tmp_path))
    assert num_runs(store_in(tmp_path)[0]) == 1


def test_a_half_made_store_of_the_users_own_is_named_and_left(tmp_path):
    path = tmp_path / "own.db"
    half_made(path)
    uri = f"sqlite:///{path}"
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"cut off while it made this store.*remove \S+own\.db"):
        MlflowWriter(info_of(tmp_path, uri=uri, artifact_location=None))
    assert path.read_bytes() == before


def test_a_store_that_cannot_be_opened_but_holds_something_is_left(tmp_path):
    path = tmp_path / "mlflow.db"
    half_made(path)
    with sqlite3.connect(path) as database:
        database.execute("INSERT INTO _alembic_tmp_experiments VALUES (7)")
    database.close()
    os.utime(path, (time.time() - 60,) * 2)
    with pytest.raises(Exception, match="already exists"):
        MlflowWriter(info_of(tmp_path))
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT * FROM _alembic_tmp_experiments").fetchall() == [(7,)]


def test_two_who_make_one_store_at_once_write_to_the_same(tmp_path):
    folder = tmp_path / "not there yet"
    run(TOGETHER, folder, "a", "b")
    found = {e.name for e in MlflowClient(store_in(folder)[0]).search_experiments()}
    assert found == {"Default", "a", "b"}
    assert [path.name for path in folder.iterdir()] == ["mlflow.db"]


def test_where_mlflow_cannot_make_a_store_in_memory_it_makes_it_in_place(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_SQLALCHEMYSTORE_POOLCLASS", "NullPool")
    MlflowWriter(info_of(tmp_path))
    assert num_runs(store_in(tmp_path)[0]) == 1
