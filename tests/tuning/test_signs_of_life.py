"""Who is silent for too long, and who is not."""

import pytest

from vpetl_ray.tuning.signs_of_life import Heartbeat, SignsOfLife


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def pass_time(signs, clock, seconds, speaking=()):
    """Look every period, as the dispatcher does, while some go on speaking."""
    found = set()
    for _ in range(round(seconds / signs.period)):
        clock.now += signs.period
        for group, rank in speaking:
            signs.note(group, rank)
        found.update(signs.look())
    return found


def test_a_group_is_silent_when_one_of_its_workers_is(clock):
    signs = SignsOfLife(60.0, clock=clock)
    signs.expect(0, 2)
    signs.expect(1, 2)
    speaking = [(0, 0), (1, 0), (1, 1)]
    assert not pass_time(signs, clock, 60, speaking)
    assert pass_time(signs, clock, 2 * signs.period, speaking) == {0}
    signs.forget(0)
    assert not pass_time(signs, clock, 100, speaking)


def test_workers_that_are_not_expected_any_more_are_not_listened_to(clock):
    signs = SignsOfLife(60.0, clock=clock)
    signs.note(7, 0)
    signs.expect(0, 1)
    signs.note(0, 1)  # of an earlier, larger life
    assert pass_time(signs, clock, 70) == {0}


def test_nobody_is_judged_by_what_a_dispatcher_that_stood_still_did_not_hear(clock):
    signs = SignsOfLife(60.0, clock=clock)
    signs.expect(0, 1)
    clock.now += 3600
    assert signs.look() == []
    assert pass_time(signs, clock, 63) == {0}


def test_a_heartbeat_passes_few_signs_on_and_none_before_somebody_listens(clock):
    beat, sent = Heartbeat(60.0, clock=clock), []
    clock.now = 100.0
    beat()
    beat.send = lambda: sent.append(clock.now)
    for _ in range(150):
        clock.now += 1.0
        beat()
    assert sent == [101.0, 161.0, 221.0]
