"""Does anything grow over a long search? 500 short trials on two worker groups.

    python -m benchmarks.soak.bench [--trials 500] [--work runs/soak]

The real search, from real mp4 files (a few of the demo's) to MLflow: one epoch a trial. Every
two seconds the memory of the driver, of the groups' workers and of Ray's own processes is taken,
with their number, open files and sockets, and what Ray's object store holds. Slopes are straight
lines fitted by least squares over what comes after the first fifth of the trials, when every path
was taken once; those of memory, a hundred trials, over what the process held then.

The time between two trials of a group is what is left of its time when the training is taken out:
Tune, sampler, records, dispatcher. Trials around the 50th and around the last are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
import ray
from ray._private.internal_api import node_stats
from rich.console import Console
from rich.table import Table

from benchmarks.report import Figure, print_figures, write_summary
from benchmarks.soak.watch import SECONDS_BETWEEN, num_ended
from vpetl_ray.data.config import DataConfig
from vpetl_ray.results_folder import STUDY_FILE
from vpetl_ray.search_job import SearchJob
from vpetl_ray.spec.load import load_spec

FOLDER = Path(__file__).parent
SPEC = FOLDER.parents[1] / "search_spaces" / "position_scale.yaml"
VIDEOS_A_CLASS = {"train": 2, "val": 1, "test": 1}
SLOPE_LIMIT = 2.0
"""Percent of the memory a hundred trials, above which something is kept that should not be."""
WINDOW = 50
"""Trials around which the time between two of them is a median."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The search at one moment."""

    trials: int
    values: Mapping[str, float]


class Sampler:
    """Looks at the processes of this search while it runs; see `watch`."""

    def __init__(self, study: Path) -> None:
        self.samples: list[Sample] = []
        self._study = study
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._store: list[Sample] = []

    def __enter__(self) -> Sampler:
        self._file = tempfile.NamedTemporaryFile(suffix=".jsonl")
        words = [str(os.getpid()), str(self._study), self._file.name]
        self._watch = subprocess.Popen([sys.executable, "-m", "benchmarks.soak.watch", *words])
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._watch.kill()
        self._watch.wait()
        lines = Path(self._file.name).read_text().splitlines()
        self.samples = [
            *(Sample(**json.loads(line)) for line in lines if line.endswith("}}")),
            *self._store,
        ]
        self.samples.sort(key=lambda sample: sample.trials)
        self._file.close()

    def _run(self) -> None:
        while not self._stop.wait(SECONDS_BETWEEN):
            if ray.is_initialized() and (ended := num_ended(self._study)):
                values = {"object store, MB": _object_store_mb()}
                self._store.append(Sample(trials=ended, values=values))


def _object_store_mb() -> float:
    node = ray.nodes()[0]
    address, port = node["NodeManagerAddress"], node["NodeManagerPort"]
    used = node_stats(address, port).store_stats.object_store_bytes_used
    return float(used) / 1e6


def few_videos(folder: Path) -> Path:
    """A handful of the demo's videos, sorted by split and class."""
    listed = DataConfig().list_videos(num_processes=2)
    for split, items in listed.splits.items():
        taken: dict[int, int] = {}
        for item in items:
            number = taken.get(item.label, 0)
            if number < VIDEOS_A_CLASS[str(split)]:
                taken[item.label] = number + 1
                target = folder / str(split) / listed.classes[item.label] / Path(item.path).name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(item.path, target)
    return folder


def gaps(table: pd.DataFrame) -> np.ndarray[Any, Any]:
    """Seconds between two trials of a group that are no training, in the order of their ends."""
    found = []
    for _, rows in table.sort_values("at_seconds").groupby("group"):
        between = rows.at_seconds.diff() - rows.seconds
        found.append(pd.DataFrame({"at": rows.at_seconds, "gap": between}).dropna())
    return pd.concat(found).sort_values("at").gap.to_numpy()


