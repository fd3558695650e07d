"""Real searches as processes of their own: started, followed, struck, and looked over."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pandas as pd

from vpetl_ray.results.records import TrialState

# Accuracies that differ, and epochs long enough to be struck in.
SPEC = """\
name: faulty
seed: 5
data: {source: folder, path: videos, frames: 4, stride: 1, size: 32, train_crop: centre, flip: 0}
backbone: {arch: swin3d_nano, weights: demo}
petl:
  patt:
    targets: {subset: [q, k, v]}
    d_bottle: {int: [2, 16]}
    stages: {subset: [2, 3], min: 1}
training:
  learning_rate: {float: [0.00001, 0.0003], log: true}
  epochs: 4
  batch_size: 4
  probe_epochs: 3
  probe_learning_rate: 0.0001
budget: {trainable_params: 30k}
search: {trials: 4, start: [linear_probe], sampler: random}
resources: {groups: 1}
"""


class SearchProcess:
    """A search in a session of its own, as a terminal starts it."""

    def __init__(self, *words, cwd, cache, script=None, **env):
        self.mark = uuid.uuid4().hex
        self.folder = Path(cwd)
        door = ["-m", "vpetl_ray.search"] if script is None else [script]
        self.command = [sys.executable, *door, *map(str, words)]
        self._log = (Path(cwd) / f"said-{self.mark}.txt").open("w+")
        self.process = subprocess.Popen(
            self.command,
            cwd=cwd,
            env={**os.environ, "VPETL_CACHE": str(cache), "FAULT_MARK": self.mark, **env},
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    @property
    def said(self):
        return Path(self._log.name).read_text()

    def wait_for(self, pattern, seconds=150):
        """Wait until it has said something."""
        wait_until(lambda: re.search(pattern, self.said), seconds, self._state)

    def wait(self, seconds=240):
        """Wait for its end; gives its exit code."""
        try:
            return self.process.wait(seconds)
        finally:
            if self.process.poll() is None:
                self.strike(signal.SIGKILL)

    def strike(self, number):
        """Send a signal to the driver alone."""
        self.process.send_signal(number)

    def press(self, number=signal.SIGINT):
        """Send a signal to the foreground, as a terminal's Ctrl-C does."""
        os.killpg(self.process.pid, number)

    def processes(self):
        """Every living process of this search, by id: command line."""
        return marked_processes(self.mark)

    def wait_until_gone(self, seconds=30):
        """Wait until no process is left; gives the seconds that took."""
        start = time.monotonic()
        wait_until(lambda: not self.processes(), seconds, lambda: str(self.processes()))
        return time.monotonic() - start

    def _state(self):
        return f"exit code {self.process.poll()}\n{self.said}"


def marked_processes(mark):
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            is_ours = f"FAULT_MARK={mark}".encode() in (folder / "environ").read_bytes()
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (OSError, IndexError):
            continue
        if is_ours and state != "Z":
            found[int(folder.name)] = words[:200]
    return found


def wait_until(condition, seconds=60, describe=lambda: "it did not come true"):
    """Wait for something that is true; gives it."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, describe()
        time.sleep(0.05)
    return found


def trials_of(out):
    """The table of a results folder, by id; empty while there is none."""
    path = Path(out) / "trials.parquet"
    return pd.read_parquet(path) if path.exists() else pd.DataFrame({"id": [], "state": []})


def finished(out):
    """Ids of the trials that have an end of their own."""
    table = trials_of(out)
    return list(table[table.state != TrialState.INFEASIBLE.value].id)


def front_of_folder(out):
    """What is the same of the same front: members with config, cost and accuracies."""
    members = json.loads((Path(out) / "front.json").read_text())["front"]
    keys = ("id", "trainable_params", "top1", "test_top1", "config")
    return [{key: member.get(key) for key in keys} for member in members]
