"""Several searches on one cluster: who gets how many groups, and who lets some go."""

import math
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import ray
from hypothesis import given
from hypothesis import strategies as st

from vpetl_ray.tuning.claims_board import GONE_SECONDS, ClaimsBoard
from vpetl_ray.tuning.cluster import plan_groups
from vpetl_ray.tuning.fair_shares import Claim, fair_shares, num_to_give, plan_beside


def claim(name, *, workers=1, cpus=1.0, gpus=0.0, most=None, at_work=0, placement="pack"):
    return Claim(
        began=float(ord(name[0])),
        search=name,
        workers_per_group=workers,
        cpus_per_worker=cpus,
        gpus_per_worker=gpus,
        placement=placement,
        num_most=most,
        num_at_work=at_work,
    )


def shares(nodes, *claims):
    found = fair_shares(nodes, claims)
    return [found[c.search] for c in claims]


NODES = [{"CPU": 2.0}, {"CPU": 2.0}]
GPUS = [{"CPU": 16.0, "GPU": 4.0}, {"CPU": 16.0, "GPU": 4.0}]


@pytest.mark.parametrize(
    ("nodes", "claims", "expected"),
    [
        (NODES, [claim("a")], [4]),
        (NODES, [claim("a"), claim("b")], [2, 2]),
        (NODES, [claim("a"), claim("b"), claim("c")], [2, 1, 1]),
        (NODES, [claim(name) for name in "abcd"], [1, 1, 1, 1]),
        (NODES, [claim(name) for name in "abcde"], [1, 1, 1, 1, 0]),
        (NODES, [claim("a"), claim("b", most=1)], [3, 1]),
        (NODES, [claim("a"), claim("b", workers=2)], [2, 1]),
        # A worker of two CPUs needs a node of its own.
        (NODES, [claim("a", cpus=2.0), claim("b", cpus=2.0)], [1, 1]),
        (NODES, [claim("a", workers=2, placement="strict_spread"), claim("b")], [1, 2]),
        (NODES, [claim("a", workers=2, placement="strict_pack"), claim("b")], [1, 2]),
        # One takes GPUs, the other CPUs: each has most of what it takes most of.
        (GPUS, [claim("a", gpus=1.0), claim("b", cpus=1.0)], [7, 25]),
        (GPUS, [claim("a", gpus=1.0), claim("b", gpus=1.0), claim("c", gpus=0.5)], [3, 3, 4]),
        ([], [claim("a")], [0]),
        ([{"CPU": 4.0}], [claim("a", gpus=1.0), claim("b")], [0, 4]),
    ],
)
def test_each_search_has_the_same_share_of_what_it_takes_most_of(nodes, claims, expected):
    assert shares(nodes, *claims) == expected
    assert shares(nodes, *reversed(claims)) == expected[::-1]  # whoever works it out


claims_of = st.builds(
    claim,
    st.uuids().map(str),
    workers=st.integers(1, 3),
    cpus=st.sampled_from([1.0, 2.0]),
    most=st.one_of(st.none(), st.integers(1, 4)),
)


@given(
    st.lists(st.integers(0, 6), max_size=4),
    st.lists(claims_of, max_size=5, unique_by=lambda c: c.search),
)
def test_shares_fit_into_the_cluster_and_leave_nobody_out_for_one_who_has_more(cpus, claims):
    nodes = [{"CPU": float(n)} for n in cpus]
    found = fair_shares(nodes, claims)
    taken = sum(found[c.search] * c.workers_per_group * c.cpus_per_worker for c in claims)
    assert taken <= sum(cpus)
    for one in claims:
        assert one.num_most is None or found[one.search] <= one.num_most
        for other in claims:
            is_alike = (one.workers_per_group, one.cpus_per_worker) == (
                other.workers_per_group,
                other.cpus_per_worker,
            )
            wants_more = other.num_most is None or found[other.search] < other.num_most
            if is_alike and wants_more:
                assert found[one.search] <= found[other.search] + 1


