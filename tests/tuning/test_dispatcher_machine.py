"""Groups that ask, report, raise, die and come back in any order: no trial is lost or doubled."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from vpetl_ray.tuning.dispatcher import MAX_LOST_GROUPS, STRAGGLER_SECONDS, Dispatcher
from vpetl_ray.tuning.messages import (
    Assignment,
    EpochReport,
    OutcomeState,
    Signal,
    make_task,
)

NUM_GROUPS = 2
WORLD_SIZE = 2
RANKS = [(group, rank) for group in range(NUM_GROUPS) for rank in range(WORLD_SIZE)]


class Worker:
    """One rank, which does what `group_worker` does, a message at a time."""

    def __init__(self, board, group, rank, incarnation):
        self.board, self.group, self.rank, self.incarnation = board, group, rank, incarnation
        self.sequence = 0
        self.assignment = None
        self.epoch = 0
        self.has_run = False
        self.must_restart = False
        self.last_answer = None

    def step(self, num_epochs, raises):
        if self.assignment is None:
            self._ask()
        elif raises:
            lease = self.assignment.lease
            self.board.failed(lease, self.rank, "it raised", is_clean=raises == "clean")
            self._drop()
        elif not self.has_run:
            self._run(num_epochs)
        else:
            self._may_continue(num_epochs)

    def _ask(self):
        answer = self.board.next_task(self.group, self.incarnation, self.rank, self.sequence)
        self.must_restart = answer is Signal.RESTART
        if isinstance(answer, Assignment):
            self.assignment = answer
            self.epoch = int(answer.task.start_state or 0)

    def _run(self, num_epochs):
        self.epoch += 1
        self.has_run = True
        if self.rank == 0:
            final = b"final" if self.epoch == num_epochs else None
            accepted = self.board.report(
                self.assignment.lease,
                epoch=self.epoch,
                metrics={},
                state=b"%d" % self.epoch,
                final=final,
            )
            if not accepted:
                self._drop()
                return
        if self.epoch == num_epochs:
            self._drop()

    def _may_continue(self, num_epochs):
        answer = self.board.may_continue(self.assignment.lease, self.rank, self.epoch)
        if answer is True:
            self.has_run = False
        elif answer is False:
            self._drop()

    def _drop(self):
        self.assignment, self.has_run = None, False
        self.sequence += 1


class DispatcherMachine(RuleBasedStateMachine):
    trials = Bundle("trials")
    EPOCHS = 2

    def __init__(self):
        super().__init__()
        self.now = 0.0
        self.board = Dispatcher(clock=lambda: self.now)
        self.workers = {}
        self.epochs_seen = {}
        self.outcomes = {}
        self.cancelled = set()
        for group in range(NUM_GROUPS):
            self._start(group)

    def _start(self, group):
        incarnation = self.board.open_group(group, WORLD_SIZE)
        for rank in range(WORLD_SIZE):
            self.workers[group, rank] = Worker(self.board, group, rank, incarnation)

    @rule(target=trials, until=st.integers(1, 2))
    def submit(self, until):
        trial_id = f"t{len(self.epochs_seen)}"
        self.board.submit(make_task(trial_id, None, until_epoch=until))
        self.epochs_seen[trial_id] = []
        return trial_id

    @rule(trial=trials, until=st.integers(1, 2))
    def grant(self, trial, until):
        self.board.grant(trial, until)

    @rule(trial=trials)
    def cancel(self, trial):
        self.board.cancel(trial)
        self.cancelled.add(trial)

    @rule(trial=trials, until=st.integers(1, 2))
    def resume(self, trial, until):
        self.read(trial)
        self.board.resume(trial, until)
        if trial in self.outcomes and self.outcomes[trial].state is OutcomeState.CANCELLED:
            del self.outcomes[trial]
        self.cancelled.discard(trial)

    @rule(who=st.sampled_from(RANKS), times=st.integers(1, 9))
    def work(self, who, times):
        for _ in range(times):
            self.step(who)

    @rule(who=st.sampled_from(RANKS), how=st.sampled_from(["clean", "unclean"]))
    def fail(self, who, how):
        self.step(who, how)

    @rule(seconds=st.sampled_from([0.1, STRAGGLER_SECONDS + 1]))
    def wait(self, seconds):
        self.now += seconds

    def step(self, who, raises=None):
        self.workers[who].step(self.EPOCHS, raises)
        if self.workers[who].must_restart:
            self._start(who[0])

    @rule(num=st.integers(1, NUM_GROUPS))
    def retire(self, num):
        """Another search gets the groups; they end, and come back when it is through."""
        retired = self.board.retire(num)
        assert len(set(retired)) == len(retired) <= num
        # A rank may be several tasks behind the other, and has to do them before it is told to end.
        # One that has done the last epoch of a task that raised on the other is waited for first.
        for seconds in (0.0, STRAGGLER_SECONDS + 1):
            self.now += seconds
            for _ in range(4 * self.EPOCHS * (1 + len(self.epochs_seen))):
                for who in RANKS:
                    self.step(who)
        for group in retired:
            if self.board._groups[group].is_retiring and not self._waits(group):
                answers = [self._ask(group, rank) for rank in range(WORLD_SIZE)]
                assert answers == [Signal.CLOSE] * WORLD_SIZE
            self._start(group)

    def _ask(self, group, rank):
        worker = self.workers[group, rank]
        return self.board.next_task(group, worker.incarnation, rank, worker.sequence)

    def _waits(self, group):
        """For a decision on its trial, or for the other rank to drop one that raised."""
        return any(self.workers[group, rank].assignment for rank in range(WORLD_SIZE))

    @rule(group=st.integers(0, NUM_GROUPS - 1), is_noticed=st.booleans())
    def die(self, group, is_noticed):
        if is_noticed:
            self.board.remove_group(group)
        self._start(group)

    @rule(who=st.sampled_from(RANKS))
    def late_message_of_an_old_life(self, who):
        worker = self.workers[who]
        if worker.assignment is None:
            return
        self._start(who[0])
        lease = worker.assignment.lease
        assert not self.board.report(lease, epoch=9, metrics={}, state=b"9", final=b"late")
        assert self.board.may_continue(lease, who[1], worker.epoch) is False
        self.board.failed(lease, who[1], "late")

    @rule(trial=trials)
    def read(self, trial):
        for item in self.board.next_results(trial) or []:
            if isinstance(item, EpochReport):
                assert trial not in self.outcomes
                self.epochs_seen[trial].append(item.epoch)
            else:
                assert self.outcomes.setdefault(trial, item) == item

    @invariant()
    def epochs_come_once_and_in_order(self):
        for epochs in self.epochs_seen.values():
            assert epochs == list(range(1, len(epochs) + 1))

    @invariant()
    def outcomes_tell_what_happened(self):
        for trial, outcome in self.outcomes.items():
            if outcome.state is OutcomeState.DONE:
                assert self.epochs_seen[trial] == [1, 2]
                assert outcome.final == b"final"
            elif outcome.state is OutcomeState.CANCELLED:
                assert trial in self.cancelled
            else:
                assert "it raised" in outcome.reason or "lost" in outcome.reason

    @invariant()
    def a_live_trial_is_held_once(self):
        live = [
            worker.assignment.lease
            for (_, rank), worker in self.workers.items()
            if rank == 0 and worker.assignment and self.board._holder(worker.assignment.lease)
        ]
        assert len({lease.trial_id for lease in live}) == len(live)
        assert not {lease.trial_id for lease in live} & set(self.board._queue)
        assert all(trial.lost_groups <= MAX_LOST_GROUPS for trial in self.board._trials.values())

    @invariant()
    def a_group_holds_one_trial_at_a_time(self):
        for group in self.board._groups.values():
            assert sum(slot.settled_at is None for slot in group.slots.values()) <= 1

    def teardown(self):
        """Whatever happened: if all goes well from now on, every trial comes to its end."""
        for trial in self.epochs_seen:
            self.board.grant(trial, self.EPOCHS)
        for _ in range(40 * (len(self.epochs_seen) + 1)):
            self.now += 1.0
            for who in RANKS:
                self.step(who)
        for trial in self.epochs_seen:
            self.read(trial)
            assert trial in self.outcomes


TestDispatcherMachine = pytest.mark.timeout(120)(DispatcherMachine.TestCase)
TestDispatcherMachine.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
