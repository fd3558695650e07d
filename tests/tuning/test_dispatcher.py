"""The dispatcher as a plain class: no Ray, no time, every rank is a line in the test."""

import pytest

from vpetl_ray.tuning.dispatcher import (
    MAX_LOST_GROUPS,
    RETRY_PARTS,
    STRAGGLER_SECONDS,
    Dispatcher,
)
from vpetl_ray.tuning.messages import (
    Assignment,
    EpochReport,
    Lease,
    Outcome,
    OutcomeState,
    Signal,
    make_task,
)


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def board(clock):
    return Dispatcher(clock=clock)


def assigned(board, group=0, incarnation=1, rank=0, sequence=0):
    answer = board.next_task(group, incarnation, rank, sequence)
    assert isinstance(answer, Assignment)
    return answer


def run_epoch(board, lease, epoch, final=None):
    return board.report(
        lease, epoch=epoch, metrics={"top1": 10.0 * epoch}, state=b"%d" % epoch, final=final
    )


def read_all(board, trial_id):
    seen = []
    while (item := board.next_result(trial_id)) is not None:
        seen.append(item)
        if isinstance(item, Outcome):
            break
    return seen


def test_a_trial_goes_from_submit_to_done_with_its_epochs_in_order(board):
    board.submit(make_task("t0", {"width": 8}, until_epoch=2))
    board.open_group(0, 1)
    assignment = assigned(board)
    assert assignment.task.config == {"width": 8}
    assert run_epoch(board, assignment.lease, 1)
    assert board.may_continue(assignment.lease, 0, 1) is True
    assert run_epoch(board, assignment.lease, 2, final=b"tensors")
    first, second, outcome = read_all(board, "t0")
    assert (first.epoch, first.is_last, second.epoch, second.is_last) == (1, False, 2, True)
    assert first.metrics == {"top1": 10.0}
    assert outcome.state is OutcomeState.DONE
    assert board.final("t0") == outcome.final == b"tensors"
    assert board.next_result("t0") == outcome  # as often as asked


def test_all_news_of_a_trial_can_be_read_at_once(board):
    board.submit(make_task("t0", {}, until_epoch=9))
    board.open_group(0, 1)
    lease = assigned(board).lease
    assert board.next_results("t0") is None
    run_epoch(board, lease, 1)
    run_epoch(board, lease, 2, final=b"")
    first, second, outcome = board.next_results("t0")
    assert (first.epoch, second.epoch, outcome.state) == (1, 2, OutcomeState.DONE)
    assert board.next_results("t0") == [outcome]


def test_all_ranks_get_the_same_task_whoever_asks_first(board):
    board.submit(make_task("t0", {}))
    board.submit(make_task("t1", {}))
    board.open_group(0, 2)
    assert assigned(board, rank=1) == assigned(board, rank=0)
    assert assigned(board, rank=0).lease.trial_id == "t0"


def test_a_fast_rank_gets_no_next_task_before_rank_zero_has_reported(board):
    """The bug to expect: rank 1 asks first and is handed the trial that is just ending again."""
    board.submit(make_task("t0", {}))
    board.submit(make_task("t1", {}))
    board.open_group(0, 2)
    lease = assigned(board, rank=0).lease
    assigned(board, rank=1)
    assert board.next_task(0, 1, 1, 1) is None
    run_epoch(board, lease, 1, final=b"")
    assert assigned(board, rank=1, sequence=1).lease.trial_id == "t1"
    assert assigned(board, rank=0, sequence=1).lease.trial_id == "t1"


def test_a_late_report_of_a_task_that_is_over_changes_nothing(board):
    """The other bug to expect: a `done` without a key clears the trial that runs by now."""
    board.submit(make_task("t0", {}))
    board.submit(make_task("t1", {}))
    board.open_group(0, 1)
    old = assigned(board).lease
    run_epoch(board, old, 1, final=b"")
    current = assigned(board, sequence=1).lease
    assert not run_epoch(board, old, 1, final=b"")
    assert not run_epoch(board, old, 2)
    board.failed(old, 0, "too late")
    assert board.next_result("t1") is None
    assert run_epoch(board, current, 1, final=b"")
    assert [type(item) for item in read_all(board, "t1")] == [EpochReport, Outcome]


