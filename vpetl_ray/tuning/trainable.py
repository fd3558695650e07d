"""Tune's view of a trial: an actor that computes nothing and waits for the dispatcher.

The work is done by the worker groups, which outlive every trial. Tune still needs an actor for
each running trial, to which its scheduler's decisions apply; this one asks for no CPU, holds no
tensor and imports no torch, so a reused one starts its next trial in milliseconds.
"""

from __future__ import annotations

import math
from typing import Any, Self

import ray
from ray import tune
from ray.actor import ActorHandle

from vpetl_ray.tuning.messages import EpochReport, Outcome

TRIAL_ID = "vpetl_trial_id"
RUNGS = "rungs"
TRAINABLE_PARAMS = "trainable_params"
NO_LIMIT = 1 << 30


class NotSaved:
    """Keeps Tune from copying or pickling its owner for `Tuner.restore`.

    A search goes on from Optuna's storage (Tune's snapshots know too little); and what Tune would
    save holds threads, files and sockets of this process.
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {}


def granted_until(epoch: int, rungs: tuple[int, ...]) -> int:
    """The next epoch after `epoch` at which somebody decides; without rungs, there is none."""
    return next((rung for rung in rungs if rung > epoch), NO_LIMIT)


class TrialTrainable(tune.Trainable):
    """One step is everything the group has finished since the last step.

    A group runs ahead freely up to the next rung, so a search without a scheduler never makes a
    group wait for Tune's loop, and one with a scheduler waits only where a decision is due.
    """

    _is_new: bool
    _epoch: int
    _top1: float

    def setup(self, config: dict[str, Any], dispatcher: ActorHandle[Any] | None = None) -> None:
        """Follow the trial that `config` names; called once in an actor's life."""
        assert dispatcher is not None
        self._dispatcher = dispatcher
        self._follow(config)
        # An actor may replace one that died, with epochs that it had read and not yet told.
        self._is_new = True

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Follow another trial; True says that this actor can be reused."""
        self._follow(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Wait for news of the trial and hand them to Tune."""
        if self._epoch:
            self._dispatcher.grant.remote(self._id, granted_until(self._epoch, self._rungs))
        messages: list[EpochReport | Outcome] = ray.get(
            self._dispatcher.next_results.remote(self._id, from_start=self._is_new)
        )
        self._is_new = False
        reports = [message for message in messages if isinstance(message, EpochReport)]
        outcome = next((message for message in messages if isinstance(message, Outcome)), None)
        if reports:
            self._epoch = reports[-1].epoch
            self._top1 = float(reports[-1].metrics["top1"])
        return {
            "top1": self._top1,
            "epoch": self._epoch,
            "curve": [{"epoch": report.epoch, **report.metrics} for report in reports],
            "group": reports[-1].group if reports else None,
            "outcome": outcome.state.value if outcome else None,
            "reason": outcome.reason if outcome else None,
            "done": outcome is not None,
        }

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        """The epoch alone: the tensors stay with the dispatcher."""
        return {"epoch": self._epoch}

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        """Go on from `save_checkpoint`."""
        if checkpoint:
            self._epoch = int(checkpoint["epoch"])

    def _follow(self, config: dict[str, Any]) -> None:
        self._id = str(config[TRIAL_ID])
        self._rungs = tuple(config[RUNGS])
        self._epoch = 0
        # Tune refuses a result without the scheduler's metric; a trial that failed has none.
        self._top1 = math.nan
