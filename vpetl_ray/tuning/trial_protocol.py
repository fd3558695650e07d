"""What a worker group needs to know of the work it does: five calls, and nothing about models.

The real runner is `trial_runner`; tests and the orchestration benchmark bring their own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from vpetl_ray.tuning.messages import Task


def nobody_asks() -> None:
    """Take no notice of a sign of life: nobody watches."""


@dataclass(frozen=True, kw_only=True)
class WorkerContext:
    """Where a runner finds itself."""

    group: int
    rank: int
    world_size: int
    device: str
    """As torch spells it: `cpu`, `cuda:0`."""
    num_threads: int
    alive: Callable[[], None] = field(default=nobody_asks, repr=False)
    """To be called while it works, as often as there is something done: who is silent for
    `GroupPlan.stuck_seconds` is taken for hung, and killed."""
    shared: Any = field(repr=False)
    """`GroupSetup.shared`, read from this node's object store; arrays in it are read-only views."""


@dataclass(frozen=True, kw_only=True)
class EpochOutput:
    """What one epoch, or one evaluation, gave."""

    epoch: int
    """1-based over the whole trial; 0 for an evaluation."""
    metrics: Mapping[str, float | int]
    is_last: bool


class TrialRunner(Protocol):
    """Does the work of one rank of a group, one task after another, on what it built once."""

    def start(self, task: Task) -> None:
        """Prepare for the task's first epoch, from its `start_state` if it has one."""

    def run_epoch(self) -> EpochOutput:
        """Run the next epoch, together with the other ranks."""

    def state(self) -> bytes:
        """Pack what `start` needs to go on after the last epoch. Asked of rank 0 only."""

    def result(self) -> bytes:
        """Pack the trainable tensors. Asked of rank 0 only, after the last epoch."""

    def close(self) -> None:
        """Drop the task, whether it is done or raised; everything is as before `start`."""


@dataclass(frozen=True, kw_only=True)
class GroupSetup:
    """How every worker of every group is set up."""

    make_runner: Callable[[Any, WorkerContext], TrialRunner]
    """Called once in every worker process with `payload`. Pickled, so a module's own function."""
    payload: Any = None
    """Small and picklable: paths, names, settings."""
    shared: Any = field(default=None, repr=False)
    """Large and the same for all, like the backbone's arrays: copied once to each node."""