def slope(samples: Sequence[Sample], name: str) -> tuple[float, float]:
    """What is added in a hundred trials, and where the line begins."""
    found = ((sample.trials, sample.values.get(name, np.nan)) for sample in samples)
    points = [(number, value) for number, value in found if np.isfinite(value)]
    trials, values = np.array(points).T
    rise, start = np.polyfit(trials - trials[0], values, 1)
    return 100.0 * float(rise), float(start)


def figures_of(samples: Sequence[Sample], table: pd.DataFrame, num_trials: int) -> list[Figure]:
    later = [sample for sample in samples if num_trials // 5 < sample.trials < num_trials]
    figures = []
    for kind in ("driver", "groups", "dispatcher", "others"):
        rise, start = slope(later, f"{kind}, MB")
        figures.append(
            Figure(
                figure=f"memory of {kind}, added in 100 trials",
                value=100.0 * rise / start,
                unit=f"% of {start:.0f} MB",
                floor=SLOPE_LIMIT,
                better="lower",
            )
        )
    rise, _ = slope(later, "object store, MB")
    figures.append(Figure(figure="object store, added in 100 trials", value=rise, unit="MB"))
    for what in ("open files", "processes"):
        totals = [sum(v for n, v in s.values.items() if n.endswith(what)) for s in later]
        total = [count for count in totals if count]
        tenth = max(1, len(total) // 10)
        figures.append(
            Figure(
                figure=f"{what}, at the end over after a fifth",
                value=median(total[-tenth:]) / median(total[:tenth]),
                unit="x",
                floor=1.02,
                better="lower",
            )
        )
    between = gaps(table)
    early, late = between[50 - WINDOW // 2 : 50 + WINDOW // 2], between[-WINDOW:]
    figures += [
        Figure(figure="seconds between trials, around the 50th", value=median(early), unit="s"),
        Figure(figure=f"seconds between trials, last {WINDOW}", value=median(late), unit="s"),
        Figure(
            figure=f"seconds between trials, last {WINDOW} over around the 50th",
            value=median(late) / median(early),
            unit="x",
            floor=1.5,
            better="lower",
        ),
    ]
    return figures


def print_course(samples: Sequence[Sample], num_trials: int) -> None:
    """What was held after each fifth of the trials."""
    names = sorted({name for sample in samples for name in sample.values})
    table = Table(title="A long search")
    table.add_column("after trials")
    marks = [num_trials * part // 5 for part in range(1, 6)]
    for mark in marks:
        table.add_column(str(mark), justify="right")
    for name in names:
        having = [sample for sample in samples if name in sample.values]
        shown = [min(having, key=lambda s: abs(s.trials - mark)) for mark in marks]
        table.add_row(name, *(f"{s.values.get(name, float('nan')):.0f}" for s in shown))
    Console().print(table)


def soak(work: Path, num_trials: int) -> tuple[list[Sample], pd.DataFrame]:
    overrides = [
        f"search.trials={num_trials}",
        "search.sampler=random",
        "search.test=front",
        "training.epochs=1",
        "training.probe_epochs=2",
        "resources.groups=2",
        "data.source=folder",
        "data.frames=8",
        "data.size=32",
        f"data.path={few_videos(work / 'videos')}",
    ]
    with Sampler(work / "runs" / STUDY_FILE) as sampler:
        console = Console(quiet=True)
        SearchJob(load_spec(SPEC, overrides), work / "runs", address=None, console=console).run()
    return sampler.samples, pd.read_parquet(work / "runs" / "trials.parquet")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--work", type=Path)
    options = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        work = options.work or Path(folder)
        samples, table = soak(work.absolute(), options.trials)
    print_course(samples, options.trials)
    figures = figures_of(samples, table, options.trials)
    print_figures(f"{len(table)} trials in {time.monotonic() - start:.0f} s", figures)
    write_summary(FOLDER, figures)


if __name__ == "__main__":
    main()
