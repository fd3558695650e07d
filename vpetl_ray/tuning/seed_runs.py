"""One config trained once for each seed, in warm worker groups, and then measured on test.

What a seed goes through: started (`_start`), trained (epochs arrive in `_on_epoch`), kept and
measured (`_on_trained`), recorded (`_on_measured`). Where one fails, that is recorded, and the
others go on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import ray

from vpetl_ray.results.records import EpochRow, TrialRecord, TrialState
from vpetl_ray.tuning.messages import (
    DispatcherHandle,
    EpochReport,
    Outcome,
    OutcomeState,
    make_task,
)
from vpetl_ray.tuning.run import Interruption
from vpetl_ray.tuning.searcher import SearchObserver
from vpetl_ray.tuning.space import TrialConfig

WAIT_SECONDS = 1.0
"""How long a wait for news lasts before Python may look at its signals."""


@dataclass
class _SeedRun:
    seed: int
    record: TrialRecord
    curve: list[EpochRow] = field(default_factory=list)
    measured: Mapping[str, float | int] = field(default_factory=dict)
    test_task: str | None = None
    """Of the evaluation, once it is trained."""

    @property
    def task_id(self) -> str:
        return self.test_task or self.record.id


class SeedRuns:
    """Runs all seeds, as many at a time as there are groups.

    Args:
        dispatcher: the actor that the groups ask for work.
        config: what every seed trains.
        seeds: of data order, views and initial values.
        blank: what a seed's record says besides its results; id, number and `seed` are put in.
        num_concurrent: the number of groups.
        observers: told of every start, epoch and record.
        keep_tensors: called with a trained seed's record and its adapter file's bytes, before it
            is measured.
    """

    def __init__(
        self,
        dispatcher: DispatcherHandle,
        config: TrialConfig,
        seeds: Sequence[int],
        *,
        blank: TrialRecord,
        num_concurrent: int,
        observers: Sequence[SearchObserver],
        keep_tensors: Callable[[TrialRecord, bytes], None],
    ) -> None:
        self._dispatcher = dispatcher
        self._config = config
        self._waiting = deque(
            _SeedRun(seed, _named(blank, n, seed)) for n, seed in enumerate(seeds)
        )
        self._num_concurrent = num_concurrent
        self._observers = tuple(observers)
        self._keep_tensors = keep_tensors
        self._interruption = Interruption(lambda: ray.get(dispatcher.close.remote()))

    def run(self) -> bool:
        """Run them; False where Ctrl-C or SIGTERM ended it before all of them were measured."""
        live: dict[Any, _SeedRun] = {}
        with self._interruption.listening():
            while live or (self._waiting and not self._is_interrupted):
                while self._waiting and len(live) < self._num_concurrent:
                    self._start(self._waiting.popleft(), live)
                ready, _ = ray.wait(list(live), num_returns=1, timeout=WAIT_SECONDS)
                for reference in ready:
                    run = live.pop(reference)
                    if self._take(run, ray.get(reference)):
                        self._listen(run, live)
        return not self._is_interrupted

    @property
    def _is_interrupted(self) -> bool:
        return self._interruption.happened.is_set()

    def _start(self, run: _SeedRun, live: dict[Any, _SeedRun]) -> None:
        recipe = self._config.recipe
        task = make_task(
            run.task_id,
            self._config,
            until_epoch=max(recipe.epochs, recipe.probe_epochs),
            seed=run.seed,
        )
        ray.get(self._dispatcher.submit.remote(task))
        for observer in self._observers:
            observer.on_start(run.record.id, run.record.trainable_params, run.record.name)
        self._listen(run, live)

    def _listen(self, run: _SeedRun, live: dict[Any, _SeedRun]) -> None:
        live[self._dispatcher.next_results.remote(run.task_id)] = run

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
            self._config,
            kind="evaluate_views",
            start_state=tensors,
            seed=run.seed,
        )
        ray.get(self._dispatcher.submit.remote(task))

    def _on_measured(self, run: _SeedRun) -> None:
        self._tell(
            replace(
                run.record,
                test_top1=float(run.measured["top1"]),
                test_top1_multi_view=float(run.measured["views_top1"]),
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
