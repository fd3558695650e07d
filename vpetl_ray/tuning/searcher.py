"""The Ray Tune searcher: proposals from the budgeted study, results back into it.

The life of a trial, and which function does each step:

1. asked      `BudgetedStudy.ask`: Optuna proposes values, the space builds the config
2. counted    `BudgetedStudy.ask`: over the budget is recorded as infeasible and asked again
3. queued     `ParetoSearcher.suggest`: handed to the dispatcher, then to Tune
4. trained    `trial_runner`, in whichever worker group is free
5. reported   `TrialTrainable.step`: epochs travel from the dispatcher to Tune
6. decided    the scheduler's `on_trial_result`: go on or stop, at rungs only
7. told       `ParetoSearcher.on_trial_complete` -> `BudgetedStudy.tell`
8. logged     the observers: table, files, MLflow
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Protocol

import ray
from ray.actor import ActorHandle
from ray.tune.search import Searcher

from vpetl_ray.results.objectives import COSTS, TRAIN_SECONDS, Known
from vpetl_ray.results.records import EpochRow, TrialRecord, TrialState
from vpetl_ray.tuning.budgeted_study import BudgetedStudy, Proposal, number_of
from vpetl_ray.tuning.dispatcher_actor import is_there
from vpetl_ray.tuning.halving import Halving, Worth
from vpetl_ray.tuning.messages import EpochReport, OutcomeState, make_task
from vpetl_ray.tuning.rung_checkpoints import RungCheckpoints
from vpetl_ray.tuning.search_clock import SearchClock
from vpetl_ray.tuning.trainable import (
    RUNGS,
    TRAINABLE_PARAMS,
    TRIAL_ID,
    NotSaved,
    granted_until,
)


class SearchObserver(Protocol):
    """Somebody who watches a search. Called in the driver, from one thread; must not block."""

    def on_start(self, trial_id: str, trainable_params: int, name: str | None) -> None:
        """A trial was handed to the worker groups."""

    def on_epoch(self, trial_id: str, row: EpochRow) -> None:
        """A trial finished an epoch."""

    def on_record(self, record: TrialRecord) -> None:
        """A trial reached its final state, or a proposal was found infeasible."""


@dataclass
class _LiveTrial:
    proposal: Proposal
    curve: list[EpochRow] = field(default_factory=list)
    group: int | None = None
    costs: dict[str, float] = field(default_factory=dict)
    """Further objectives that were counted or measured."""


class ParetoSearcher(NotSaved, Searcher):
    """Hands out at most `num_trials` proposals and keeps the books of those that run.

    Args:
        study: where proposals come from and records go.
        dispatcher: the actor that the worker groups ask for work.
        num_trials: trials to train in the whole search, those of an earlier run included.
        deadline: `clock()` after which nothing new is started.
        halving: decides at its rungs; None trains every trial to its end.
        checkpoints: where trials are kept that have come to a rung.
        has_enough: says that enough trials wait for a group, so that none is proposed yet; None
            where Tune's own resources limit them.
        observers: told of every start, epoch and record.
        keep_tensors: called with a complete trial's record and its adapter file's bytes, before
            the record is final.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        study: BudgetedStudy,
        dispatcher: ActorHandle[Any],
        *,
        num_trials: int,
        deadline: float | None = None,
        halving: Halving | None = None,
        checkpoints: RungCheckpoints | None = None,
        has_enough: Callable[[], bool] | None = None,
        observers: Sequence[SearchObserver] = (),
        keep_tensors: Callable[[TrialRecord, bytes], None] = lambda record, tensors: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(metric="top1", mode="max")
        self._study = study
        self._dispatcher = dispatcher
        self._num_left = max(0, num_trials - study.num_trained)
        self._deadline = deadline
        self._halving = halving
        if halving is not None:
            halving.judge = self._worth
        self._checkpoints = checkpoints
        self._has_enough = has_enough
        for record in study.records:
            self._restore(record.id, record.trainable_params, record.curve, record.costs)
            if checkpoints is not None:
                checkpoints.discard(record.id)  # a driver killed between the record and this
        self._observers = tuple(observers)
        self._keep_tensors = keep_tensors
        self._clock = clock
        self._spent = SearchClock(study.records, clock=clock)
        self._live: dict[str, _LiveTrial] = {}
        self._is_interrupted = False
        self._last_failure: str | None = None
        self.is_exhausted = False
        """The space had nothing new within the budget before all trials were used."""
        self.failure: str | None = None
        """Why the search cannot go on."""

    def interrupt(self) -> None:
        """Start nothing more, and leave what is running to be taken up by the next run."""
        self._is_interrupted = True

    def set_search_properties(
        self, metric: str | None, mode: str | None, config: Mapping[str, Any], **spec: Any
    ) -> bool:
        """Tune asks whether its own metric and space can be used: ours are set already."""
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """The next trial for Tune, None for not yet, or FINISHED."""
        if not self._may_begin():
            return Searcher.FINISHED
        if self._has_enough is not None and self._has_enough():
            return None
        proposal = self._study.ask()
        if proposal is None:
            self.is_exhausted = True
            return Searcher.FINISHED
        self._num_left -= 1
        # A probe is trained on features that are computed once: there is nothing to save.
        rungs = () if self._halving is None or proposal.config.is_probe else self._halving.rungs
        self._live[trial_id] = self._submit(proposal, rungs)
        for observer in self._observers:
            observer.on_start(proposal.id, proposal.trainable_params, proposal.name)
        return {
            TRIAL_ID: proposal.id,
            RUNGS: list(rungs),
            TRAINABLE_PARAMS: proposal.trainable_params,
        }

    def _may_begin(self) -> bool:
        is_late = self._deadline is not None and self._clock() >= self._deadline
        return self._num_left > 0 and not is_late and not self._is_interrupted

    def _worth(self, waiting: Sequence[str]) -> Worth | None:
        numbers = [number_of(trial) for trial in waiting]
        is_new_possible = self._may_begin() and not self.is_exhausted
        return self._study.worth(numbers, is_new_possible=is_new_possible)

    def _submit(self, proposal: Proposal, rungs: tuple[int, ...]) -> _LiveTrial:
        """Queue the trial, or let it wait at the rung where an earlier run left it."""
        kept = self._checkpoints.read(proposal.id) if self._checkpoints and rungs else None
        if kept is None or not proposal.curve:
            task = make_task(proposal.id, proposal.config, until_epoch=granted_until(0, rungs))
            ray.get(self._dispatcher.submit.remote(task))
            return _LiveTrial(proposal, costs=dict(proposal.costs))
        last = proposal.curve[-1]
        self._restore(proposal.id, proposal.trainable_params, proposal.curve[:-1], proposal.costs)
        task = make_task(proposal.id, proposal.config, until_epoch=last.epoch, start_state=kept)
        metrics = {name: value for name, value in vars(last).items() if value is not None}
        report = EpochReport(
            trial_id=proposal.id, epoch=last.epoch, metrics=metrics, is_last=False, group=None
        )
        ray.get(self._dispatcher.park.remote(task, report))
        return _LiveTrial(proposal, curve=list(proposal.curve), costs=dict(proposal.costs))

    def _restore(
        self, name: str, params: int, curve: Sequence[EpochRow], costs: Mapping[str, float]
    ) -> None:
        if self._halving is None or not curve:
            return
        known = {row.epoch: row.top1 for row in curve if row.top1 is not None}
        seconds = accumulate(row.seconds for row in curve)
        costs_at = {
            row.epoch: tuple(self._with_seconds(costs, spent).values())
            for row, spent in zip(curve, seconds, strict=True)
        }
        self._halving.restore(name, params, known, costs_at)

    def costs_of(self, trial_id: str) -> tuple[float, ...]:
        """Return a trial's further objectives as far as they are known."""
        return tuple(self._costs(self._live[trial_id]).values())

    def _with_seconds(self, costs: Mapping[str, float], seconds: float) -> dict[str, float]:
        """Give the search's further objectives that are known, in the search's order."""
        known = {**costs, TRAIN_SECONDS: seconds}
        return {name: known[name] for name in self._study.costs if name in known}

    def _costs(self, live: _LiveTrial) -> dict[str, float]:
        return self._with_seconds(live.costs, sum(row.seconds for row in live.curve))

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Keep the epochs that a result brings."""
        live = self._live.get(trial_id)
        if live is None:
            return
        if result.get("group") is not None:
            live.group = int(result["group"])
        for entry in result.get("curve", ()):
            row = EpochRow.of(entry["epoch"], entry)
            live.costs |= _measured_in(entry)
            if live.curve and row.epoch <= live.curve[-1].epoch:
                continue  # Tune hands the last result to on_trial_complete once more
            live.curve.append(row)
            self._spent.count_epoch(is_probe=live.proposal.config.is_probe, epoch=row.epoch)
            for observer in self._observers:
                observer.on_epoch(live.proposal.id, row)
            if self._halving is not None and row.epoch in self._halving.rungs:
                self._study.observe(live.proposal.number, live.curve, self._costs(live))
                self._keep(live)

    def _keep(self, live: _LiveTrial) -> None:
        """Keep a trial that has come to a rung, so that a search that goes on has it there."""
        if self._checkpoints is None:
            return
        state: Any = ray.get(self._dispatcher.checkpoint.remote(live.proposal.id))
        if state is not None:
            # In this order: an epoch that is known and not kept is trained again, and read once.
            self._study.keep_curve(live.proposal.number, live.curve, live.costs)
            self._checkpoints.keep(live.proposal.id, state)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Turn the trial into a record, keep its tensors and teach the sampler."""
        self.on_trial_result(trial_id, result or {})
        live = self._live.pop(trial_id, None)
        if live is None:
            return
        if error and not is_there(self._dispatcher):
            self._is_interrupted = True
            return  # as below
        if self._is_left_behind(result or {}):
            return  # stays RUNNING in the study: the next run takes it up again
        state, reason = self._state_of(live, result or {}, error)
        record = self._record(live, state, reason)
        if state is TrialState.COMPLETE:
            tensors: Any = ray.get(self._dispatcher.final.remote(live.proposal.id))
            self._keep_tensors(record, tensors)
        self._study.tell(record)
        self._dispatcher.forget.remote(live.proposal.id)
        if self._checkpoints is not None:
            self._checkpoints.discard(live.proposal.id)

    def _is_left_behind(self, result: Mapping[str, Any]) -> bool:
        """Whether the trial ended with the search, and not by itself or by the scheduler."""
        outcome = result.get("outcome")
        if outcome == OutcomeState.CANCELLED.value and not self._is_interrupted:
            self.failure = self._last_failure or "the worker groups ended"
            self._is_interrupted = True
        return self._is_interrupted and outcome != OutcomeState.DONE.value

    def _state_of(
        self, live: _LiveTrial, result: Mapping[str, Any], error: bool
    ) -> tuple[TrialState, str | None]:
        if error:
            return TrialState.FAILED, "Ray Tune lost the trial's actor"
        match result.get("outcome"):
            case OutcomeState.DONE.value:
                return TrialState.COMPLETE, None
            case OutcomeState.FAILED.value:
                self._last_failure = result.get("reason")
                return TrialState.FAILED, result.get("reason")
        # No outcome from the dispatcher: the scheduler ended it at a rung.
        epoch = live.curve[-1].epoch if live.curve else 0
        return TrialState.STOPPED, f"stopped after epoch {epoch}"

    def _record(self, live: _LiveTrial, state: TrialState, reason: str | None) -> TrialRecord:
        proposal, last = live.proposal, live.curve[-1] if live.curve else None
        record = TrialRecord(
            id=proposal.id,
            number=proposal.number,
            state=state,
            trainable_params=proposal.trainable_params,
            top1=last.top1 if last else None,
            loss=last.loss if last else None,
            epochs=last.epoch if last else 0,
            seconds=sum(row.seconds for row in live.curve),
            group=live.group,
            config=self._study.columns_of(proposal),
            curve=tuple(live.curve),
            reason=reason,
            name=proposal.name,
            costs=self._costs(live),
        )
        return self._spent.stamped(record)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: Optuna's storage is the truth, Tune's snapshots know less."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, see `save`."""


def _measured_in(entry: Mapping[str, Any]) -> dict[str, float]:
    """Find what a worker measured, which comes with the first epoch that it trains."""
    names = (name for name, cost in COSTS.items() if cost.known is Known.MEASURED)
    return {name: float(entry[name]) for name in names if entry.get(name) is not None}
