"""Hands trials to warm worker groups, one after another.

A plain state machine: no Ray, no threads, no waiting. A question that has no answer yet is
answered with None and asked again; `dispatcher_actor` turns that into long polls.

The life of a trial here:

1. `submit` queues it; every rank of a free group asks `next_task` and gets the same `Assignment`.
2. After each epoch rank 0 calls `report`, and `next_result` hands the epoch to the search.
3. Every rank asks `may_continue`; the answer waits until the epoch after is granted or the trial
   is cancelled, and once given it is the same for all ranks, whatever happens meanwhile.
4. It ends as an `Outcome`: done (`report` with the final tensors), failed, or cancelled. Only then
   is the group's next sequence number handed out: a fast rank can't get ahead of the report.
5. A group whose processes died comes back through `open_group` as a new incarnation; its trial is
   first in the queue again, from its last checkpoint. Messages of the old incarnation are void.
"""

import dataclasses
import time
from collections import deque
from collections.abc import Callable, Mapping

from vpetl_ray.tuning.dispatch_state import GroupEntry, Slot, TrialEntry
from vpetl_ray.tuning.messages import (
    Assignment,
    DispatchStats,
    EpochReport,
    Lease,
    Outcome,
    OutcomeState,
    Signal,
    Task,
)

MAX_LOST_GROUPS = 3
"""A trial that takes down its worker group this often is failed: it is likely the cause."""

RETRY_PARTS = 4
"""A trial that ran out of memory is tried once more, a step's clips in so many parts."""

STRAGGLER_SECONDS = 20.0
"""After a trial raised on one rank: how long the other ranks may take to drop it as well, before
the group is restarted. They could be waiting inside a collective that nobody joins."""


