"""Is the demo worth searching? PETL configs against the linear probe and full tuning.

    python -m benchmarks.demo_task.bench [--only NAME ...] [--share 1/2]

Every config is trained at each of its learning rates with seed 0; the rate is chosen on the
validation clips; test accuracy is then reported as mean and spread over three seeds at that rate.
The same code as in a search, one thread. Each run is appended to `results/runs.jsonl` as it ends,
and a run that is there is not done again, so that an interrupted benchmark goes on, and several
processes (`--share 1/2`, `--share 2/2`) may work at it together.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch

from benchmarks.demo_task.clips import target_clips
from benchmarks.demo_task.configs import ARCH, ENTRIES, SEEDS, WIDTHS, Entry
from benchmarks.report import Figure, print_figures, write_summary
from vpetl_ray.data.demo import DEMO_CHECKPOINT, demo_classes
from vpetl_ray.models.checkpoints import load_backbone, weights_fingerprint
from vpetl_ray.models.video_swin import VideoSwin
from vpetl_ray.petl.attach import attach
from vpetl_ray.training.evaluation import evaluate
from vpetl_ray.training.features import FeatureCache
from vpetl_ray.training.loop import FineTuning

FOLDER = Path(__file__).parent
RUNS = FOLDER / "results" / "runs.jsonl"


class Runs:
    """The finished runs, in a file that several processes append to."""

    def __init__(self, path: Path, task: str) -> None:
        self.path = path
        self.task = task
        path.parent.mkdir(parents=True, exist_ok=True)

    def read(self) -> dict[tuple[str, float, int], dict[str, Any]]:
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        rows = [json.loads(line) for line in lines]
        return {
            (row["name"], row["rate"], row["seed"]): row for row in rows if row["task"] == self.task
        }

    def append(self, row: Mapping[str, Any]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps({"task": self.task, **row}) + "\n")


class Bench:
    """Trains one config after another in one backbone."""

    def __init__(self) -> None:
        self.train, self.val, self.test = target_clips()
        self.model = VideoSwin(ARCH, len(demo_classes()))
        load_backbone(self.model, DEMO_CHECKPOINT)
        self.features = FeatureCache()

    def run(self, entry: Entry, rate: float, seed: int) -> dict[str, Any]:
        start = time.process_time()
        attached = attach(self.model, entry.petl, seed=seed)
        # As in a search: parts that stay frozen are computed once for all runs.
        training = FineTuning(
            self.model,
            attached,
            self.train,
            self.val,
            entry.recipe(rate),
            seed=seed,
            features=self.features,
        )
        curve = []
        try:
            while not training.done:
                curve.append(training.run_epoch().top1)
            seconds = time.process_time() - start
            test = evaluate(self.model, self.test).top1
        finally:
            attached.detach()
        return {
            "name": entry.name,
            "rate": rate,
            "seed": seed,
            "trainable": entry.trainable,
            "val": curve[-1],
            "test": test,
            "curve": curve if len(curve) <= 8 else curve[-1:],
            "cpu_seconds": seconds,
        }


def best_rate(
    entry: Entry, done: Mapping[tuple[str, float, int], Mapping[str, Any]]
) -> float | None:
    """The rate with the best validation accuracy at the first seed; None before all have run."""
    rows = [done.get((entry.name, rate, SEEDS[0])) for rate in entry.rates]
    if any(row is None for row in rows):
        return None
    return max(entry.rates, key=lambda rate: done[entry.name, rate, SEEDS[0]]["val"])


def work(entries: Sequence[Entry], runs: Runs, bench: Bench) -> None:
    for entry in entries:
        wanted = [(rate, SEEDS[0]) for rate in entry.rates]
        run_missing(entry, wanted, runs, bench)
        rate = best_rate(entry, runs.read())
        assert rate is not None
        run_missing(entry, [(rate, seed) for seed in SEEDS[1:]], runs, bench)


def run_missing(
    entry: Entry, wanted: Sequence[tuple[float, int]], runs: Runs, bench: Bench
) -> None:
    for rate, seed in wanted:
        if (entry.name, rate, seed) in runs.read():
            continue
        row = bench.run(entry, rate, seed)
        runs.append(row)
        print(
            f"{entry.name:28s} {row['trainable']:7,d}  rate {rate:<6g} seed {seed}  "
            f"val {row['val']:.1f}  test {row['test']:.1f}  {row['cpu_seconds']:.1f} s",
            flush=True,
        )


@dataclass(frozen=True, kw_only=True)
class Line:
    """One config at its own best rate."""

    entry: Entry
    rate: float
    val: float
    test: float
    spread: float
    cpu_seconds: float


def lines(runs: Runs) -> list[Line]:
    done = runs.read()
    found = []
    for entry in ENTRIES:
        rate = best_rate(entry, done)
        rows = [done.get((entry.name, rate or 0.0, seed)) for seed in SEEDS]
        if rate is None or not all(rows):
            continue
        kept = [row for row in rows if row]
        found.append(
            Line(
                entry=entry,
                rate=rate,
                val=fmean(row["val"] for row in kept),
                test=fmean(row["test"] for row in kept),
                spread=stdev(row["test"] for row in kept),
                cpu_seconds=fmean(row["cpu_seconds"] for row in kept),
            )
        )
    return found


def table(found: Sequence[Line]) -> str:
    rows = [
        "| config | trainable | best rate | val top-1 | test top-1 | s.d. (3 seeds) | CPU s |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    rows += [
        f"| {line.entry.name} | {line.entry.trainable:,} | {line.rate:g} | {line.val:.1f} "
        f"| {line.test:.1f} | {line.spread:.1f} | {line.cpu_seconds:.1f} |"
        for line in found
    ]
    return "\n".join(rows)


def figures(found: Sequence[Line]) -> list[Figure]:
    by_name = {line.entry.name: line for line in found}
    petl = [line for line in found if line.entry.is_petl]
    best = max(petl, key=lambda line: line.val)  # chosen on validation, reported on test
    probe, full = by_name["linear probe"], by_name["full tuning"]
    patt = [by_name[f"PATT(K,V) {width}"] for width in WIDTHS]
    return [
        Figure(figure="linear probe, converged, test top-1", value=probe.test, unit="%"),
        Figure(figure=f"best PETL ({best.entry.name}), test top-1", value=best.test, unit="%"),
        Figure(figure="full tuning, test top-1", value=full.test, unit="%"),
        Figure(
            figure="best PETL above the linear probe, test",
            value=best.test - probe.test,
            unit="points",
            floor=15,
        ),
        Figure(
            figure="full tuning above the best PETL, test",
            value=full.test - best.test,
            unit="points",
            floor=2,
            better="lower",
        ),
        Figure(
            figure="largest s.d. of a PETL config over 3 seeds, test",
            value=max(line.spread for line in petl),
            unit="points",
            floor=2,
            better="lower",
        ),
        Figure(
            figure="PATT(K,V) 64 above PATT(K,V) 2, test",
            value=patt[-1].test - patt[0].test,
            unit="points",
            floor=0,
        ),
        Figure(
            figure="dearest full-length PETL trial, CPU time",
            value=max(line.cpu_seconds for line in petl),
            unit="s",
            floor=20,
            better="lower",
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", help="names of configs")
    parser.add_argument("--share", default="1/1", help="which part of the work: 1/2 or 2/2, say")
    options = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench()
    runs = Runs(RUNS, f"{weights_fingerprint(DEMO_CHECKPOINT)[:12]}/{bench.train.id}")
    part, parts = (int(number) for number in options.share.split("/"))
    entries = [entry for entry in ENTRIES if not options.only or entry.name in options.only]
    work(entries[part - 1 :: parts], runs, bench)
    found = lines(runs)
    print(table(found))
    if len(found) == len(ENTRIES):
        (FOLDER / "results" / "table.md").write_text(table(found) + "\n")
        write_summary(FOLDER, figures(found))
        print_figures("The demo task", figures(found))


if __name__ == "__main__":
    main()
