"""Workers that are killed, hang, or have no memory left."""

import pytest

from tests.faults.groups import Groups, doubled, seconds_to_recover
from tests.tuning.conftest import ray_cluster
from vpetl_ray.tuning.messages import OutcomeState

__all__ = ["ray_cluster"]

pytestmark = pytest.mark.timeout(400)

STUCK_SECONDS = 4.0


@pytest.fixture(scope="module")
def workers(ray_cluster):
    """Gives groups of a size, watched closely; there is room for one size at a time."""
    present = {}

    def of_size(num_groups, num_workers):
        size = (num_groups, num_workers)
        if size not in present:
            for other in list(present):
                present.pop(other).__exit__()
            present[size] = Groups(num_groups, num_workers, stuck_seconds=STUCK_SECONDS)
        return present[size]

    yield of_size
    for groups in present.values():
        groups.__exit__()


@pytest.fixture
def singles(workers):
    """Two groups of one worker."""
    return workers(2, 1)


@pytest.fixture
def pair(workers):
    """One group of two workers."""
    return workers(1, 2)


def strike(groups, trial, fault, marks, **more):
    """A trial of four epochs that is struck in its third; its reports and outcome."""
    groups.submit(trial, {"epochs": 4, "at": 3, "fault": fault, "marks": str(marks), **more})
    return groups.finish(trial)


def check_recovery(record, name, reports, outcome, marks):
    """The trial went on from its last epoch, each of its epochs is there once."""
    times = len(list(marks.iterdir()))
    lost = int(outcome.state is not OutcomeState.DONE)
    seconds = seconds_to_recover(marks, reports)
    record(name, injected=times, lost=lost, doubled=doubled(reports), seconds=seconds)
    assert outcome.state is OutcomeState.DONE, outcome.reason
    assert [report.epoch for report in reports] == [1, 2, 3, 4]
    assert reports[2].metrics["started_at"] == 2
    assert times > 0


def test_a_killed_worker_costs_an_epoch_and_does_not_disturb_the_other_group(
    singles, tmp_path, record_fault
):
    singles.submit("quiet", {"epochs": 30, "seconds": 0.2})
    reports, outcome = strike(singles, "killed", "kill", tmp_path)
    check_recovery(record_fault, "worker killed, group of 1", reports, outcome, tmp_path)
    quiet, outcome = singles.finish("quiet")
    assert outcome.state is OutcomeState.DONE
    assert len({report.metrics["pid"] for report in quiet}) == 1
    assert not doubled(quiet)


@pytest.mark.parametrize(
    "fault",
    ["sleep", pytest.param("freeze", marks=pytest.mark.faults), "hold_the_lock"],
)
def test_a_worker_that_hangs_is_found_and_its_group_restarted(
    singles, tmp_path, record_fault, fault
):
    reports, outcome = strike(singles, f"hung_{fault}", fault, tmp_path)
    check_recovery(record_fault, "worker hangs, group of 1", reports, outcome, tmp_path)


@pytest.mark.parametrize("fault", ["fill_host", "fill_torch", "fill_cuda"])
def test_a_trial_without_memory_is_tried_in_parts_and_its_worker_lives(
    singles, tmp_path, record_fault, fault
):
    reports, outcome = strike(singles, f"large_{fault}", fault, tmp_path)
    check_recovery(record_fault, "out of memory, once", reports, outcome, tmp_path)
    assert [report.metrics["parts"] for report in reports] == [1, 1, 4, 4]


def test_a_trial_that_never_fits_is_failed_with_the_reason(singles, tmp_path, record_fault):
    singles.submit("before", {"epochs": 1})
    (before,), _ = singles.finish("before")
    reports, outcome = strike(singles, "too_large", "fill_cuda", tmp_path, times=9)
    pids = {report.metrics["pid"] for report in reports} | {before.metrics["pid"]}
    times = len(list(tmp_path.iterdir()))
    record_fault("out of memory, always: failed", injected=times, doubled=doubled(reports))
    assert times == 2
    assert outcome.state is OutcomeState.FAILED
    assert outcome.reason == (
        "out of memory, with a step in 4 parts, too: "
        "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."
    )
    for number in range(4):
        singles.submit(f"after{number}", {"epochs": 1})
    after = [singles.finish(f"after{number}")[0][0].metrics["pid"] for number in range(4)]
    assert pids & set(after)


@pytest.mark.parametrize(("times", "rank"), [(1, 1), pytest.param(2, 0, marks=pytest.mark.faults)])
def test_a_killed_worker_of_two_brings_both_back(pair, tmp_path, record_fault, times, rank):
    reports, outcome = strike(pair, f"killed{rank}", "kill", tmp_path, times=times, on=rank)
    check_recovery(record_fault, "worker killed, group of 2", reports, outcome, tmp_path)
    assert reports[3].metrics["ranks"] == 2


def test_a_hung_collective_is_found_and_both_workers_restarted(pair, tmp_path, record_fault):
    reports, outcome = strike(pair, "hung", "sleep", tmp_path, on=1)
    check_recovery(record_fault, "collective hangs, group of 2", reports, outcome, tmp_path)


@pytest.mark.faults
def test_a_trial_that_kills_its_group_three_times_is_failed(pair, tmp_path, record_fault):
    pair.submit("next", {"epochs": 1})
    reports, outcome = strike(pair, "killer", "kill", tmp_path, times=9)
    times = len(list(tmp_path.iterdir()))
    record_fault("killed by one trial: failed", injected=times, doubled=doubled(reports))
    assert times == 3
    assert outcome.state is OutcomeState.FAILED
    assert "lost 3 times, the last time in epoch 3" in outcome.reason
    assert pair.finish("next")[1].state is OutcomeState.DONE


@pytest.mark.faults
def test_memory_that_is_short_on_one_rank_costs_no_more(pair, tmp_path, record_fault):
    reports, outcome = strike(pair, "large", "fill_cuda", tmp_path, on=1)
    check_recovery(record_fault, "out of memory, once", reports, outcome, tmp_path)
    assert reports[3].metrics["parts"] == 4
