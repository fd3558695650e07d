"""What the dispatcher remembers of a trial, of a group, and of a task that a group was given."""

from collections import deque
from dataclasses import dataclass, field

from vpetl_ray.tuning.messages import Assignment, EpochReport, Lease, Outcome, Task


@dataclass
class TrialEntry:
    """A trial from `submit` to `forget`."""

    task: Task
    granted: int
    submitted_at: float
    epoch: int = 0
    checkpoint: bytes | None = None
    lost_groups: int = 0
    cancelled: bool = False
    forgotten: bool = False
    parked: bool = False
    lease: Lease | None = None
    last_group: int | None = None
    reports: list[EpochReport] = field(default_factory=list)
    """Every epoch, for a reader that replaces one that died."""
    unread: deque[EpochReport] = field(default_factory=deque)
    outcome: Outcome | None = None


@dataclass
class Slot:
    """One task of a group, kept until every rank has asked for a later one."""

    assignment: Assignment
    decisions: dict[int, bool] = field(default_factory=dict)
    settled_at: float | None = None
    gave_up: set[int] = field(default_factory=set)
    reason: str = ""
    raised_at: float = 0.0
    needs_restart: bool = False
    out_of_memory: bool = False


@dataclass
class GroupEntry:
    """A group in one life of its processes."""

    incarnation: int
    world_size: int
    free_since: float
    is_retiring: bool = False
    """It ends as soon as its trial has ended, or come to the end of an epoch."""
    slots: dict[int, Slot] = field(default_factory=dict)
    asked: dict[int, int] = field(default_factory=dict)

    @property
    def latest(self) -> Slot | None:
        """The task that was given last."""
        return self.slots[max(self.slots)] if self.slots else None

    def drop_slots_behind_all_ranks(self) -> None:
        """Forget the tasks that no rank can ask about any more, but never the last one."""
        if len(self.asked) == self.world_size:
            slowest = min(self.asked.values())
            newest = max(self.slots, default=0)
            self.slots = {n: s for n, s in self.slots.items() if n >= slowest or n == newest}
