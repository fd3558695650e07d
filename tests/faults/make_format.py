"""Store the state of a search that an earlier commit of this repository was killed in.

    python -m tests.faults.make_format COMMIT [COMMIT ...]

Each is checked out beside this one and searches in its own code: a few trials on a few real videos,
until `trials` of them are finished and some wait at a rung; then its driver is killed. What is left
in the results folder is kept under `formats/DATE-COMMIT`, but for what nothing is read from again
(MLflow's store, pages and pictures, the front's table). To be run at each release;
`test_formats.py` goes on with every one of them.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import tempfile
from pathlib import Path

from tests.doors.conftest import write_videos
from tests.faults.searches import SearchProcess, wait_until

FORMATS = Path(__file__).parent / "formats"
WORK = "@WORK@"
"""Stands in what is stored for the folder in which `videos` and `out` were."""
SPEC = """\
name: earlier
seed: 3
data: {source: folder, path: videos, frames: 4, stride: 1, size: 32, train_crop: centre, flip: 0}
backbone: {arch: swin3d_nano, weights: demo}
petl:
  patt: {targets: {subset: [q, k]}, d_bottle: {choice: [2, 3]}, stages: {subset: [2, 3], min: 1}}
training: {learning_rate: {float: [0.002, 0.02], log: true}, epochs: 120, batch_size: 4,
           probe_epochs: 3}
budget: {trainable_params: 5k}
search: {trials: 12, start: [linear_probe], sampler: SAMPLER}
resources: {groups: 1}
"""
NOT_KEPT = shutil.ignore_patterns(
    "mlflow.db*", "mlartifacts", "front.parquet", "*.html", "*.png", "*.md", "*.svg", "*-shm",
    ".lock", ".*.tmp*",
)  # fmt: skip


def store(commit: str, trials: int) -> Path:
    """Search with the code of a commit, kill it, and keep the state; gives its folder."""
    with tempfile.TemporaryDirectory() as place:
        work, code = Path(place), Path(place) / "code"
        git("worktree", "add", "--detach", code, commit)
        try:
            out = killed_search(work, code, trials)
            date = git("log", "-1", "--format=%cs", commit).strip()
            short = git("rev-parse", "--short=7", commit).strip()
            target = FORMATS / f"{date}-{short}"
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(out, target, ignore=NOT_KEPT)
        finally:
            git("worktree", "remove", "--force", code)
        with contextlib.closing(sqlite3.connect(target / "study.db")) as study:
            study.execute("PRAGMA journal_mode=DELETE")  # one file, a fifth of the size
        for path in (*target.glob("*.yaml"), *target.glob("*.jsonl"), *target.glob("*.json")):
            path.write_text(path.read_text().replace(str(work), WORK))
        left = [p for p in target.rglob("*") if p.is_file() and place.encode() in p.read_bytes()]
        assert not left, f"{left}: names a folder of this machine"
    return target


def killed_search(work: Path, code: Path, trials: int) -> Path:
    """Start a search with that code and kill its driver in the trial after the last."""
    write_videos(work / "videos")
    sections = (code / "vpetl_ray" / "spec" / "sections.py").read_text()
    text = SPEC.replace("SAMPLER", "ehvi" if "ehvi" in sections else "tpe")
    has_rungs = "halving" in sections
    if has_rungs:
        text = text.replace("search: {", "search: {halving: {rungs: [20, 60]}, ")
    (work / "earlier.yaml").write_text(text)
    search = SearchProcess(
        "earlier.yaml", "--out", "out", cwd=work, cache=work / "cache", PYTHONPATH=str(code)
    )
    try:
        wait_until(
            lambda: is_underway(search, trials, has_rungs) or search.process.poll() is not None,
            200,
            lambda: search.said,
        )
        assert search.process.poll() is None, search.said
        search.strike(signal.SIGKILL)
        search.process.wait(10)
    finally:
        for pid in search.processes():
            os.kill(pid, signal.SIGKILL)
    return work / "out"


def is_underway(search: SearchProcess, trials: int, has_rungs: bool) -> bool:
    """Whether so many trials have ended, and with rungs some wait at one."""
    ended = set(re.findall(r"\] (t\d+) (?:complete|stopped)", search.said))
    waiting = list((search.folder / "out" / "paused").glob("*.pt"))
    return len(ended) >= trials and (len(waiting) >= 2 or not has_rungs)


def git(*words: object) -> str:
    done = subprocess.run(
        ["git", *map(str, words)], capture_output=True, text=True, check=True, cwd=FORMATS.parent
    )
    return done.stdout


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("commits", nargs="+", metavar="COMMIT")
    parser.add_argument("--trials", type=int, default=2)
    options = parser.parse_args()
    for name in options.commits:
        print(store(name, options.trials))
