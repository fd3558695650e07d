"""What a search, its dispatcher and its worker groups say to each other.

Configs and tensors cross the dispatcher as bytes: it never looks into them, so its process needs
neither torch nor the code that the configs are made of.
"""

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Any, Literal, TypeAlias

DispatcherHandle: TypeAlias = Any
"""The handle of a running `DispatcherActor`, whose methods Ray adds `.remote` to."""

TaskKind = Literal["train", "evaluate", "evaluate_views"]
"""evaluate: on the test split, once. evaluate_views: besides, over all views of each clip."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One piece of work for a worker group: train a trial up to an epoch, or measure it once.

    Build it with `make_task`, which packs the config.
    """

    trial_id: str
    """Unique among the live trials. An evaluation has an id of its own, like `t0007.test`."""
    payload: bytes = field(repr=False)
    """The pickled config; `config` unpacks it."""
    until_epoch: int
    """Epochs (counted from the trial's first one) that may run without asking again."""
    kind: TaskKind = "train"
    start_state: bytes | None = field(default=None, repr=False)
    """train: the checkpoint to go on from. evaluate: the trainable tensors to measure."""
    seed: int | None = None
    """In place of the groups' own."""
    num_parts: int = 1
    """A step's clips go through one after another in so many parts: less memory, the same step."""

    @property
    def config(self) -> Any:
        """The config as the search gave it, unpickled anew on every call."""
        return pickle.loads(self.payload)  # noqa: S301  # nosec B301 - our own driver's, no file


def make_task(
    trial_id: str,
    config: object,
    *,
    until_epoch: int = 1,
    kind: TaskKind = "train",
    start_state: bytes | None = None,
    seed: int | None = None,
) -> Task:
    """Build a `Task` and pack its config."""
    return Task(
        trial_id=trial_id,
        payload=pickle.dumps(config),
        until_epoch=until_epoch,
        kind=kind,
        start_state=start_state,
        seed=seed,
    )


@dataclass(frozen=True, kw_only=True)
class Lease:
    """The right of one group, in one life of its processes, to work on one trial.

    Every message about a trial carries it: a message from an earlier life, or about a trial that
    the group has already handed over, is recognised by it and changes nothing.
    """

    group: int
    incarnation: int
    """1 for the group's first start, one more after every restart of its processes."""
    sequence: int
    """The how-manieth task (from 0) of this incarnation."""
    trial_id: str


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """A task together with the lease to work on it."""

    lease: Lease
    task: Task
    idle_seconds: float
    """How long the group had been free before this task was there to be taken."""


class Signal(Enum):
    """What a group is told when it is not given a task."""

    CLOSE = "close"
    """The search is over, or these processes have been replaced: return."""
    RESTART = "restart"
    """A failed trial left a rank of this group behind: start the whole group anew."""


@dataclass(frozen=True, kw_only=True)
class EpochReport:
    """One finished epoch of a trial, or the one result of an evaluation."""

    trial_id: str
    epoch: int
    """1-based over the whole trial, also after a restart or a pause; 0 for an evaluation."""
    metrics: Mapping[str, float | int]
    is_last: bool
    """The trial has no epoch left; its `Outcome` follows."""
    group: int | None
    """None for an epoch of an earlier run of the search."""


class OutcomeState(StrEnum):
    """How a trial left the dispatcher."""

    DONE = "done"
    """It ran all its epochs; its trainable tensors come with the outcome."""
    FAILED = "failed"
    """It raised, or lost its worker group too often; the reason says which."""
    CANCELLED = "cancelled"
    """It was stopped or paused between two epochs; its checkpoint can still be asked for."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The end of a trial."""

    trial_id: str
    state: OutcomeState
    reason: str | None = None
    """One sentence, for `FAILED`."""
    final: bytes | None = field(default=None, repr=False)
    """The trainable tensors, for `DONE`."""
    group: int | None = None
    """The group that ran it last; None if it never ran."""


@dataclass(frozen=True, kw_only=True)
class DispatchStats:
    """How well the groups were kept busy, in seconds."""

    overhead_seconds: tuple[float, ...]
    """For each trial but a group's first: from the end of the previous trial's last epoch to the
    start of its own first one, less the time in which there was no trial to take."""
    idle_seconds: tuple[float, ...]
    """For the same trials: the time in which there was no trial to take."""
    lost_groups: int
    """How often the processes of a group died or were replaced while they held a trial."""
    groups: int
    """Groups that are open now."""
    queued: int
    """Trials that wait for a group now."""
