"""What Tune's own loop and Ray's messages take of the driver: the part that is not simulated.

Real are Tuner, trial actors, dispatcher actor, searcher, scheduler and study. The groups are
coroutines of one actor that ask the dispatcher as workers do; their epochs are as long as it takes
for about ten results a second, which is what 512 groups of 60-second epochs send.
"""

from __future__ import annotations

import asyncio
import functools
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from vpetl_ray.results.records import EpochRow, TrialRecord
from vpetl_ray.spec.search_spec import SearchSpec
from vpetl_ray.tuning import rung_scheduler, searcher
from vpetl_ray.tuning.budgeted_study import BudgetedStudy
from vpetl_ray.tuning.cluster import ray_session
from vpetl_ray.tuning.dispatcher_actor import start_dispatcher
from vpetl_ray.tuning.halving import Halving, default_rungs
from vpetl_ray.tuning.messages import Assignment, Signal
from vpetl_ray.tuning.run import run_trials

RESULTS_A_SECOND = 10.0
WARM_UP = 3
"""Trials of each group that are not counted: until then Tune starts actors."""


class Groups:
    """So many worker groups that compute nothing, in one actor."""

    def __init__(self, dispatcher: Any, epochs: int, epoch_seconds: float) -> None:
        self._dispatcher = dispatcher
        self._epochs = epochs
        self._seconds = epoch_seconds

    async def work(self, num_groups: int) -> None:
        """Until the dispatcher closes."""
        await asyncio.gather(*(self._group(number) for number in range(num_groups)))

    async def _group(self, number: int) -> None:
        ask = self._dispatcher
        incarnation = await ask.open_group.remote(number, 1)
        sequence = 0
        while (found := await ask.next_task.remote(number, incarnation, 0, sequence)) is not (
            Signal.CLOSE
        ):
            if isinstance(found, Assignment):
                sequence += 1
                await self._train(found)

    async def _train(self, found: Assignment) -> None:
        lease, epoch = found.lease, 0
        if found.task.start_state:
            epoch = int(found.task.start_state)
        goes_on: bool | None = True
        while goes_on:
            epoch += 1
            await asyncio.sleep(self._seconds * random.uniform(0.8, 1.2))
            is_last = epoch == self._epochs
            await self._dispatcher.report.remote(
                lease,
                epoch=epoch,
                metrics={"top1": random.gauss(50.0, 5.0), "loss": 1.0, "seconds": self._seconds},
                state=None if is_last else str(epoch).encode(),
                final=b"tensors" if is_last else None,
            )
            goes_on = None
            while goes_on is None and not is_last:
                goes_on = await self._dispatcher.may_continue.remote(lease, 0, epoch)


@dataclass
class Meter:
    """CPU seconds of the driver's main thread: in all, and of what the simulation has as well."""

    own: float = 0.0
    depth: int = 0
    num_events: int = 0
    num_records: int = 0
    marks: list[tuple[int, float, float]] = field(default_factory=list)
    """Events, all and own seconds at each record."""

    def __enter__(self) -> None:
        if self.depth == 0:
            self.own -= time.thread_time()
        self.depth += 1

    def __exit__(self, *_: object) -> None:
        self.depth -= 1
        if self.depth == 0:
            self.own += time.thread_time()

    @contextmanager
    def left_out(self) -> Iterator[None]:
        """A message within our own code: the simulation has none."""
        start = time.thread_time()
        try:
            yield
        finally:
            self.own -= time.thread_time() - start if self.depth else 0.0

    def on_start(self, trial_id: str, trainable_params: int, name: str | None) -> None:
        self.num_events += 1

    def on_epoch(self, trial_id: str, row: EpochRow) -> None:
        self.num_events += 1

    def on_record(self, record: TrialRecord) -> None:
        own = self.own + (time.thread_time() if self.depth else 0.0)
        self.marks.append((self.num_events, time.thread_time(), own))


