"""Train every config of `space.yaml` on the demo, once for all searches that are compared on it.

    python -m benchmarks.search_quality.tabulate [--processes 2] [--seeds 0 1]

Every config, two seeds, every epoch's validation accuracy, the test accuracy at the end, and the
CPU time of each epoch: as a warm group would spend it, with what is frozen computed before. Every
second one of the demo's training clips is trained on, which halves the hours that this takes. Each
run is appended to `results/runs.jsonl` as it ends; a run that is there is not done again, so they
may be spent in pieces. When none is missing, `results/table.parquet` is written.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any

import torch

from benchmarks.demo_task.clips import target_clips
from benchmarks.search_quality.table import RUNS, TABLE, tabulated_space
from vpetl_ray.data.demo import DEMO_CHECKPOINT, demo_classes
from vpetl_ray.models.build import build_model
from vpetl_ray.models.checkpoints import load_backbone, weights_fingerprint
from vpetl_ray.petl.attach import attach
from vpetl_ray.training.clips import ClipSource
from vpetl_ray.training.evaluation import evaluate
from vpetl_ray.training.features import FeatureCache
from vpetl_ray.training.loop import FineTuning
from vpetl_ray.tuning.space import Space, TrialConfig

SEEDS = (0, 1)


class EverySecond:
    """Half of the clips of a source."""

    def __init__(self, clips: ClipSource, name: str) -> None:
        self._clips = clips
        self._indices = torch.arange(0, len(clips), 2)
        self.labels = clips.labels[self._indices]
        self.train_views = clips.train_views
        self.id = f"{name}/2"

    def __len__(self) -> int:
        return len(self._indices)

    def batch(
        self, indices: Sequence[int] | torch.Tensor, *, epoch: int, train: bool
    ) -> torch.Tensor:
        chosen = self._indices[torch.as_tensor(indices)]
        return self._clips.batch(chosen, epoch=epoch, train=train)


class Trainer:
    """Trains one config after another in one backbone, as a warm worker does."""

    def __init__(self, space: Space) -> None:
        torch.set_num_threads(1)
        self.space = space
        train, self.val, self.test = target_clips()
        self.train = EverySecond(train, train.id)
        self.model = build_model(self.space.arch, len(demo_classes()))
        load_backbone(self.model, DEMO_CHECKPOINT)
        self.features = FeatureCache()

    def run(self, config: TrialConfig, seed: int) -> dict[str, Any]:
        attached = attach(self.model, config.petl, seed=seed)
        tuning = FineTuning(
            self.model,
            attached,
            self.train,
            self.val,
            config.recipe,
            seed=seed,
            features=self.features,
        )
        top1, seconds = [], []
        try:
            tuning._fill_cache()  # warm groups have it: it belongs to no trial
            while not tuning.done:
                start = time.process_time()
                top1.append(tuning.run_epoch().top1)
                seconds.append(time.process_time() - start)
            test = evaluate(self.model, self.test).top1
        finally:
            attached.detach()
        return {
            "key": config.key,
            "seed": seed,
            "config": dict(self.space.config_columns(config.values)),
            "params": self.space.count(config),
            "top1": top1,
            "seconds": seconds,
            "test_top1": test,
        }


_trainers: list[Trainer] = []


def _start_worker() -> None:
    _trainers.append(Trainer(tabulated_space()))


def _train(stored: Mapping[str, Any], seed: int) -> dict[str, Any]:
    trainer = _trainers[0]
    return trainer.run(trainer.space.build(trainer.space.from_json(stored)), seed)


def read_runs(task: str) -> list[dict[str, Any]]:
    """Every run of this task that is on file."""
    lines = RUNS.read_text().splitlines() if RUNS.exists() else []
    return [run for line in lines if (run := json.loads(line))["task"] == task]


def _missing(space: Space, seeds: list[int], done: set[tuple[str, int]]) -> Iterator[Any]:
    configs = [space.build(values) for values in space.grid()]
    random.Random(0).shuffle(configs)  # so that a part of the table is a fair part
    for seed in seeds:
        for config in configs:
            if (config.key, seed) not in done:
                yield space.to_json(config.values), seed


def _write_table(runs: list[dict[str, Any]]) -> None:
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    rows = [{**run, "config": json.dumps(run["config"])} for run in runs]
    for row in rows:
        del row["task"]
    pq.write_table(pa.Table.from_pylist(sorted(rows, key=lambda r: (r["key"], r["seed"]))), TABLE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="*", default=list(SEEDS))
    options = parser.parse_args()
    space = tabulated_space()
    task = f"{weights_fingerprint(DEMO_CHECKPOINT)[:12]}/{target_clips()[0].id}/2"
    done = {(run["key"], run["seed"]) for run in read_runs(task)}
    missing = list(_missing(space, options.seeds, done))
    print(f"{len(done)} runs on file, {len(missing)} to do", flush=True)
    RUNS.parent.mkdir(exist_ok=True)
    with ProcessPoolExecutor(options.processes, initializer=_start_worker) as pool:
        futures = [pool.submit(_train, stored, seed) for stored, seed in missing]
        for number, future in enumerate(as_completed(futures), start=1):
            run = future.result()
            with RUNS.open("a") as file:
                file.write(json.dumps({"task": task, **run}) + "\n")
            best, cost = max(run["top1"]), sum(run["seconds"])
            print(
                f"{number:4d} seed {run['seed']} {run['params']:7,d} "
                f"val {run['top1'][-1]:5.1f} (best {best:5.1f})  {cost:5.1f} s",
                flush=True,
            )
    runs = read_runs(task)
    if {(run["key"], run["seed"]) for run in runs} >= {
        (space.build(values).key, seed) for values in space.grid() for seed in SEEDS
    }:
        _write_table(runs)
        print(f"wrote {TABLE.name}: {len(runs)} runs")


if __name__ == "__main__":
    main()