def test_an_epoch_reported_twice_is_delivered_once(board):
    board.submit(make_task("t0", {}, until_epoch=5))
    board.open_group(0, 1)
    lease = assigned(board).lease
    assert run_epoch(board, lease, 1)
    assert run_epoch(board, lease, 1)
    assert [item.epoch for item in read_all(board, "t0")] == [1]


def test_a_trial_waits_at_its_granted_epoch_until_more_is_granted(board):
    board.submit(make_task("t0", {}, until_epoch=1))
    board.open_group(0, 1)
    lease = assigned(board).lease
    run_epoch(board, lease, 1)
    assert board.may_continue(lease, 0, 1) is None
    board.grant("t0", 2)
    assert board.may_continue(lease, 0, 1) is True


def test_a_fast_rank_waits_for_the_report_of_the_epoch_it_asks_about(board):
    board.submit(make_task("t0", {}, until_epoch=9))
    board.open_group(0, 2)
    lease = assigned(board).lease
    assert board.may_continue(lease, 0, 1) is None
    run_epoch(board, lease, 1)
    assert board.may_continue(lease, 0, 1) is True


def test_a_decision_stands_for_all_ranks_though_the_trial_is_cancelled_in_between(board):
    board.submit(make_task("t0", {}, until_epoch=9))
    board.open_group(0, 2)
    lease = assigned(board).lease
    assigned(board, rank=1)
    run_epoch(board, lease, 1)
    assert board.may_continue(lease, 0, 1) is True  # rank 0
    board.cancel("t0")
    assert board.may_continue(lease, 0, 1) is True  # rank 1: else rank 0 is alone in a collective
    run_epoch(board, lease, 2)
    assert board.may_continue(lease, 0, 2) is False
    assert board.next_task(0, 1, 0, 1) is None  # free, nothing to do
    assert board.may_continue(lease, 0, 2) is False  # rank 1, after the group was released


def test_a_cancelled_trial_stops_after_its_epoch_and_keeps_its_checkpoint(board):
    board.submit(make_task("t0", {}, until_epoch=9))
    board.open_group(0, 1)
    lease = assigned(board).lease
    board.cancel("t0")
    run_epoch(board, lease, 1)
    assert board.may_continue(lease, 0, 1) is False
    assert read_all(board, "t0")[-1].state is OutcomeState.CANCELLED
    assert board.checkpoint("t0") == b"1"


def test_a_queued_trial_that_is_cancelled_never_reaches_a_group(board):
    board.submit(make_task("t0", {}))
    board.cancel("t0")
    board.open_group(0, 1)
    assert board.next_task(0, 1, 0, 0) is None
    assert read_all(board, "t0")[-1].state is OutcomeState.CANCELLED


def test_a_paused_trial_goes_on_in_another_group_from_its_checkpoint(board):
    board.submit(make_task("t0", {}, until_epoch=1))
    board.open_group(0, 1)
    board.open_group(1, 1)
    lease = assigned(board, group=0).lease
    run_epoch(board, lease, 1)
    board.cancel("t0")
    assert board.may_continue(lease, 0, 1) is False
    board.submit(make_task("t0", {}, until_epoch=4, start_state=board.checkpoint("t0")))
    again = assigned(board, group=1)
    assert (again.task.start_state, again.task.until_epoch) == (b"1", 4)
    assert run_epoch(board, again.lease, 2)
    assert not run_epoch(board, lease, 2)


