"""The Ray Tune scheduler: what `Halving` decides, done to trials that warm groups hold.

Tune has no scheduler for several objectives, and its own ones pause a trial by writing a checkpoint
of its actor. Here the actor holds nothing: a pause tells the dispatcher to let the trial go at its
epoch boundary, and a promotion puts it back at the head of the dispatcher's queue, where any group
takes it up from its checkpoint. The order is what keeps groups busy: the promoted trial is queued
before the paused one lets its group go.

Tune tells a scheduler of a result before it tells the searcher, and what to promote is decided by
what the searcher knows. So the searcher is told from here, first; that it hears of the same from
Tune once more, it is made for.

The dispatcher is waited for, each time: it answers many at once, so of two messages the later can
overtake, and a trial would stay cancelled whose promotion came right behind its pause.
"""

from __future__ import annotations

from typing import Any, Protocol

import ray
from ray.actor import ActorHandle
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from vpetl_ray.tuning.halving import Decision, Halving
from vpetl_ray.tuning.messages import OutcomeState
from vpetl_ray.tuning.trainable import RUNGS, TRAINABLE_PARAMS, TRIAL_ID, NotSaved, granted_until


class Told(Protocol):
    """The searcher, as the scheduler tells it."""

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Take what a result brings, if it is not known yet."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None) -> None:
        """Take the end of a trial, if it is not known yet."""

    def costs_of(self, trial_id: str) -> tuple[float, ...]:
        """Give a trial's further objectives as they are now."""


class RungScheduler(NotSaved, TrialScheduler):
    """Pauses, promotes and stops trials at rungs.

    Args:
        halving: the rungs.
        dispatcher: the actor that the worker groups ask for work.
        searcher: is told of every result before it counts here.
    """

    def __init__(
        self,
        halving: Halving,
        dispatcher: ActorHandle[Any],
        searcher: Told,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._halving = halving
        self._dispatcher = dispatcher
        self._searcher = searcher
        self._trials: dict[str, Trial] = {}
        self._promoted: dict[str, Trial] = {}

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """Tune asks whether its own metric can be used: ours are set already."""
        return True

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """Remember the trial by the search's own name for it."""
        self._trials[trial.config[TRIAL_ID]] = trial

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Let the trial go on, pause it or stop it; see `Halving`."""
        self._searcher.on_trial_result(trial.trial_id, result)
        name = trial.config[TRIAL_ID]
        if not trial.config[RUNGS]:
            return self.CONTINUE
        decision = self._halving.report(
            name,
            epoch=int(result["epoch"]),
            params=int(trial.config[TRAINABLE_PARAMS]),
            top1=float(result["top1"]),
            costs=self._searcher.costs_of(trial.trial_id),
        )
        if decision is not Decision.PAUSE:
            return self.STOP if decision is Decision.STOP else self.CONTINUE
        promoted = self._halving.next_promotion()
        if promoted == name:
            self._resume(trial)
            return self.CONTINUE
        if promoted is not None:
            self._take_up(promoted)
        ray.get(self._dispatcher.cancel.remote(name))
        # Nothing to save: the checkpoint is where the epoch was reported to.
        tune_controller.pause_trial(trial, should_checkpoint=False)
        return self.NOOP

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """A group is free: is there something to promote?"""
        self._searcher.on_trial_complete(trial.trial_id, result)
        if result.get("outcome") == OutcomeState.FAILED.value:
            self._forget(trial)  # Tune calls it complete: it is the actor alone that can error
        promoted = self._halving.next_promotion()
        if promoted is not None:
            self._take_up(promoted)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """A trial that is lost beats nothing."""
        self._forget(trial)

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        """A waiting trial was ended."""
        self._promoted.pop(trial.config[TRIAL_ID], None)

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """Name the promoted trial that has waited longest; Tune starts new ones by itself."""
        for name, trial in list(self._promoted.items()):
            if trial.status == Trial.RUNNING:
                del self._promoted[name]
        if not self._promoted:
            self._end_if_nothing_is_left(tune_controller)
            return None
        return next(iter(self._promoted.values()))

    def debug_string(self) -> str:
        """Say how full the rungs are."""
        rungs = ", ".join(f"{epoch}: {len(e)}" for epoch, e in self._halving.entries().items())
        return f"Trials at each rung: {rungs}"

    def _take_up(self, name: str) -> None:
        self._promoted[name] = self._trials[name]
        self._resume(self._trials[name])

    def _resume(self, trial: Trial) -> None:
        name = trial.config[TRIAL_ID]
        epoch = self._halving.epoch_of(name)
        until = granted_until(epoch, tuple(trial.config[RUNGS]))
        ray.get(self._dispatcher.resume.remote(name, until))

    def _forget(self, trial: Trial) -> None:
        name = trial.config[TRIAL_ID]
        self._halving.remove(name)
        self._promoted.pop(name, None)

    def _end_if_nothing_is_left(self, tune_controller: Any) -> None:
        """What is still paused when nothing runs and nothing comes is never taken up again."""
        if not tune_controller.search_alg.is_finished():
            return  # first: to look through all trials at each of Tune's steps adds up
        waiting = [trial for trial in self._trials.values() if trial.status == Trial.PAUSED]
        if not waiting:
            return
        live = tune_controller.get_live_trials()
        if all(trial.status == Trial.PAUSED for trial in live):
            for trial in waiting:
                tune_controller.stop_trial(trial)
