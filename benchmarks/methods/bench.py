"""Does every method of the table learn? Each is trained on the demo, as `demo_task` trains.

    python -m benchmarks.methods.bench [--only NAME ...]

Every config is trained once at each of its one or two learning rates; the rate is chosen on the
validation clips and test accuracy reported at that rate, one seed. Each run is appended to
`results/runs.jsonl` as it ends, so that an interrupted benchmark goes on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import torch

from benchmarks.demo_task import bench as demo_task
from benchmarks.demo_task.configs import SEEDS, Entry
from benchmarks.methods.configs import ENTRIES, IN_DEMO_TABLE
from benchmarks.report import Figure, print_figures, write_summary
from vpetl_ray.data.demo import DEMO_CHECKPOINT, demo_classes
from vpetl_ray.models.checkpoints import weights_fingerprint
from vpetl_ray.petl.methods import METHODS

FOLDER = Path(__file__).parent
CHANCE = 100 / len(demo_classes())
NOISE = 2.0
"""Points of test accuracy that the demo's table itself does not tell apart (960 clips)."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One config at its best rate."""

    entry: Entry
    rate: float
    val: float
    test: float
    cpu_seconds: float


def lines(runs: demo_task.Runs) -> list[Line]:
    done = runs.read()
    found = []
    for entry in ENTRIES:
        rate = demo_task.best_rate(entry, done)
        if rate is None:
            continue
        row = done[entry.name, rate, SEEDS[0]]
        found.append(
            Line(
                entry=entry,
                rate=rate,
                val=row["val"],
                test=row["test"],
                cpu_seconds=row["cpu_seconds"],
            )
        )
    return found


def table(found: Sequence[Line]) -> str:
    probe = next((line.test for line in found if line.entry.name == "linear probe"), None)
    rows = [
        "| config | trainable | best rate | val top-1 | test top-1 | over the probe | CPU s |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for line in found:
        over = "" if probe is None else f"{line.test - probe:+.1f}"
        rows.append(
            f"| {line.entry.name} | {line.entry.trainable:,} | {line.rate:g} | {line.val:.1f} "
            f"| {line.test:.1f} | {over} | {line.cpu_seconds:.1f} |"
        )
    return "\n".join(rows)


def demo_table() -> list[demo_task.Line]:
    """The demo's own table: of the task that was measured there last, whatever its store is called.

    (The same clips get another store's name when what is stored about them changes.)
    """
    last = demo_task.RUNS.read_text().splitlines()[-1]
    return demo_task.lines(demo_task.Runs(demo_task.RUNS, json.loads(last)["task"]))


def holds_order(found: Sequence[Line], demo: Sequence[demo_task.Line]) -> bool:
    """Whether configs that the demo's table tells apart stand in its order here."""
    ours = {line.entry.name: line.test for line in found}
    theirs = {line.entry.name: line.test for line in demo}
    told_apart = [
        (one, other)
        for one, other in combinations(IN_DEMO_TABLE, 2)
        if abs(theirs[one] - theirs[other]) > NOISE
    ]
    return all(
        (ours[one] > ours[other]) == (theirs[one] > theirs[other]) for one, other in told_apart
    )


def figures(found: Sequence[Line], demo: Sequence[demo_task.Line]) -> list[Figure]:
    probe = next(line.test for line in found if line.entry.name == "linear probe")
    trained = [line for line in found if line.entry.petl.methods]
    lowest = min(trained, key=lambda line: line.test)
    above = sum(line.test > probe for line in trained)
    learned = {
        m.name for line in trained if line.test > 3 * CHANCE for m in line.entry.petl.methods
    }
    return [
        Figure(figure="chance, top-1", value=CHANCE, unit="%"),
        Figure(
            figure=f"lowest top-1 of any method ({lowest.entry.name}), test",
            value=lowest.test,
            unit="%",
            floor=round(3 * CHANCE, 1),
        ),
        Figure(
            figure="methods of the table that learned (three times chance)",
            value=len(learned),
            floor=len(METHODS),
        ),
        Figure(figure="linear probe, converged, test top-1", value=probe, unit="%"),
        Figure(figure=f"configs above the linear probe, of {len(trained)}", value=above),
        Figure(
            figure="linear probe, adapter, PATT and full tuning in the order of the demo's table",
            value=int(holds_order(found, demo)),
            floor=1,
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", help="names of configs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    bench = demo_task.Bench()
    task = f"{weights_fingerprint(DEMO_CHECKPOINT)[:12]}/{bench.train.id}"
    runs = demo_task.Runs(FOLDER / "results" / "runs.jsonl", task)
    for entry in ENTRIES:
        if not options.only or entry.name in options.only:
            wanted = [(rate, SEEDS[0]) for rate in entry.rates]
            demo_task.run_missing(entry, wanted, runs, bench)
    found = lines(runs)
    print(table(found))
    if len(found) == len(ENTRIES):
        demo = demo_table()
        (FOLDER / "results" / "table.md").write_text(table(found) + "\n")
        write_summary(FOLDER, figures(found, demo))
        print_figures("Every method on the demo", figures(found, demo))


if __name__ == "__main__":
    main()
