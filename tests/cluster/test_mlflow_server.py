"""MLflow from a real PostgreSQL with a login, and four searches that log to it at once."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pandas as pd
import pytest
from mlflow import MlflowClient

from tests.doors.conftest import SPEC
from vpetl_ray.errors import SpecError
from vpetl_ray.tracking_server import server_environment

SECRETS = {
    "POSTGRES_PASSWORD": "for/this%test@only",
    "MLFLOW_ADMIN_PASSWORD": "administrator-1",
    "MLFLOW_FLASK_SERVER_SECRET_KEY": "signs-forms",
}
NUM_SEARCHES = 4
NUM_TRIALS = 3


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def postgres_program(name):
    on_path = shutil.which(name)
    versions = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    if not on_path and not versions:
        pytest.skip("no PostgreSQL here: apt-get install postgresql")
    return on_path or str(versions[-1])


@pytest.fixture
def postgres(tmp_path):
    """A database server on loopback, with a password; gives its port."""
    user = "postgres" if os.geteuid() == 0 else None  # it refuses to run as root
    folder, port = tmp_path / "database", free_port()
    password = tmp_path / "password"
    password.write_text(SECRETS["POSTGRES_PASSWORD"])
    folder.mkdir()
    if user:
        for path in (tmp_path, *tmp_path.parents[:2]):
            path.chmod(0o755)
        shutil.chown(folder, user)
        password.chmod(0o644)
    initdb = [postgres_program("initdb"), "-D", folder, "-U", "mlflow", "--auth=scram-sha-256"]
    subprocess.run(
        [*initdb, f"--pwfile={password}", "--no-sync"], check=True, user=user, capture_output=True
    )
    server = subprocess.Popen(
        [
            postgres_program("postgres"), "-D", folder, "-p", str(port),
            "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-F",
        ],
        user=user, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    psql = ["psql", "-h", "127.0.0.1", "-p", str(port), "-U", "mlflow", "-d", "postgres"]
    environment = {**os.environ, "PGPASSWORD": SECRETS["POSTGRES_PASSWORD"]}
    deadline = time.monotonic() + 60
    while subprocess.run(
        [*psql, "-c", "create database mlflow"], env=environment, capture_output=True, check=False
    ).returncode:
        assert time.monotonic() < deadline
        time.sleep(0.3)
    yield port
    server.send_signal(signal.SIGINT)
    server.wait(30)


@pytest.fixture
def server(postgres, tmp_path):
    """`vpetl-mlflow-server` on it; gives its address and its log."""
    port = free_port()
    log = tmp_path / "server.log"
    environment = {
        **os.environ, **SECRETS, "POSTGRES_PORT": str(postgres), "MLFLOW_PORT": str(port),
        "MLFLOW_ARTIFACTS": str(tmp_path / "artifacts"),
    }  # fmt: skip
    environment.pop("MLFLOW_TRACKING_URI", None)
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "vpetl_ray.tracking_server"],
            env=environment, stdout=out, stderr=out, cwd=tmp_path, start_new_session=True,
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 180
    while True:
        try:
            urllib.request.urlopen(f"{url}/health", timeout=5).close()
            break
        except (urllib.error.URLError, OSError):
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.5)
    yield url, log
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(30)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_server_answers_with_a_login_alone(server, monkeypatch):
    url, log = server
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{url}/api/2.0/mlflow/experiments/get?experiment_id=0")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRETS["MLFLOW_ADMIN_PASSWORD"])
    client = MlflowClient(url)
    experiment = client.create_experiment("kept")
    assert client.get_experiment(experiment).name == "kept"
    assert not any(secret in log.read_text() for secret in SECRETS.values())


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_four_searches_log_at_once_and_nothing_is_lost_or_doubled(
    server, videos, cache, tmp_path, monkeypatch
):
    url, log = server
    login = {
        "MLFLOW_TRACKING_USERNAME": "admin",
        "MLFLOW_TRACKING_PASSWORD": SECRETS["MLFLOW_ADMIN_PASSWORD"],
    }
    searches = []
    for number in range(NUM_SEARCHES):
        spec = tmp_path / f"tiny{number}.yaml"
        text = SPEC.replace("path: videos", f"path: {videos}")
        spec.write_text(text.replace("name: tiny", f"name: tiny{number}"))
        searches.append(
            subprocess.Popen(
                [
                    sys.executable, "-m", "vpetl_ray.search", spec, "--trials", str(NUM_TRIALS),
                    "--tracking-uri", url, "--set", f"seed={number}",
                    "--set", "resources.groups=1",
                ],
                cwd=tmp_path,
                env={**os.environ, **login, "VPETL_CACHE": str(cache)},
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )
        )  # fmt: skip
    said = [search.communicate(timeout=800)[0] for search in searches]
    assert [search.returncode for search in searches] == [0] * NUM_SEARCHES, said
    for name, value in login.items():
        monkeypatch.setenv(name, value)
    client = MlflowClient(url)
    experiment = client.get_experiment_by_name("vpetl_ray")
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    parents = {r.info.run_id: r for r in runs if "mlflow.parentRunId" not in r.data.tags}
    assert sorted(r.info.run_name for r in parents.values()) == [
        f"tiny{number}" for number in range(NUM_SEARCHES)
    ]
    num_metrics = 0
    for run_id, parent in parents.items():
        name = parent.info.run_name
        table = pd.read_parquet(tmp_path / "runs" / name / "trials.parquet")
        table = table[table["state"] == "complete"].set_index("id")
        children = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == run_id]
        names = [r.data.tags["vpetl.trial_id"] for r in children]
        assert sorted(names) == sorted(set(names)), "doubled"
        assert set(names) == set(table.index), "lost"
        for child in children:
            row = table.loc[child.data.tags["vpetl.trial_id"]]
            history = client.get_metric_history(child.info.run_id, "top1")
            steps = [point.step for point in history]
            assert len(steps) == len(set(steps)), "a metric is doubled"
            assert history[-1].value == pytest.approx(row["top1"])
            num_metrics += len(history)
    print(f"{len(parents)} searches, {len(runs) - len(parents)} trials, {num_metrics} top1 values")
    for secret in SECRETS.values():
        written = [*said, log.read_text()]
        assert not any(secret in text for text in written)
        for path in (p for p in (tmp_path / "runs").rglob("*") if p.is_file()):
            assert secret.encode() not in path.read_bytes(), path


def test_without_its_secrets_the_server_does_not_start(tmp_path):
    with pytest.raises(SpecError, match="POSTGRES_PASSWORD, MLFLOW_ADMIN_PASSWORD, MLFLOW_FLASK"):
        server_environment({}, tmp_path)
    with pytest.raises(SpecError, match="must have at least 12 characters"):
        server_environment({**SECRETS, "MLFLOW_ADMIN_PASSWORD": "short"}, tmp_path)


def test_the_servers_secrets_are_in_one_file_for_its_owner_alone(tmp_path):
    environment = server_environment(SECRETS, tmp_path)
    login = tmp_path / "login.ini"
    assert login.stat().st_mode & 0o777 == 0o600
    assert environment["MLFLOW_BACKEND_STORE_URI"] == (
        "postgresql+psycopg2://mlflow:for%2Fthis%25test%40only@127.0.0.1:5432/mlflow"
    )
    assert environment["MLFLOW_HOST"] == "127.0.0.1"
    assert "POSTGRES_PASSWORD" not in environment