def test_a_new_incarnation_gets_the_trial_in_flight_from_its_last_checkpoint(board):
    board.submit(make_task("t0", {}, until_epoch=1))
    board.submit(make_task("t1", {}))
    board.open_group(0, 2)
    lost = assigned(board).lease
    run_epoch(board, lost, 1)
    board.grant("t0", 3)
    assert board.open_group(0, 2) == 2
    again = assigned(board, incarnation=2)
    assert again.lease.trial_id == "t0"
    assert (again.task.start_state, again.task.until_epoch) == (b"1", 3)
    assert not run_epoch(board, lost, 2)
    assert board.may_continue(lost, 0, 1) is False
    assert board.next_task(0, 1, 0, 1) is Signal.CLOSE
    assert run_epoch(board, again.lease, 2)


def test_the_trial_of_a_lost_group_is_taken_up_by_a_free_one(board):
    board.submit(make_task("t0", {}))
    board.open_group(0, 1)
    board.open_group(1, 1)
    assigned(board, group=0)
    assert board.next_task(1, 1, 0, 0) is None
    board.remove_group(0, incarnation=1)
    assert assigned(board, group=1).lease.trial_id == "t0"
    board.remove_group(0, incarnation=1)  # again: nothing more to lose
    assert board.stats().lost_groups == 1


def test_a_group_loss_noticed_late_does_not_touch_the_next_incarnation(board):
    board.submit(make_task("t0", {}))
    board.open_group(0, 1)
    assigned(board)
    board.open_group(0, 1)
    lease = assigned(board, incarnation=2).lease
    board.remove_group(0, incarnation=1)
    assert run_epoch(board, lease, 1)


def test_a_trial_that_loses_its_group_three_times_is_failed_with_the_reason(board):
    board.submit(make_task("t0", {}))
    for attempt in range(MAX_LOST_GROUPS):
        assert board.next_result("t0") is None
        incarnation = board.open_group(0, 1)
        assert assigned(board, incarnation=incarnation).lease.incarnation == attempt + 1
    incarnation = board.open_group(0, 1)
    outcome = board.next_result("t0")
    assert outcome.state is OutcomeState.FAILED
    assert "lost 3 times" in outcome.reason
    assert "epoch 1" in outcome.reason
    assert board.next_task(0, incarnation, 0, 0) is None


def test_a_trial_that_raises_is_failed_and_its_group_goes_on(board):
    board.submit(make_task("t0", {}))
    board.submit(make_task("t1", {}))
    board.open_group(0, 1)
    board.failed(assigned(board).lease, 0, "ValueError: width 0")
    assert board.next_result("t0").reason == "ValueError: width 0"
    assert assigned(board, sequence=1).lease.trial_id == "t1"


def pair_at_work(board, until_epoch=9):
    """A group of two ranks that both hold t0, while t1 waits."""
    board.submit(make_task("t0", {}, until_epoch=until_epoch))
    board.submit(make_task("t1", {}))
    board.open_group(0, 2)
    assigned(board, rank=1)
    return assigned(board, rank=0).lease


def test_a_group_with_a_rank_left_behind_by_a_trial_that_raised_is_restarted(board, clock):
    lease = pair_at_work(board)
    board.failed(lease, 1, "rank 1 ran out of memory")
    assert board.next_task(0, 1, 1, 1) is None
    clock.now += STRAGGLER_SECONDS + 1
    assert board.next_task(0, 1, 1, 1) is Signal.RESTART
    for incarnation in (2, 3):
        board.open_group(0, 2)
        lease = assigned(board, incarnation=incarnation).lease
        board.failed(lease, 1, "rank 1 ran out of memory")
    board.open_group(0, 2)
    outcome = board.next_result("t0")
    assert outcome.state is OutcomeState.FAILED
    assert "ran out of memory" in outcome.reason
    assert assigned(board, incarnation=4).lease.trial_id == "t1"


def test_a_rank_that_raises_because_its_peer_died_costs_an_attempt_not_the_trial(board):
    lease = pair_at_work(board)
    board.failed(lease, 0, "Connection closed by peer", is_clean=False)
    assert board.next_result("t0") is None
    board.remove_group(0)
    board.open_group(0, 2)
    assert assigned(board, incarnation=2).lease.trial_id == "t0"


