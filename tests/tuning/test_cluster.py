"""How many groups fit, and what is said when none does."""

import pytest

from vpetl_ray.errors import SearchError
from vpetl_ray.tuning.cluster import plan_groups, ray_session
from vpetl_ray.tuning.group_watch import news_of, num_new_groups

LAPTOP = [{"CPU": 2.0}]


def plan(nodes, *, num_groups=None, workers=1, cpus=1.0, gpus=None):
    return plan_groups(
        nodes,
        num_groups=num_groups,
        workers_per_group=workers,
        cpus_per_worker=cpus,
        gpus_per_worker=gpus,
    )


@pytest.mark.parametrize(
    ("nodes", "workers", "cpus", "expected"),
    [
        (LAPTOP, 1, 1.0, 2),
        (LAPTOP, 2, 1.0, 1),
        (LAPTOP, 1, 2.0, 1),
        ([{"CPU": 3.0}, {"CPU": 3.0}], 1, 2.0, 2),  # a worker is never split over two nodes
        ([{"CPU": 3.0}, {"CPU": 1.0}], 2, 1.0, 2),  # a group may be
        ([{"CPU": 64.0, "GPU": 4.0}], 1, 1.0, 4),
        ([{"CPU": 64.0, "GPU": 4.0}, {"CPU": 64.0}], 2, 8.0, 2),
    ],
)
def test_as_many_groups_as_fit(nodes, workers, cpus, expected):
    assert plan(nodes, workers=workers, cpus=cpus).num_groups == expected


def test_gpus_are_used_where_there_are_some_unless_it_says_otherwise():
    nodes = [{"CPU": 8.0, "GPU": 2.0}]
    assert plan(nodes).gpus_per_worker == 1
    assert plan(nodes, gpus=0.0).num_groups == 8
    assert plan(nodes, gpus=0.5).num_groups == 4


def test_more_groups_than_fit_are_not_planned_and_that_is_said():
    found = plan(LAPTOP, num_groups=5)
    assert found.num_groups == 2
    assert found.sentence == (
        "2 worker groups of 1 worker with 1 CPU each "
        "(5 were asked for; 2 CPU and 0 GPU free on 1 node has no room for more)"
    )


def test_when_not_one_group_fits_the_error_says_what_there_is():
    with pytest.raises(SearchError, match=r"1 worker with 1 CPU and 1 GPU each fits.*2 CPU and 0"):
        plan(LAPTOP, gpus=1.0)


def test_a_cluster_that_is_not_there_is_one_sentence():
    with (
        pytest.raises(SearchError, match=r"no Ray cluster at 127\.0\.0\.1:1"),
        ray_session("127.0.0.1:1"),
    ):
        pass


def test_placement_decides_how_many_groups_fit():
    nodes = [{"CPU": 3.0}, {"CPU": 1.0}]

    def fitting(placement, workers):
        return plan_groups(
            nodes,
            num_groups=None,
            workers_per_group=workers,
            cpus_per_worker=1,
            gpus_per_worker=0,
            placement=placement,
        ).num_groups

    assert fitting("pack", 2) == fitting("spread", 2) == 2
    assert fitting("strict_pack", 2) == 1
    assert fitting("strict_pack", 3) == 1
    assert fitting("strict_spread", 2) == 1
    with pytest.raises(SearchError, match="placement strict_spread"):
        fitting("strict_spread", 3)


def waiting(nodes, num_groups, wait_minutes=5.0):
    return plan_groups(
        nodes,
        num_groups=num_groups,
        workers_per_group=1,
        cpus_per_worker=1,
        gpus_per_worker=0,
        grows=True,
        wait_minutes=wait_minutes,
    )


def test_where_nodes_come_when_asked_groups_are_started_before_they_are_there():
    assert waiting([], None).num_groups == 1
    assert waiting([], 8).num_groups == 8
    assert waiting([{"CPU": 2.0}], 8).sentence.endswith("(2 fit now, the others wait for nodes)")
    assert waiting([{"CPU": 2.0}], None).num_groups == 2
    assert waiting([], 8).wait_seconds == 300.0
    with pytest.raises(SearchError, match="not one worker group"):
        waiting([], 8, wait_minutes=0.0)


@pytest.mark.parametrize(
    ("fitting", "running", "at_work", "most", "expected"),
    [
        (2, 1, 1, None, 2),  # a node joined
        (2, 3, 1, None, 0),  # it is for those that lost theirs
        (0, 1, 1, None, 0),
        (5, 2, 2, 4, 2),
        (5, 4, 2, 4, 0),
    ],
    ids=["joined", "taken up again", "full", "limited", "at the limit"],
)
def test_groups_are_added_for_room_that_nobody_waits_for(fitting, running, at_work, most, expected):
    found = num_new_groups(fitting, num_running=running, num_open=at_work, num_most=most)
    assert found == expected


@pytest.mark.parametrize(
    ("now", "before", "given", "running", "expected"),
    [
        (1, 0, 0, 1, "1 worker group is at work"),
        (2, 2, 0, 2, None),
        (1, 2, 0, 2, "1 lost with a node, 1 worker group is at work"),
        (2, 4, 2, 4, "2 given to another search, 2 worker groups are at work"),
        (0, 3, 2, 3, "2 given to another search, 1 lost with a node, 0 worker groups are at work"),
        (1, 3, 0, 1, "1 worker group is at work"),  # two ended in order
        (0, 2, 0, 0, None),
    ],
)
def test_what_becomes_of_the_groups_is_said_once(now, before, given, running, expected):
    assert news_of(now, before=before, given=given, running=running) == expected
