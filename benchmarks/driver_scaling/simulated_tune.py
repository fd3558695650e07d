"""Tune's loop on a simulated clock, around the real searcher, scheduler and dispatcher.

Groups are simulated: an epoch takes a minute of a clock that does not wait. What the driver does is
done for real, and takes as much of that clock as it took CPU time here; so a driver that is too
slow lets groups wait, as it would.
"""

from __future__ import annotations

import heapq
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.search import Searcher

from vpetl_ray.tuning.dispatcher import Dispatcher
from vpetl_ray.tuning.messages import Assignment, EpochReport, Outcome
from vpetl_ray.tuning.rung_scheduler import RungScheduler
from vpetl_ray.tuning.searcher import ParetoSearcher
from vpetl_ray.tuning.trainable import RUNGS, TRIAL_ID, granted_until


class DirectHandle:
    """A dispatcher's actor handle without the actor: a call is made at once, and timed."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self.dispatcher = dispatcher
        self.seconds = 0.0
        self.num_calls = 0

    def __getattr__(self, name: str) -> Any:
        return _Method(self, name)


@dataclass
class _Method:
    handle: DirectHandle
    name: str

    def remote(self, *words: Any, **more: Any) -> Any:
        start = time.thread_time()
        try:
            return getattr(self.handle.dispatcher, self.name)(*words, **more)
        finally:
            self.handle.seconds += time.thread_time() - start
            self.handle.num_calls += 1


@dataclass(eq=False)
class SimTrial:
    """What a scheduler sees of Tune's trial."""

    trial_id: str
    config: dict[str, Any]
    status: str = Trial.RUNNING
    epoch: int = 0


@dataclass(eq=False)
class Group:
    """A worker group: what it holds, and since when it has nothing to do."""

    number: int
    incarnation: int
    sequence: int = 0
    assignment: Assignment | None = None
    idle_since: float = 0.0
    idle_seconds: float = 0.0


@dataclass
class Figures:
    """What a run came to."""

    makespan: float = 0.0
    busy: float = 0.0
    driver_ms: list[float] = field(default_factory=list)
    """CPU time of the driver for each trial's proposal and results."""
    waits_s: list[float] = field(default_factory=list)
    """How long each result waited for the driver."""
    num_epochs: int = 0


