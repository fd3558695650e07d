"""What a search had spent when a trial ended, over interruptions."""

from dataclasses import replace

import pytest

from vpetl_ray.results.records import TrialRecord, TrialState
from vpetl_ray.tuning.search_clock import SearchClock


def record(number, **values):
    return TrialRecord(
        id=f"t{number}", number=number, state=TrialState.COMPLETE, trainable_params=1, **values
    )


def test_time_goes_on_where_the_last_run_ended_however_long_the_pause_was():
    now = [100.0]
    first = SearchClock(clock=lambda: now[0])
    for epoch in (1, 2, 3):
        first.count_epoch(is_probe=False, epoch=epoch)
    now[0] = 107.0
    ended = first.stamped(record(0, epochs=2))
    assert (ended.at_seconds, ended.at_epochs) == (7.0, 3)

    now[0] = 5000.0
    second = SearchClock([ended], clock=lambda: now[0])
    second.count_epoch(is_probe=False, epoch=1)
    now[0] = 5002.0
    later = second.stamped(record(1, epochs=1))
    assert (later.at_seconds, later.at_epochs) == (pytest.approx(9.0), 4)


def test_a_probe_of_a_hundred_epochs_counts_as_one():
    clock = SearchClock()
    for epoch in range(1, 101):
        clock.count_epoch(is_probe=True, epoch=epoch)
    assert clock.stamped(record(0)).at_epochs == 1


def test_records_of_an_older_version_say_their_epochs_themselves():
    old = [record(0, epochs=4), record(1, epochs=3), replace(record(2), epochs=0)]
    assert SearchClock(old).stamped(record(3)).at_epochs == 7
