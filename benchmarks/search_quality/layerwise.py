"""Train configs drawn at random from the layer-wise space, for a surrogate of it to be fitted to.

    python -m benchmarks.search_quality.layerwise [--trials 150]

The space of `search_spaces/layerwise.yaml`, 390 billion configs, can't be tabulated. What is drawn
is within the budget; every second config is a mutation of one of the best before it, as a surrogate
that has seen random configs alone knows nothing of good ones. As in `tabulate`, every second of the
demo's training clips is trained on, and each run is appended to `results/layerwise_runs.jsonl`; at
the end they are written to `results/layerwise.parquet`.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.search_quality.table import FOLDER, RememberedSpace
from benchmarks.search_quality.tabulate import Trainer
from vpetl_ray.data.demo import demo_classes
from vpetl_ray.results.ranking import ranking
from vpetl_ray.spec.load import load_spec
from vpetl_ray.tuning.drawing import draw, mutate, repair
from vpetl_ray.tuning.space import NothingToTrain, Space, TrialConfig

SPEC = FOLDER.parents[1] / "search_spaces" / "layerwise.yaml"
RUNS = FOLDER / "results" / "layerwise_runs.jsonl"
TABLE = FOLDER / "results" / "layerwise.parquet"


def layerwise_space() -> tuple[RememberedSpace, int]:
    """Return the space and its budget."""
    spec = load_spec(SPEC)
    num_classes = len(demo_classes())
    return RememberedSpace(spec.space(num_classes)), spec.budget_limit(num_classes)


def read_runs(path: Path = RUNS) -> list[dict[str, Any]]:
    """Every run that is on file."""
    if TABLE.exists() and not path.exists():
        rows: list[dict[str, Any]] = pq.read_table(TABLE).to_pylist()
        return [{**row, "values": json.loads(row["values"])} for row in rows]
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _next(
    space: Space, budget: int, runs: Sequence[dict[str, Any]], rng: random.Random
) -> TrialConfig:
    known = {run["key"] for run in runs}
    costs = np.array([[np.log10(run["params"]), -run["top1"][-1]] for run in runs]).reshape(-1, 2)
    best = [runs[index] for index in ranking(costs, num=len(runs) // 4)]
    while True:
        if best and len(runs) % 2:
            values = mutate(space, space.from_json(rng.choice(best)["values"]), rng)
        else:
            values = draw(space, rng)
        try:
            config = repair(space, space.build(values).values, budget)
        except NothingToTrain:
            continue
        if config is not None and config.key not in known:
            return config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=150)
    options = parser.parse_args()
    space, budget = layerwise_space()
    trainer, runs = Trainer(space), read_runs()
    print(f"{len(runs)} runs on file", flush=True)
    while len(runs) < options.trials:
        config = _next(space, budget, runs, random.Random(len(runs)))
        run = {**trainer.run(config, seed=len(runs)), "values": space.to_json(config.values)}
        del run["config"]
        runs.append(run)
        with RUNS.open("a") as file:
            file.write(json.dumps(run) + "\n")
        accuracies = " ".join(f"{top1:.0f}" for top1 in run["top1"])
        print(f"{len(runs):4d} {run['params']:7,d}  {accuracies}  {sum(run['seconds']):.1f} s")
    rows = [{**run, "values": json.dumps(run["values"])} for run in runs]
    pq.write_table(pa.Table.from_pylist(rows), TABLE)


if __name__ == "__main__":
    main()