class SimulatedTune:
    """One search on so many simulated groups.

    Args:
        searcher: real; asks `handle`.
        scheduler: real, or None.
        handle: of the dispatcher, whose clock is `clock`.
        num_groups: at work from the start.
        epochs: of a trial.
        top1: gives an accuracy from a trial's number of parameters and epoch.
        epoch_seconds: the mean; each differs by up to a fifth.
        tune_seconds: what Tune itself takes for each event, measured elsewhere.
        tracker_seconds: what MLflow's writer takes for each trial. It is a thread of the driver, so
            it is charged as if both shared one core: they share the interpreter. It is not measured
            on the way, as it is far behind on a clock that does not wait.
    """

    def __init__(
        self,
        searcher: ParetoSearcher,
        scheduler: RungScheduler | None,
        handle: DirectHandle,
        *,
        num_groups: int,
        epochs: int,
        top1: Callable[[int, int], float],
        epoch_seconds: float,
        tune_seconds: float,
        tracker_seconds: float,
        advance: Callable[[float], None],
    ) -> None:
        self.search_alg = _SearchAlgorithm()
        self._searcher = searcher
        self._scheduler = scheduler
        self._dispatcher = handle.dispatcher
        self._epochs = epochs
        self._top1 = top1
        self._epoch_seconds = epoch_seconds
        self._tune_seconds = tune_seconds
        self._tracker_seconds = tracker_seconds
        self._owed = 0.0
        self._advance = advance
        self._rng = random.Random(0)
        self._groups = [Group(n, self._dispatcher.open_group(n, 1)) for n in range(num_groups)]
        self._events: list[tuple[float, int, Group]] = []
        self._ties = 0
        self._driver_free = 0.0
        self._trials: dict[str, SimTrial] = {}
        self._live: dict[SimTrial, None] = {}
        """In the order in which they began, as Tune has them."""
        self._cost: dict[str, float] = {}
        self._ended: list[str] = []
        self._undecided: deque[Group] = deque()
        self.figures = Figures()

    # ---- what the scheduler calls ---------------------------------------------------------------

    def get_live_trials(self) -> list[SimTrial]:
        return list(self._live)

    def pause_trial(self, trial: SimTrial, *, should_checkpoint: bool) -> None:
        trial.status = Trial.PAUSED

    def stop_trial(self, trial: SimTrial) -> None:
        if trial.status in (Trial.RUNNING, Trial.PAUSED):
            self._searcher.on_trial_complete(trial.trial_id)
            self._end(trial)

    # ---- the loop -------------------------------------------------------------------------------

    def run(self) -> Figures:
        """Search until every trial has ended."""
        self._propose(0.0)
        self._hand_out(self._driver_free)
        while self._events:
            now, _, group = heapq.heappop(self._events)
            self._advance(now)
            self._end_epoch(group, now)
        self.figures.driver_ms = [1e3 * self._cost[trial_id] for trial_id in self._ended]
        idle = sum(group.idle_seconds for group in self._groups)
        self.figures.busy = 1.0 - idle / max(1e-9, self.figures.makespan * len(self._groups))
        return self.figures

    def _end_epoch(self, group: Group, now: float) -> None:
        assert group.assignment is not None
        lease = group.assignment.lease
        trial = self._trials[lease.trial_id]
        trial.epoch += 1
        self.figures.num_epochs += 1
        is_last = trial.epoch == self._epochs
        params = int(trial.config["trainable_params"])
        metrics = {"top1": self._top1(params, trial.epoch), "seconds": self._epoch_seconds}
        final = b"tensors" if is_last else None
        self._dispatcher.report(
            lease, epoch=trial.epoch, metrics=metrics, state=b"state", final=final
        )
        group.idle_since = now
        if is_last:
            group.assignment, group.sequence = None, group.sequence + 1
        else:
            self._undecided.append(group)
            self._decide(now)  # without a rung it goes on at once
        self._drive(trial, now)
        self._decide(self._driver_free)
        self._hand_out(self._driver_free)

    def _drive(self, trial: SimTrial, now: float) -> None:
        """Do what the driver does with a result; its time passes on the simulated clock."""
        start = max(now, self._driver_free)
        self.figures.waits_s.append(start - now)
        before = time.thread_time()
        self._take(trial)
        self._cost[trial.trial_id] += self._pass(start, before)
        self._propose(self._driver_free)

    def _pass(self, start: float, before: float) -> float:
        spent = time.thread_time() - before + self._tune_seconds + self._owed
        self._owed = 0.0
        self._driver_free = start + spent
        return spent

    def _take(self, trial: SimTrial) -> None:
        messages = self._dispatcher.next_results(trial.config[TRIAL_ID]) or []
        reports = [m for m in messages if isinstance(m, EpochReport)]
        outcome = next((m for m in messages if isinstance(m, Outcome)), None)
        result = {
            "top1": float(reports[-1].metrics["top1"]),
            "epoch": reports[-1].epoch,
            "curve": [{"epoch": r.epoch, **r.metrics} for r in reports],
            "group": reports[-1].group,
            "outcome": outcome.state.value if outcome else None,
            "reason": None,
            "done": outcome is not None,
        }
        if outcome is not None:
            if self._scheduler is not None:
                self._scheduler.on_trial_complete(self, trial, result)  # type: ignore[arg-type]
            self._searcher.on_trial_complete(trial.trial_id, result)
            self._end(trial)
        else:
            decision = RungScheduler.CONTINUE
            if self._scheduler is not None:
                decision = self._scheduler.on_trial_result(self, trial, result)  # type: ignore[arg-type]
            self._searcher.on_trial_result(trial.trial_id, result)
            if decision == RungScheduler.CONTINUE:
                until = granted_until(trial.epoch, tuple(trial.config[RUNGS]))
                self._dispatcher.grant(trial.config[TRIAL_ID], until)
            elif decision == RungScheduler.STOP:
                self.stop_trial(trial)
        if self._scheduler is not None:
            chosen = self._scheduler.choose_trial_to_run(self)
            if chosen is not None:
                chosen.status = Trial.RUNNING

    def _end(self, trial: SimTrial) -> None:
        trial.status = Trial.TERMINATED
        self._owed += self._tracker_seconds
        self._live.pop(trial, None)
        self._ended.append(trial.trial_id)

    def _propose(self, start: float) -> None:
        """Ask for trials until one waits, or there are no more."""
        while not self.search_alg.finished:
            before = time.thread_time()
            trial_id = f"tune{len(self._cost)}"
            config = self._searcher.suggest(trial_id)
            if config is None:
                return
            spent = self._pass(start, before)
            start = self._driver_free
            if config == Searcher.FINISHED:
                self.search_alg.finished = True
                return
            trial = SimTrial(trial_id, config)  # type: ignore[arg-type]
            self._trials[trial.config[TRIAL_ID]] = trial
            self._live[trial] = None
            self._cost[trial_id] = spent
            if self._scheduler is not None:
                self._scheduler.on_trial_add(self, trial)  # type: ignore[arg-type]
            self._hand_out(start)

    def _decide(self, now: float) -> None:
        for _ in range(len(self._undecided)):
            group = self._undecided.popleft()
            assert group.assignment is not None
            lease = group.assignment.lease
            trial = self._trials[lease.trial_id]
            goes_on = self._dispatcher.may_continue(lease, 0, trial.epoch)
            if goes_on is None:
                self._undecided.append(group)
            elif goes_on:
                self._begin_epoch(group, now)
            else:
                group.assignment, group.sequence = None, group.sequence + 1
                group.idle_since = min(group.idle_since, now)

    def _hand_out(self, now: float) -> None:
        for group in self._groups:
            if not self._dispatcher.num_queued:
                return
            if group.assignment is None:
                found = self._dispatcher.next_task(
                    group.number, group.incarnation, 0, group.sequence
                )
                if isinstance(found, Assignment):
                    group.assignment = found
                    self._begin_epoch(group, now)

    def _begin_epoch(self, group: Group, now: float) -> None:
        begin = max(now, group.idle_since)
        if not self.search_alg.finished:
            group.idle_seconds += begin - group.idle_since
            self.figures.makespan = begin
        seconds = self._epoch_seconds * self._rng.uniform(0.8, 1.2)
        self._ties += 1
        heapq.heappush(self._events, (begin + seconds, self._ties, group))


@dataclass
class _SearchAlgorithm:
    finished: bool = False

    def is_finished(self) -> bool:
        return self.finished