def test_a_trial_out_of_memory_goes_on_in_parts_from_its_last_epoch_and_then_fails(board):
    board.submit(make_task("t0", {}, until_epoch=9))
    board.submit(make_task("t1", {}))
    board.open_group(0, 1)
    lease = assigned(board).lease
    run_epoch(board, lease, 1)
    board.failed(lease, 0, "MemoryError", out_of_memory=True)
    again = assigned(board, sequence=1)
    assert (again.lease.trial_id, again.task.num_parts) == ("t0", RETRY_PARTS)
    assert (again.task.start_state, again.task.until_epoch) == (b"1", 9)
    assert board.stats().lost_groups == 0
    board.failed(again.lease, 0, "MemoryError", out_of_memory=True)
    *_, outcome = read_all(board, "t0")
    assert outcome.state is OutcomeState.FAILED
    assert outcome.reason == "out of memory, with a step in 4 parts, too: MemoryError"
    assert assigned(board, sequence=2).task.num_parts == 1


def test_a_cancelled_trial_out_of_memory_is_not_tried_again(board):
    board.submit(make_task("t0", {}))
    board.open_group(0, 1)
    lease = assigned(board).lease
    board.cancel("t0")
    board.failed(lease, 0, "MemoryError", out_of_memory=True)
    assert board.next_result("t0").state is OutcomeState.FAILED


def test_a_rank_out_of_memory_whose_peer_waits_costs_the_group_and_one_retry(board, clock):
    lease = pair_at_work(board)
    for incarnation in (1, 2):
        board.failed(lease, 1, "CUDA out of memory", is_clean=False, out_of_memory=True)
        clock.now += STRAGGLER_SECONDS + 1
        assert board.next_task(0, incarnation, 1, 1) is Signal.RESTART
        board.open_group(0, 2)
        answer = assigned(board, incarnation=incarnation + 1)
        lease = answer.lease
    assert lease.trial_id == "t1"
    assert "in 4 parts, too: CUDA out of memory" in board.next_result("t0").reason


def test_why_a_group_was_lost_is_part_of_the_reason(board):
    board.submit(make_task("t0", {}))
    for incarnation in (1, 2, 3):
        board.open_group(0, 1)
        assigned(board, incarnation=incarnation)
        board.remove_group(0, cause="no batch was finished for 600 seconds")
    assert board.next_result("t0").reason == (
        "its worker group was lost 3 times, the last time in epoch 1 "
        "(no batch was finished for 600 seconds)"
    )


@pytest.mark.parametrize("is_clean", [True, False], ids=["clean", "unclean"])
def test_a_trial_that_raises_on_all_ranks_is_failed_and_an_unclean_group_restarts(board, is_clean):
    lease = pair_at_work(board)
    board.failed(lease, 0, "bad shape", is_clean=is_clean)
    assert board.next_task(0, 1, 0, 1) is None
    board.failed(lease, 1, "bad shape", is_clean=is_clean)
    assert board.next_result("t0").reason == "bad shape"
    if is_clean:
        assert assigned(board, rank=0, sequence=1) == assigned(board, rank=1, sequence=1)
    else:
        assert board.next_task(0, 1, 0, 1) is Signal.RESTART
        assert board.stats().queued == 1  # t1 is not given to a group that is about to restart


def test_a_rank_between_two_epochs_drops_a_trial_that_raised_on_another_rank(board):
    lease = pair_at_work(board)
    run_epoch(board, lease, 1)
    assert board.may_continue(lease, 0, 1) is True
    board.failed(lease, 0, "bad batch")
    assert board.may_continue(lease, 1, 1) is False  # though it was decided: else it hangs alone
    assert board.next_result("t0").epoch == 1
    assert board.next_result("t0").reason == "bad batch"


def test_a_report_after_another_rank_raised_fails_the_trial(board):
    lease = pair_at_work(board)
    board.failed(lease, 1, "bad clip")
    assert not run_epoch(board, lease, 1)
    assert board.next_result("t0").reason == "bad clip"


