"""`cluster/slurm.sbatch` as it stands, run by words that stand for Slurm's own on this machine."""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest

from tests.cluster.nodes import own_ports
from tests.doors.conftest import SPEC

ROOT = Path(__file__).parents[2]
WORDS = {
    "scontrol": "printf 'one\\ntwo\\n'",
    # Its own options come first; the command is what follows.
    "srun": 'while [ "${1#--}" != "$1" ]; do shift; done; exec "$@"',
    "hostname": "echo 127.0.0.1",
}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def slurm(tmp_path, videos, cache):
    """Starts the script as Slurm would, and at the end kills what is left, as Slurm does, too."""
    (tmp_path / "tiny.yaml").write_text(SPEC.replace("path: videos", f"path: {videos}"))
    words = tmp_path / "bin"
    words.mkdir()
    for name, line in WORDS.items():
        (words / name).write_text(f"#!/bin/sh\n{line}\n")
        (words / name).chmod(0o755)
    jobs = []
    with own_ports() as port:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        environment |= {
            "PATH": f"{words}{os.pathsep}{environment['PATH']}",
            "HOME": str(tmp_path),
            "SLURM_JOB_ID": str(port - 20_000),
            "SLURM_JOB_NODELIST": "two",
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_CPUS_PER_TASK": "1",
            "SLURM_SUBMIT_DIR": str(tmp_path),
            "VPETL_VENV": str(Path(sys.executable).parents[1]),
            "VPETL_CACHE": str(cache),
            "PYTHONPATH": str(ROOT),
        }

        def start(*more):
            with (tmp_path / f"log{len(jobs)}").open("w") as log:
                job = subprocess.Popen(
                    ["bash", ROOT / "cluster" / "slurm.sbatch", "tiny.yaml", "--out", "out", *more],
                    env=environment, stdout=log, stderr=log, start_new_session=True,
                )  # fmt: skip
            jobs.append(job)
            return job, Path(log.name)

        def end(job):
            with suppress(ProcessLookupError):
                os.killpg(job.pid, signal.SIGKILL)

        yield start, end
        for job in jobs:
            end(job)
        shutil.rmtree(f"/tmp/ray-{port - 20_000}", ignore_errors=True)


def wait_for(said, log, job, seconds=240):
    deadline = time.monotonic() + seconds
    while said not in log.read_text():
        assert job.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)


def test_a_search_on_two_nodes_is_stopped_by_the_time_limit_and_resumed(slurm, tmp_path):
    start, end = slurm
    words = ("--trials", "6", "--set", "training.epochs=300")
    job, log = start(*words)
    wait_for("2 worker groups are at work", log, job)
    [token] = tmp_path.glob(".vpetl-token-*")
    assert token.stat().st_mode & 0o777 == 0o600
    assert len(token.read_text()) == 64
    wait_for("complete", log, job)
    job.send_signal(signal.SIGTERM)  # what `--signal=B:TERM@120` sends, to the script alone
    assert job.wait(120) == 143, log.read_text()
    assert not token.exists()
    end(job)
    num_before = (pd.read_parquet(tmp_path / "out" / "trials.parquet")["state"] == "complete").sum()
    job, log = start(*words, "--resume")
    assert job.wait(400) == 0, log.read_text()
    table = pd.read_parquet(tmp_path / "out" / "trials.parquet")
    assert 0 < num_before < (table["state"] == "complete").sum() == 6
    print(f"{num_before} trials before the limit, 6 after the resumption")