OURS = {
    searcher.ParetoSearcher: ("suggest", "on_trial_result", "on_trial_complete"),
    rung_scheduler.RungScheduler: (
        "on_trial_add",
        "on_trial_result",
        "on_trial_complete",
        "choose_trial_to_run",
    ),
}


@contextmanager
def metered(meter: Meter) -> Iterator[None]:
    """Measure what our own classes take within the block, their messages left out."""
    kept = [(owner, name, getattr(owner, name)) for owner, names in OURS.items() for name in names]

    def timed(function: Any) -> Any:
        @functools.wraps(function)
        def call(*words: Any, **more: Any) -> Any:
            with meter:
                return function(*words, **more)

        return call

    def get(answer: Any) -> Any:
        with meter.left_out():
            return ray.get(answer)

    modules: tuple[Any, ...] = (searcher, rung_scheduler)
    for owner, name, function in kept:
        setattr(owner, name, timed(function))
    for module in modules:
        module.ray = SimpleNamespace(get=get, exceptions=ray.exceptions)
    try:
        yield
    finally:
        for owner, name, function in kept:
            setattr(owner, name, function)
        for module in modules:
            module.ray = ray


def tune_milliseconds(
    spec: SearchSpec, num_classes: int, *, num_groups: int, num_trials: int, epochs: int
) -> float:
    """Of Tune and Ray in the driver's main thread, for each proposal and each result."""
    meter = Meter()
    with tempfile.TemporaryDirectory() as folder, ray_session("local", num_cpus=1):
        dispatcher = start_dispatcher()
        study = BudgetedStudy(
            Path(folder) / "study.db",
            space=spec.space(num_classes),
            budget=spec.budget_limit(num_classes),
            sampler="random",
            seed=0,
            start=[],
            on_record=meter.on_record,
        )
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        groups = (
            ray.remote(Groups)
            .options(num_cpus=0, max_concurrency=8, scheduling_strategy=here)
            .remote(dispatcher, epochs, num_groups / RESULTS_A_SECOND)
        )
        done = groups.work.remote(num_groups)
        with metered(meter):
            run_trials(
                study,
                dispatcher,
                num_trials=num_trials,
                num_concurrent=num_groups,
                max_minutes=None,
                observers=[meter],
                keep_tensors=lambda record, tensors: None,
                halving=Halving(default_rungs(epochs)),
                grows=True,
            )
        ray.get(dispatcher.close.remote())
        ray.get(done)
    events, seconds, own = (
        end - begin
        for begin, end in zip(
            meter.marks[WARM_UP * num_groups], meter.marks[-num_groups - 1], strict=True
        )
    )
    return 1e3 * (seconds - own) / events


class Waiting:
    """Answers after a while, as trial actors do that wait for an epoch."""

    async def step(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def wait_milliseconds(num_trials: int, num_events: int = 300) -> float:
    """Of Tune's wait for the next of so many running trials, in the driver's main thread.

    That is what grows with their number, and one process stands for all of them here: so many trial
    actors as 512 groups have do not fit into one machine.
    """
    with ray_session("local", num_cpus=1):
        actor = ray.remote(Waiting).options(num_cpus=0, max_concurrency=10_000).remote()
        ray.get(actor.step.remote(0.0))
        seconds = num_trials / RESULTS_A_SECOND
        # As if all had been at work for long: the next one is due soon.
        futures = {actor.step.remote(random.uniform(0.0, 2.0) * seconds) for _ in range(num_trials)}
        spent = 0.0
        for _ in range(num_events):
            start = time.thread_time()
            shuffled = list(futures)
            random.shuffle(shuffled)
            [ready], _ = ray.wait(shuffled, num_returns=1)
            futures.remove(ready)
            spent += time.thread_time() - start
            futures.add(actor.step.remote(random.uniform(0.8, 1.2) * seconds))
    return 1e3 * spent / num_events