def test_close_cancels_the_queue_lets_the_running_epoch_end_and_releases_the_groups(board):
    board.submit(make_task("t0", {}, until_epoch=9))
    board.submit(make_task("t1", {}))
    board.open_group(0, 1)
    lease = assigned(board).lease
    board.close()
    assert board.next_result("t1").state is OutcomeState.CANCELLED
    run_epoch(board, lease, 1)
    assert board.may_continue(lease, 0, 1) is False
    assert board.next_task(0, 1, 0, 1) is Signal.CLOSE
    board.submit(make_task("t2", {}))
    assert board.next_result("t2").state is OutcomeState.CANCELLED


def test_abort_fails_every_live_trial_with_the_reason(board):
    board.submit(make_task("t0", {}))
    board.submit(make_task("t1", {}))
    board.open_group(0, 1)
    assigned(board)
    board.abort("no group is left")
    assert board.next_result("t0").reason == board.next_result("t1").reason == "no group is left"


def test_an_evaluation_reports_once(board):
    board.submit(make_task("t0.test", {}, kind="evaluate", start_state=b"tensors"))
    board.open_group(0, 1)
    assignment = assigned(board)
    assert (assignment.task.kind, assignment.task.start_state) == ("evaluate", b"tensors")
    assert board.report(assignment.lease, epoch=0, metrics={"top1": 1.0}, state=None, final=b"")
    result, outcome = read_all(board, "t0.test")
    assert result.is_last
    assert outcome.state is OutcomeState.DONE


def test_a_live_id_is_not_taken_twice(board):
    board.submit(make_task("t0", {}))
    with pytest.raises(ValueError, match="t0"):
        board.submit(make_task("t0", {}))


@pytest.mark.parametrize("when", ["queued", "running", "ended"])
def test_a_forgotten_trial_leaves_nothing_behind(board, when):
    board.submit(make_task("t0", {}, until_epoch=9))
    board.open_group(0, 1)
    if when != "queued":
        lease = assigned(board).lease
        run_epoch(board, lease, 1, final=b"" if when == "ended" else None)
    board.forget("t0")
    if when == "running":
        assert board.may_continue(lease, 0, 1) is False
    with pytest.raises(KeyError):
        board.next_result("t0")
    assert board._trials == {}


def test_overhead_leaves_out_the_time_without_a_trial_to_take(board, clock):
    board.open_group(0, 1)
    board.submit(make_task("t0", {}))
    run_epoch(board, assigned(board).lease, 1, final=b"")
    clock.now = 10.0
    board.submit(make_task("t1", {}))
    board.started(assigned(board, sequence=1).lease, seconds_since_last=10.25)
    stats = board.stats()
    assert stats.idle_seconds == (10.0,)
    assert stats.overhead_seconds == (0.25,)


def test_what_a_group_keeps_does_not_grow_with_the_trials(board):
    board.open_group(0, 2)
    for sequence in range(50):
        board.submit(make_task(f"t{sequence}", {}))
        lease = assigned(board, rank=0, sequence=sequence).lease
        assigned(board, rank=1, sequence=sequence)
        run_epoch(board, lease, 1, final=b"")
        board.forget(lease.trial_id)
    assert len(board._groups[0].slots) <= 2


def test_messages_of_an_unknown_group_are_void(board):
    lease = Lease(group=7, incarnation=1, sequence=0, trial_id="t0")
    assert board.next_task(7, 1, 0, 0) is Signal.CLOSE
    assert not run_epoch(board, lease, 1)
    assert board.may_continue(lease, 0, 1) is False
    board.failed(lease, 0, "?")


def test_a_paused_trial_goes_on_from_its_checkpoint_before_what_is_queued(board):
    board.submit(make_task("t0", {}, until_epoch=1))
    board.submit(make_task("t1", {}, until_epoch=1))
    board.open_group(0, 1)
    lease = assigned(board).lease
    run_epoch(board, lease, 1)
    board.cancel("t0")
    assert board.may_continue(lease, 0, 1) is False
    assert read_all(board, "t0")[-1].state is OutcomeState.CANCELLED
    board.resume("t0", 3)
    assert board.next_result("t0") is None
    again = assigned(board, sequence=1)
    assert (again.task.trial_id, again.task.start_state) == ("t0", b"1")
    assert run_epoch(board, again.lease, 2)
    assert board.may_continue(again.lease, 0, 2) is True


