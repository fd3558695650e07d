"""N workers that train what a search hands them, on a clock that does not wait.

Asynchronous as in a real search: a worker that is done asks at once, whatever the others do. An
epoch takes as long, and brings what, it took and brought when the config was really trained.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from benchmarks.search_quality.table import Curve
from vpetl_ray.tuning.halving import Decision


@dataclass(frozen=True, kw_only=True)
class Job:
    """A trial that is to be trained on."""

    trial: int
    key: str
    """Of its config."""
    epoch: int = 0
    """That it has come to already."""


class SimulatedSearch(Protocol):
    """What a search does when a worker is free, and when a trial has finished an epoch."""

    def next_job(self) -> Job | None:
        """Return what a free worker should train; None if nothing, for now."""

    def report(self, job: Job, epoch: int, curve: Curve) -> Decision:
        """A trial has finished an epoch short of its last."""

    def finish(self, job: Job, curve: Curve) -> None:
        """A trial has finished its last epoch."""


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One epoch that was trained."""

    seconds: float
    """Since the search began."""
    curve: Curve
    epoch: int
    is_final: bool


def simulate(
    search: SimulatedSearch,
    curve_of: Callable[[Job], Curve],
    *,
    num_workers: int,
    max_seconds: float,
) -> list[Epoch]:
    """Run a search until its time is up or it has nothing left to train.

    Args:
        search: what is simulated.
        curve_of: how a job's trial trains.
        num_workers: jobs at a time.
        max_seconds: of the simulated clock. What runs then is lost.

    Returns:
        Every epoch, in the order in which they ended.
    """
    epochs: list[Epoch] = []
    ties = itertools.count()  # equal times: first come, first served
    events: list[tuple[float, int, Job, int]] = []
    num_free, now = num_workers, 0.0

    def begin(job: Job, epoch: int) -> None:
        heapq.heappush(events, (now + curve_of(job).seconds[epoch - 1], next(ties), job, epoch))

    while True:
        while num_free and (job := search.next_job()) is not None:
            begin(job, job.epoch + 1)
            num_free -= 1
        if not events or events[0][0] > max_seconds:
            return epochs
        now, _, job, epoch = heapq.heappop(events)
        curve = curve_of(job)
        is_final = epoch == len(curve.top1)
        epochs.append(Epoch(seconds=now, curve=curve, epoch=epoch, is_final=is_final))
        if is_final:
            search.finish(job, curve)
        elif search.report(job, epoch, curve) is Decision.CONTINUE:
            begin(job, epoch + 1)
            continue
        num_free += 1
