"""What a trial costs beside its training: Ray's own pattern against warm worker groups.

    python -m benchmarks.orchestration.bench [--stock-trials 4] [--warm-trials 60]

Trials are empty: one epoch, which all-reduces one number, reports and ends. Both sides run under
`ray.tune.Tuner` in one Ray session, as many trials at a time, with equal workers (gloo):

- stock: a function trainable that runs `TorchTrainer(...).fit()` and reports through
  `TuneReportCallback`, as Ray's guide to tuning with Ray Train V2 shows it;
- warm: the product's dispatcher, worker groups and `TrialTrainable`.

Seconds a trial are those of one lane: wall time x trials at a time / trials. The start of the warm
groups, which a search pays once, is a figure of its own, and is not in the warm trials' seconds.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.search import Searcher

from benchmarks.report import Figure, print_figures, write_summary
from vpetl_ray.tuning.cluster import GroupPlan, ray_session
from vpetl_ray.tuning.dispatcher_actor import start_dispatcher
from vpetl_ray.tuning.messages import DispatchStats, Task, make_task
from vpetl_ray.tuning.trainable import NO_LIMIT, RUNGS, TRIAL_ID, TrialTrainable
from vpetl_ray.tuning.trial_protocol import EpochOutput, GroupSetup, WorkerContext
from vpetl_ray.tuning.worker_group import WorkerGroups

RATIO_FLOOR = 50.0
OVERHEAD_FLOOR = 0.3


def all_reduce_one() -> float:
    """The epoch of an empty trial."""
    number = torch.ones(1)
    dist.all_reduce(number)
    return float(number.item())


class EmptyRunner:
    """The warm side's trial."""

    def __init__(self, payload: object, context: WorkerContext) -> None:
        self._context = context

    def start(self, task: Task) -> None:
        pass

    def run_epoch(self) -> EpochOutput:
        return EpochOutput(epoch=1, metrics={"top1": all_reduce_one()}, is_last=True)

    def state(self) -> bytes:
        return b""

    def result(self) -> bytes:
        return b""

    def close(self) -> None:
        pass


class SubmitEach(Searcher):
    """The least that a searcher of warm trials does: hand the trial to the dispatcher."""

    def __init__(self, dispatcher: Any, num_trials: int) -> None:
        super().__init__()
        self._dispatcher = dispatcher
        self._left = num_trials

    def __deepcopy__(self, memo: object) -> SubmitEach:
        return self

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        if self._left == 0:
            return Searcher.FINISHED
        self._left -= 1
        ray.get(self._dispatcher.submit.remote(make_task(trial_id, None, until_epoch=NO_LIMIT)))
        return {TRIAL_ID: trial_id, RUNGS: ()}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        self._dispatcher.forget.remote(trial_id)

    def set_search_properties(self, metric: Any, mode: Any, config: Any, **spec: Any) -> bool:
        return True


@dataclass(frozen=True, kw_only=True)
class Warm:
    seconds: float
    start_seconds: float
    stats: DispatchStats


def stock_epoch() -> None:
    """The stock side's trial, in the worker."""
    ray.train.report({"top1": all_reduce_one()})


def run_stock(num_trials: int, lanes: int, workers: int, folder: Path) -> float:
    """Seconds a trial."""

    def drive(config: dict[str, Any]) -> None:
        name = f"train-{tune.get_context().get_trial_id()}"
        ray.train.torch.TorchTrainer(
            stock_epoch,
            scaling_config=ray.train.ScalingConfig(num_workers=workers),
            run_config=ray.train.RunConfig(
                name=name, storage_path=str(folder), callbacks=[TuneReportCallback()]
            ),
        ).fit()

    tuner = tune.Tuner(
        tune.with_resources(drive, {"CPU": 0.01}),
        tune_config=tune.TuneConfig(num_samples=num_trials, max_concurrent_trials=lanes),
        run_config=tune.RunConfig(name="stock", storage_path=str(folder), verbose=0),
    )
    return timed_fit(tuner, num_trials) * lanes / num_trials