def test_a_pause_that_is_taken_back_in_time_leaves_the_trial_in_its_group(board):
    board.submit(make_task("t0", {}, until_epoch=1))
    board.open_group(0, 1)
    lease = assigned(board).lease
    run_epoch(board, lease, 1)
    board.cancel("t0")
    board.resume("t0", 2)
    assert board.may_continue(lease, 0, 1) is True
    assert [type(item) for item in read_all(board, "t0")] == [EpochReport]


def test_a_parked_trial_tells_its_last_epoch_and_waits_until_it_is_resumed(board):
    task = make_task("t0", {}, until_epoch=1, start_state=b"1")
    board.park(task, EpochReport(trial_id="t0", epoch=1, metrics={}, is_last=False, group=None))
    board.open_group(0, 1)
    assert [report.epoch for report in board.next_results("t0")] == [1]
    assert board.next_task(0, 1, 0, 0) is None
    board.resume("t0", 3)
    assignment = assigned(board)
    assert assignment.task.start_state == b"1"
    assert not run_epoch(board, assignment.lease, 1) or board.next_results("t0") is None
    assert run_epoch(board, assignment.lease, 2)
    assert [report.epoch for report in board.next_results("t0")] == [2]


def test_a_parked_trial_can_be_cancelled(board):
    task = make_task("t0", {}, until_epoch=1, start_state=b"1")
    board.park(task, EpochReport(trial_id="t0", epoch=1, metrics={}, is_last=False, group=None))
    board.cancel("t0")
    assert read_all(board, "t0")[-1].state is OutcomeState.CANCELLED


def test_a_trial_that_is_done_is_not_resumed(board):
    board.submit(make_task("t0", {}, until_epoch=1))
    board.open_group(0, 1)
    run_epoch(board, assigned(board).lease, 1, final=b"tensors")
    board.resume("t0", 5)
    assert read_all(board, "t0")[-1].state is OutcomeState.DONE
    assert board.next_task(0, 1, 0, 1) is None


def test_a_group_that_is_given_away_ends_after_its_epoch_and_its_trial_goes_on_elsewhere(board):
    board.open_group(0, 2)
    board.submit(make_task("t0", {}, until_epoch=9))
    lease = assigned(board).lease
    assigned(board, rank=1)
    board.submit(make_task("t1", {}))
    assert board.retire(5) == [0]
    assert (board.num_groups, board.retire(5)) == (0, [])
    run_epoch(board, lease, 1)
    assert board.may_continue(lease, 1, 1) is False
    assert board.may_continue(lease, 0, 1) is False
    assert [board.next_task(0, 1, rank, 1) for rank in (0, 1)] == [Signal.CLOSE] * 2
    board.open_group(1, 1)
    again = assigned(board, group=1)
    assert (again.lease.trial_id, again.task.start_state) == ("t0", b"1")  # before t1
    assert run_epoch(board, again.lease, 2, final=b"tensors")
    assert [report.epoch for report in read_all(board, "t0")[:-1]] == [1, 2]


def test_groups_without_work_are_given_away_first(board):
    for group in range(3):
        board.open_group(group, 1)
    board.submit(make_task("t0", {}))
    assigned(board, group=2)
    assert board.retire(2) == [1, 0]
    assert board.next_task(1, 1, 0, 0) is Signal.CLOSE
    assert board.num_groups == 1


def test_a_trial_that_waits_at_a_rung_keeps_its_group_until_that_is_decided(board):
    board.open_group(0, 1)
    board.submit(make_task("t0", {}, until_epoch=1))
    lease = assigned(board).lease
    run_epoch(board, lease, 1)
    board.retire(1)
    assert board.may_continue(lease, 0, 1) is None
    board.grant("t0", 2)
    assert board.may_continue(lease, 0, 1) is False
    assert board.num_queued == 1
