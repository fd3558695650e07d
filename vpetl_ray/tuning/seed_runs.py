"""Configs trained with seeds of their own, in warm worker groups, and then measured on test.

One config with several seeds, or several configs with several seeds each: every pair is a run.
What a run goes through: started (`_start`), trained (epochs arrive in `_on_epoch`), kept and
measured (`_on_trained`), recorded (`_on_measured`). Where one fails, that is recorded, and the
others go on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import ray

from vpetl_ray.results.records import EpochRow, TrialRecord, TrialState
from vpetl_ray.tuning.messages import (
    DispatcherHandle,
    EpochReport,
    Outcome,
    OutcomeState,
    TaskKind,
    make_task,
)
from vpetl_ray.tuning.run import Interruption
from vpetl_ray.tuning.searcher import SearchObserver
from vpetl_ray.tuning.space import TrialConfig
from vpetl_ray.tuning.worker_group import CLOSE_SECONDS

WAIT_SECONDS = 1.0
"""How long a wait for news lasts before Python may look at its signals."""


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """One config to be trained with one seed."""

    config: TrialConfig
    seed: int
    """Of data order, views and initial values."""
    record: TrialRecord
    """What its record says besides the results."""


def runs_of(config: TrialConfig, seeds: Sequence[int], blank: TrialRecord) -> list[PlannedRun]:
    """Plan a run for each seed; id, number and `seed` are put into the record."""
    return [
        PlannedRun(config=config, seed=seed, record=_named(blank, number, seed))
        for number, seed in enumerate(seeds)
    ]


@dataclass
class _SeedRun:
    plan: PlannedRun
    record: TrialRecord
    curve: list[EpochRow] = field(default_factory=list)
    measured: Mapping[str, float | int] = field(default_factory=dict)
    test_task: str | None = None
    """Of the evaluation, once it is trained."""

    @property
    def task_id(self) -> str:
        return self.test_task or self.record.id


class SeedRuns:
    """Does all runs, as many at a time as there are groups.

    Args:
        dispatcher: the actor that the groups ask for work.
        runs: their records' ids are all different.
        num_concurrent: the number of groups.
        observers: told of every start, epoch and record.
        keep_tensors: called with a trained run's record and its adapter file's bytes, before it
            is measured.
        with_views: measure on test over all views of a clip, too.
    """

    def __init__(
        self,
        dispatcher: DispatcherHandle,
        runs: Sequence[PlannedRun],
        *,
        num_concurrent: int,
        observers: Sequence[SearchObserver],
        keep_tensors: Callable[[TrialRecord, bytes], None],
        with_views: bool = True,
    ) -> None:
        self._dispatcher = dispatcher
        self._kind: TaskKind = "evaluate_views" if with_views else "evaluate"
        self._waiting = deque(_SeedRun(plan, plan.record) for plan in runs)
        self._num_concurrent = num_concurrent
        self._observers = tuple(observers)
        self._keep_tensors = keep_tensors
        self._interruption = Interruption(dispatcher.close.remote)

    def run(self) -> bool:
        """Run them; False where Ctrl-C or SIGTERM ended it before all of them were measured."""
        live: dict[Any, _SeedRun] = {}
        with self._interruption.listening():
            while live or self._may_start:
                if self._interruption.is_older_than(CLOSE_SECONDS):
                    self._leave(live.values())
                    break
                while self._may_start and len(live) < self._num_concurrent:
                    self._start(self._waiting.popleft(), live)
                ready, _ = ray.wait(list(live), num_returns=1, timeout=WAIT_SECONDS)
                for reference in ready:
                    run = live.pop(reference)
                    if self._take(run, ray.get(reference)):
                        self._listen(run, live)
        return not self._is_interrupted

    @property
    def _may_start(self) -> bool:
        return bool(self._waiting) and not self._is_interrupted

    @property
    def _is_interrupted(self) -> bool:
        return self._interruption.happened

    def _start(self, run: _SeedRun, live: dict[Any, _SeedRun]) -> None:
        recipe = run.plan.config.recipe
        task = make_task(
            run.task_id,
            run.plan.config,
            until_epoch=max(recipe.epochs, recipe.probe_epochs),
            seed=run.plan.seed,
        )
        ray.get(self._dispatcher.submit.remote(task))
        for observer in self._observers:
            observer.on_start(run.record.id, run.record.trainable_params, run.record.name)
        self._listen(run, live)

    def _listen(self, run: _SeedRun, live: dict[Any, _SeedRun]) -> None:
        live[self._dispatcher.next_results.remote(run.task_id)] = run

    def _leave(self, runs: Iterable[_SeedRun]) -> None:
        """Keep what is trained of runs whose group did not answer in time: an epoch can be long."""
        for run in runs:
            if run.test_task is not None:
                self._tell(run.record)

    def _take(self, run: _SeedRun, messages: Sequence[EpochReport | Outcome]) -> bool:
        """Take what came of the seed's present task; False where nothing will come any more."""
        for message in messages:
            if isinstance(message, EpochReport):
                self._on_epoch(run, message)
            elif message.state is not OutcomeState.DONE:
                return self._on_failure(run, message)
            elif run.test_task is None:
                self._on_trained(run, message)
                return True
            else:
                self._on_measured(run)
                return False
        return True

    def _on_epoch(self, run: _SeedRun, report: EpochReport) -> None:
        if run.test_task is not None:
            run.measured = report.metrics
            return
        row = EpochRow.of(report.epoch, report.metrics)
        run.curve.append(row)
        run.record = replace(
            run.record,
            top1=row.top1,
            loss=row.loss,
            epochs=row.epoch,
            seconds=sum(entry.seconds for entry in run.curve),
            group=report.group,
            curve=tuple(run.curve),
        )
        for observer in self._observers:
            observer.on_epoch(run.record.id, row)

    def _on_trained(self, run: _SeedRun, outcome: Outcome) -> None:
        tensors = outcome.final or b""
        self._keep_tensors(run.record, tensors)
        self._dispatcher.forget.remote(run.task_id)
        run.test_task = f"{run.record.id}.test"
        task = make_task(
            run.test_task,
            run.plan.config,
            kind=self._kind,
            start_state=tensors,
            seed=run.plan.seed,
        )
        ray.get(self._dispatcher.submit.remote(task))

    def _on_measured(self, run: _SeedRun) -> None:
        self._tell(
            replace(
                run.record,
                test_top1=float(run.measured["top1"]),
                test_top1_multi_view=run.measured.get("views_top1"),
            )
        )

    def _on_failure(self, run: _SeedRun, outcome: Outcome) -> bool:
        if outcome.state is OutcomeState.CANCELLED and self._is_interrupted:
            if run.test_task is not None:
                self._tell(run.record)  # trained: that is kept
            return False
        reason = outcome.reason or "the worker groups ended"
        if run.test_task is not None:
            reason = f"could not be measured on the test split: {reason}"
        self._tell(replace(run.record, state=TrialState.FAILED, reason=reason))
        return False

    def _tell(self, record: TrialRecord) -> None:
        for observer in self._observers:
            observer.on_record(record)


def _named(blank: TrialRecord, number: int, seed: int) -> TrialRecord:
    config = {**blank.config, "seed": seed}
    return replace(blank, id=f"seed{seed}", number=number, config=config)