class Dispatcher:
    """The queue of trials, who holds which one, and what came of it.

    Args:
        clock: seconds that never go back; injected by tests.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._trials: dict[str, TrialEntry] = {}
        self._queue: deque[str] = deque()
        self._groups: dict[int, GroupEntry] = {}
        self._incarnations: dict[int, int] = {}
        self._closed = False
        self._overheads: list[float] = []
        self._idles: list[float] = []
        self._num_lost = 0

    # ---- the search's side ------------------------------------------------------------------

    def submit(self, task: Task) -> None:
        """Queue a trial. An id may come back once its earlier stay has an outcome (a pause).

        Raises:
            ValueError: a trial of this id is still queued or running.
        """
        known = self._trials.get(task.trial_id)
        if known is not None and known.outcome is None:
            raise ValueError(f"trial {task.trial_id} is already queued or running")
        trial = TrialEntry(task=task, granted=task.until_epoch, submitted_at=self._clock())
        self._trials[task.trial_id] = trial
        if self._closed:
            self._settle(trial, OutcomeState.CANCELLED)
        else:
            self._queue.append(task.trial_id)

    def park(self, task: Task, last: EpochReport) -> None:
        """Take in a trial that an earlier search had paused: it waits for `resume`.

        Args:
            task: with the checkpoint as its `start_state`.
            last: its last epoch, which is read once more.
        """
        trial = TrialEntry(task=task, granted=task.until_epoch, submitted_at=self._clock())
        trial.parked, trial.epoch = True, last.epoch
        trial.reports.append(last)
        trial.unread.append(last)
        self._trials[task.trial_id] = trial
        if self._closed:
            self._settle(trial, OutcomeState.CANCELLED)

    def grant(self, trial_id: str, until_epoch: int) -> None:
        """Let a trial run on up to `until_epoch`; never takes back what was granted."""
        trial = self._trials[trial_id]
        trial.granted = max(trial.granted, until_epoch)

    def cancel(self, trial_id: str) -> None:
        """Stop a trial at its next epoch boundary; a queued one at once. An ended one stays so."""
        trial = self._trials.get(trial_id)
        if trial is None or trial.outcome is not None:
            return
        trial.cancelled = True
        if trial.parked:
            trial.parked = False
            self._settle(trial, OutcomeState.CANCELLED)
        elif trial.lease is None:
            self._queue.remove(trial_id)
            self._settle(trial, OutcomeState.CANCELLED)

    def resume(self, trial_id: str, until_epoch: int) -> None:
        """Take back a `cancel`: the trial goes on from its checkpoint, before all that is queued.

        Nothing is lost in between: it may still be running its last epoch, or wait for years. A
        trial that ended in another way stays as it is.
        """
        trial = self._trials[trial_id]
        self.grant(trial_id, until_epoch)
        if self._closed:
            return
        trial.cancelled = False
        is_paused = trial.outcome is not None and trial.outcome.state is OutcomeState.CANCELLED
        if is_paused or trial.parked:
            trial.outcome, trial.parked = None, False
            trial.submitted_at = self._clock()
            self._queue.appendleft(trial_id)

    def next_result(self, trial_id: str) -> EpochReport | Outcome | None:
        """Read the trial's next epoch, then its outcome, as often as asked; None while it runs."""
        trial = self._trials[trial_id]
        return trial.unread.popleft() if trial.unread else trial.outcome

    def next_results(
        self, trial_id: str, *, from_start: bool = False
    ) -> list[EpochReport | Outcome] | None:
        """Read all that `next_result` would give one by one; None while there is nothing.

        With `from_start`, what was read before comes again: the reader is a new one.
        """
        trial = self._trials[trial_id]
        if from_start:
            trial.unread = deque(trial.reports)
        news: list[EpochReport | Outcome] = [*trial.unread]
        trial.unread.clear()
        if trial.outcome is not None:
            news.append(trial.outcome)
        return news or None

    def checkpoint(self, trial_id: str) -> bytes | None:
        """Give the state after the last reported epoch, None before the first."""
        return self._trials[trial_id].checkpoint

    def final(self, trial_id: str) -> bytes | None:
        """Give the trainable tensors of a trial that is done, None for every other."""
        outcome = self._trials[trial_id].outcome
        return outcome.final if outcome else None

    def forget(self, trial_id: str) -> None:
        """Free what is kept of a trial (checkpoint, tensors); a live one is cancelled first."""
        trial = self._trials.get(trial_id)
        if trial is None:
            return
        trial.forgotten = True
        self.cancel(trial_id)
        if trial.outcome is not None:
            self._trials.pop(trial_id, None)

    def close(self) -> None:
        """End the search: queued trials are cancelled now, running ones after their epoch."""
        self._closed = True
        for trial_id in list(self._trials):
            self.cancel(trial_id)

    def retire(self, num: int) -> list[int]:
        """Tell so many groups to end, idle ones first; give their numbers.

        A trial that one of them trains loses nothing: it is first in the queue again, from the
        epoch that it is in.
        """
        staying = [(g, known) for g, known in self._groups.items() if not known.is_retiring]
        staying.sort(key=lambda entry: (not _is_idle(entry[1]), -entry[0]))
        for _, known in staying[:num]:
            known.is_retiring = True
        return [group for group, _ in staying[:num]]

    def abort(self, reason: str) -> None:
        """End the search because no group is left: every live trial fails with `reason`."""
        self._closed = True
        self._queue.clear()
        for trial in list(self._trials.values()):
            if trial.outcome is None:
                self._settle(trial, OutcomeState.FAILED, reason=reason)

    @property
    def is_closed(self) -> bool:
        """Whether the search has ended, one way or the other."""
        return self._closed

    @property
    def num_queued(self) -> int:
        """Trials that wait for a group now."""
        return len(self._queue)

    @property
    def num_groups(self) -> int:
        """Groups that are open now, and not told to end."""
        return sum(not known.is_retiring for known in self._groups.values())

    def stats(self) -> DispatchStats:
        """How well the groups were kept busy so far."""
        return DispatchStats(
            overhead_seconds=tuple(self._overheads),
            idle_seconds=tuple(self._idles),
            lost_groups=self._num_lost,
            groups=len(self._groups),
            queued=len(self._queue),
        )

    # ---- the groups' side -------------------------------------------------------------------

    def open_group(self, group: int, world_size: int) -> int:
        """Rank 0 of a (re)started group says that its processes are there.

        Returns:
            The group's new incarnation, which all its ranks put into every message.
        """
        self.remove_group(group)
        incarnation = self._incarnations.get(group, 0) + 1
        self._incarnations[group] = incarnation
        self._groups[group] = GroupEntry(
            incarnation=incarnation, world_size=world_size, free_since=self._clock()
        )
        return incarnation

    def remove_group(self, group: int, incarnation: int | None = None, *, cause: str = "") -> None:
        """Note that a group's processes are gone: its trial goes to the head of the queue.

        Args:
            group: which group.
            incarnation: act only if this is still the group's incarnation; None for any.
            cause: why, if anybody knows.
        """
        known = self._groups.get(group)
        if known is None or incarnation not in (None, known.incarnation):
            return
        del self._groups[group]
        slot = known.latest
        if slot is not None and slot.settled_at is None:
            slot.reason = slot.reason or cause
            self._lose(self._trials[slot.assignment.lease.trial_id], slot)

    def next_task(
        self, group: int, incarnation: int, rank: int, sequence: int
    ) -> Assignment | Signal | None:
        """Give the group's task number `sequence`, the same to every rank; None: not yet."""
        known = self._groups.get(group)
        if known is None or known.incarnation != incarnation:
            return Signal.CLOSE
        known.asked[rank] = max(sequence, known.asked.get(rank, 0))
        known.drop_slots_behind_all_ranks()
        if sequence in known.slots:
            return known.slots[sequence].assignment
        before = known.latest
        if before is not None and self._must_restart(before):
            return Signal.RESTART
        if before is not None and before.settled_at is None:
            return None
        if self._closed or known.is_retiring:
            return Signal.CLOSE
        return self._assign(group, known, sequence) if self._queue else None

    def started(self, lease: Lease, seconds_since_last: float) -> None:
        """Rank 0 is about to run the first epoch of its task.

        Args:
            lease: the task's.
            seconds_since_last: since the last epoch of the group's previous task ended.
        """
        slot = self._slot(lease)
        if slot is not None and lease.sequence > 0:
            idle = slot.assignment.idle_seconds
            self._idles.append(idle)
            self._overheads.append(max(0.0, seconds_since_last - idle))

    def report(
        self,
        lease: Lease,
        *,
        epoch: int,
        metrics: Mapping[str, float | int],
        state: bytes | None,
        final: bytes | None = None,
    ) -> bool:
        """Rank 0 finished an epoch.

        Args:
            lease: the task's.
            epoch: 1-based; 0 for an evaluation. An epoch that was reported before is ignored.
            metrics: what goes to the search.
            state: the checkpoint after this epoch.
            final: the trainable tensors, if this was the last epoch; b"" for an evaluation.

        Returns:
            False if the lease is void, and the task should be dropped.
        """
        slot, trial = self._slot(lease), self._holder(lease)
        if slot is None or trial is None:
            return False
        if slot.gave_up:
            self._give_up(slot, rank=0)
            return False
        is_new = epoch > trial.epoch or (epoch == 0 and final is not None)
        if is_new:
            trial.epoch, trial.checkpoint = epoch, state
            report = EpochReport(
                trial_id=lease.trial_id,
                epoch=epoch,
                metrics=dict(metrics),
                is_last=final is not None,
                group=lease.group,
            )
            trial.reports.append(report)
            trial.unread.append(report)
        if final is not None:
            self._settle(trial, OutcomeState.DONE, final=final)
        return True

    def may_continue(self, lease: Lease, rank: int, epoch: int) -> bool | None:
        """Whether to run the epoch after `epoch`; None while that is undecided.

        The first answer for an epoch stands for all ranks. False hands the trial over.
        """
        slot = self._slot(lease)
        if slot is None:
            return False
        if slot.gave_up:
            self._give_up(slot, rank)
            return False
        if epoch not in slot.decisions:
            self._decide(slot, epoch)
        return slot.decisions.get(epoch)

    def failed(
        self,
        lease: Lease,
        rank: int,
        reason: str,
        *,
        is_clean: bool = True,
        out_of_memory: bool = False,
    ) -> None:
        """Drop a task that raised on this rank.

        The trial has failed once every rank dropped it. A rank that does not, within
        `STRAGGLER_SECONDS`, waits in a collective that this one will not join: the group is told
        to restart, and the trial gets another attempt. Out of memory, it gets one attempt more, in
        `RETRY_PARTS`.

        Args:
            lease: the task's.
            rank: who raised.
            reason: one sentence.
            is_clean: False if the processes should not be used again: a collective may be half
                done, or the device be in a bad state. The group restarts before its next task.
            out_of_memory: what it raised.
        """
        slot = self._slot(lease)
        if slot is None or self._holder(lease) is None:
            return
        if not slot.gave_up:
            slot.reason, slot.raised_at = reason, self._clock()
        slot.needs_restart |= not is_clean
        slot.out_of_memory |= out_of_memory
        self._give_up(slot, rank)

    # ---- inside -----------------------------------------------------------------------------

    def _slot(self, lease: Lease) -> Slot | None:
        known = self._groups.get(lease.group)
        if known is None or known.incarnation != lease.incarnation:
            return None
        slot = known.slots.get(lease.sequence)
        return slot if slot is not None and slot.assignment.lease == lease else None

    def _holder(self, lease: Lease) -> TrialEntry | None:
        """Find the trial, if this lease still holds it."""
        trial = self._trials.get(lease.trial_id)
        return trial if trial is not None and trial.lease == lease else None

    def _decide(self, slot: Slot, epoch: int) -> None:
        """Record whether the task's trial goes on after `epoch`, if that can be said by now."""
        trial = self._holder(slot.assignment.lease)
        if trial is None:
            slot.decisions[epoch] = False
        elif trial.epoch < epoch:
            return  # a fast rank asks before rank 0 has reported this very epoch
        elif trial.cancelled:
            slot.decisions[epoch] = False
            self._settle(trial, OutcomeState.CANCELLED)
        elif trial.granted > epoch:
            is_retiring = self._groups[slot.assignment.lease.group].is_retiring
            slot.decisions[epoch] = not is_retiring
            if is_retiring:
                self._release(trial)
                self._queue.appendleft(trial.task.trial_id)

    def _must_restart(self, before: Slot) -> bool:
        if before.settled_at is not None:
            return before.needs_restart
        return bool(before.gave_up) and self._clock() - before.raised_at > STRAGGLER_SECONDS

    def _give_up(self, slot: Slot, rank: int) -> None:
        """Note that a rank dropped a task that raised; the trial has failed when all ranks did."""
        slot.gave_up.add(rank)
        lease = slot.assignment.lease
        trial = self._holder(lease)
        if trial is None or len(slot.gave_up) < self._groups[lease.group].world_size:
            return
        if slot.out_of_memory and not trial.cancelled and self._split(trial):
            self._release(trial)
            self._queue.appendleft(lease.trial_id)
        else:
            self._settle(trial, OutcomeState.FAILED, reason=_reason(trial, slot))

    def _assign(self, group: int, known: GroupEntry, sequence: int) -> Assignment:
        trial = self._trials[self._queue.popleft()]
        trial_id = trial.task.trial_id
        lease = Lease(
            group=group, incarnation=known.incarnation, sequence=sequence, trial_id=trial_id
        )
        task = dataclasses.replace(
            trial.task,
            until_epoch=trial.granted,
            start_state=trial.checkpoint or trial.task.start_state,
        )
        idle = max(0.0, trial.submitted_at - known.free_since)
        assignment = Assignment(lease=lease, task=task, idle_seconds=idle)
        trial.lease, trial.last_group = lease, group
        known.slots[sequence] = Slot(assignment=assignment)
        return assignment

    def _settle(
        self,
        trial: TrialEntry,
        state: OutcomeState,
        *,
        reason: str | None = None,
        final: bytes | None = None,
    ) -> None:
        trial_id = trial.task.trial_id
        trial.outcome = Outcome(
            trial_id=trial_id, state=state, reason=reason, final=final, group=trial.last_group
        )
        if state is not OutcomeState.CANCELLED:
            trial.checkpoint = None  # only what can go on needs one
        self._release(trial)
        if trial.forgotten:
            self._trials.pop(trial_id, None)

    def _release(self, trial: TrialEntry) -> None:
        """Take the trial from the group that holds it, if one does."""
        if trial.lease is None:
            return
        slot, known = self._slot(trial.lease), self._groups.get(trial.lease.group)
        if slot is not None and known is not None:
            slot.settled_at = known.free_since = self._clock()
        trial.lease = None
        trial.submitted_at = self._clock()

    def _split(self, trial: TrialEntry) -> bool:
        """Let the trial use less memory from now on; False where it does already."""
        if trial.task.num_parts > 1:
            return False
        trial.task = dataclasses.replace(trial.task, num_parts=RETRY_PARTS)
        return True

    def _lose(self, trial: TrialEntry, slot: Slot) -> None:
        """Its group is gone: queue the trial again, unless it was stopped or did this before."""
        self._num_lost += 1
        trial.lease = None
        trial.lost_groups += 1
        trial.submitted_at = self._clock()
        if trial.cancelled:
            self._settle(trial, OutcomeState.CANCELLED)
        elif slot.out_of_memory and not self._split(trial):
            self._settle(trial, OutcomeState.FAILED, reason=_reason(trial, slot))
        elif trial.lost_groups >= MAX_LOST_GROUPS:
            reason = (
                f"its worker group was lost {trial.lost_groups} times, "
                f"the last time in epoch {trial.epoch + 1}"
            ) + (f" ({slot.reason})" if slot.reason else "")
            self._settle(trial, OutcomeState.FAILED, reason=reason)
        else:
            self._queue.appendleft(trial.task.trial_id)


def _is_idle(known: GroupEntry) -> bool:
    return known.latest is None or known.latest.settled_at is not None


def _reason(trial: TrialEntry, slot: Slot) -> str:
    if not slot.out_of_memory:
        return slot.reason
    return f"out of memory, with a step in {trial.task.num_parts} parts, too: {slot.reason}"