@pytest.mark.parametrize(
    ("at_work", "expected"),
    [
        ([4, 0], [2, 0]),
        ([3, 1], [1, 0]),
        ([2, 2], [0, 0]),
        ([2, 0], [0, 0]),  # the room is free, or the other is starting: nothing to give
        ([1, 3], [0, 1]),
        ([4, 0, 0], [2, 0, 0]),
        ([2, 2, 0], [0, 1, 0]),  # the older keeps what cannot be divided
    ],
)
def test_who_has_more_than_a_share_gives_what_others_lack(at_work, expected):
    claims = [claim(name, at_work=n) for name, n in zip("abc", at_work, strict=False)]
    found = fair_shares(NODES, claims)
    given = [num_to_give(c, [o for o in claims if o is not c], found) for c in claims]
    assert given == expected


def test_groups_of_other_sizes_are_counted_in_workers():
    claims = [claim("a", workers=2, at_work=2), claim("b")]
    found = fair_shares(NODES, claims)
    assert found == {"a": 1, "b": 2}
    assert num_to_give(claims[0], claims[1:], found) == 1


def planned(nodes, *others, **more):
    sizes = {"workers_per_group": 1, "cpus_per_worker": 1, "gpus_per_worker": 0, "grows": True}
    plan = plan_groups(nodes, num_groups=None, **sizes | more)
    return plan_beside(plan, others, nodes)


def test_a_search_begins_with_its_share_and_says_so():
    found = planned(NODES, claim("a", at_work=4))
    assert found.num_groups == 2
    assert found.sentence == (
        "2 worker groups of 1 worker with 1 CPU each, a fair share beside 1 other search"
    )


def test_one_search_too_many_waits_for_the_end_of_another():
    others = [claim(name, at_work=1) for name in "abcd"]
    found = planned(NODES, *others)
    assert found.num_groups == 0
    assert "4 other searches have a right to all there is" in found.sentence
    assert planned(NODES, *others, wait_minutes=1.0).num_groups == 1  # so long, and then it ends


def test_what_is_asked_of_an_autoscaler_is_no_share_of_what_is_there():
    sizes = {"workers_per_group": 1, "cpus_per_worker": 1, "gpus_per_worker": 0, "grows": True}
    plan = plan_groups(NODES, num_groups=8, wait_minutes=5.0, **sizes)
    assert plan_beside(plan, [claim("a", at_work=4)], NODES) is plan


def test_searches_read_of_each_other_and_a_silent_one_is_forgotten(ray_cluster):
    now = [0.0]
    mine, theirs = ClaimsBoard(clock=lambda: now[0]), ClaimsBoard()
    own, other = claim("a", at_work=2), replace(claim("b", gpus=0.5, most=3), began=math.pi)
    mine.write(own)
    theirs.write(other)
    assert mine.others() == [other]
    assert theirs.others() == [own]
    now[0] += GONE_SECONDS
    theirs.write(other)
    assert mine.others() == [other]  # it has written
    now[0] += GONE_SECONDS + 1
    assert mine.others() == []
    theirs.write(other)
    assert mine.others() == [other]  # it was only slow
    theirs.withdraw()
    assert mine.others() == []
    mine.withdraw()
    assert ClaimsBoard().others() == []


DRIVER = """
import sys, time
from vpetl_ray.tuning.claims_board import ClaimsBoard
from vpetl_ray.tuning.cluster import plan_groups, ray_session
from vpetl_ray.tuning.fair_shares import Claim
with ray_session(sys.argv[1]):
    plan = plan_groups([{"CPU": 2.0}], num_groups=1, workers_per_group=1, cpus_per_worker=1,
                       gpus_per_worker=0)
    ClaimsBoard().write(Claim.of(plan, began=1.0, search="killed"))
    print("written", flush=True)
    time.sleep(60)
"""


def test_a_search_whose_driver_was_killed_counts_no_more(ray_cluster):
    """Not even for who looks for the first time, and has not seen it silent for a while."""
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-W", "ignore", "-c", DRIVER, address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as driver:
        try:
            assert "written" in driver.stdout.readline()
            assert [c.search for c in ClaimsBoard().others()] == ["killed"]
        finally:
            driver.kill()
    before = time.monotonic()
    while ClaimsBoard().others() and time.monotonic() < before + GONE_SECONDS:
        time.sleep(0.05)
    assert ClaimsBoard().others() == []
    assert time.monotonic() - before < GONE_SECONDS / 3