def run_warm(num_trials: int, lanes: int, workers: int, folder: Path) -> Warm:
    dispatcher = start_dispatcher()
    plan = GroupPlan(
        num_groups=lanes,
        workers_per_group=workers,
        cpus_per_worker=1,
        gpus_per_worker=0,
        sentence="",
    )
    start = time.perf_counter()
    groups = WorkerGroups(GroupSetup(make_runner=EmptyRunner), plan, dispatcher)
    groups.start()
    if not groups.wait_until_ready(lanes):
        raise SystemExit("the worker groups did not start")
    start_seconds = time.perf_counter() - start
    # Trial actors compute nothing and ask for no CPU. That only so many fit (one trial waits for
    # each group) and not `max_concurrent_trials` is what limits them: Tune hands an actor on only
    # if a trial is already waiting for its resources, else it stops it and starts another.
    share = {"node:__internal_head__": 1 / (2 * lanes)}
    tuner = tune.Tuner(
        tune.with_resources(
            tune.with_parameters(TrialTrainable, dispatcher=dispatcher),
            tune.PlacementGroupFactory([share]),
        ),
        tune_config=tune.TuneConfig(
            search_alg=SubmitEach(dispatcher, num_trials), num_samples=-1, reuse_actors=True
        ),
        run_config=tune.RunConfig(name="warm", storage_path=str(folder), verbose=0),
    )
    seconds = timed_fit(tuner, num_trials) * lanes / num_trials
    stats = ray.get(dispatcher.stats.remote())
    groups.close()
    return Warm(seconds=seconds, start_seconds=start_seconds, stats=stats)


def timed_fit(tuner: tune.Tuner, num_trials: int) -> float:
    start = time.perf_counter()
    results = tuner.fit()
    seconds = time.perf_counter() - start
    if results.num_errors or len(results) != num_trials:
        raise SystemExit(f"{results.num_errors} of {len(results)} trials failed")
    return seconds


@contextmanager
def quiet() -> Iterator[None]:
    os.environ |= {
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_MAX_PENDING_TRIALS_PG": "2",
        "RAY_AIR_NEW_OUTPUT": "0",
    }
    logging.getLogger("ray").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stock-trials", type=int, default=4)
    parser.add_argument("--warm-trials", type=int, default=60)
    parser.add_argument("--lanes", type=int, default=2, help="trials at a time")
    parser.add_argument("--workers", type=int, default=1, help="DDP workers a trial")
    given = parser.parse_args()
    # One logical CPU more than the workers take: the stock side's trial actors ask for a share.
    cpus = given.lanes * given.workers + 1
    with tempfile.TemporaryDirectory() as folder, quiet(), ray_session("local", num_cpus=cpus):
        sizes = {"lanes": given.lanes, "workers": given.workers, "folder": Path(folder)}
        stock = run_stock(given.stock_trials, **sizes)
        warm = run_warm(given.warm_trials, **sizes)
    overhead = statistics.median(warm.stats.overhead_seconds)
    figures = [
        Figure(figure="stock: seconds a trial", value=stock, unit="s", better="lower"),
        Figure(figure="warm: seconds a trial", value=warm.seconds, unit="s", better="lower"),
        Figure(figure="stock / warm", value=stock / warm.seconds, unit="x", floor=RATIO_FLOOR),
        Figure(
            figure="warm: median seconds from a group's last epoch to its next trial's first",
            value=overhead,
            unit="s",
            floor=OVERHEAD_FLOOR,
            better="lower",
        ),
        Figure(
            figure="warm: seconds until all groups are ready, once a search",
            value=warm.start_seconds,
            unit="s",
            better="lower",
        ),
    ]
    trials = f"{given.stock_trials} stock and {given.warm_trials} warm trials"
    print_figures(f"Orchestration: {trials}, {given.lanes} at a time", figures)
    write_summary(Path(__file__).parent, figures)


if __name__ == "__main__":
    main()
