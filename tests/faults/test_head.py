"""The head's own worker processes killed: those that hand out trials, follow them, run groups."""

import os
import re
import signal
import time

import pytest

from tests.faults.searches import finished, trials_of, wait_until
from tests.faults.test_driver import count_faults

pytestmark = [pytest.mark.timeout(400), pytest.mark.faults]

ACTORS = {
    "ray::ResourceTrainable": "head: a trial's actor killed",
    "ray::TrainController": "head: a group's controller killed",
    "ray::DispatcherActor": "head: the dispatcher killed",
}


def num_done(search):
    return len(re.findall(r"\] t\d+ complete", search.said))


def kill_actors(search, name):
    """Kill all of a kind; gives how many."""
    pids = [pid for pid, words in search.processes().items() if words.startswith(name)]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    return len(pids)


def test_a_search_goes_on_when_the_heads_processes_are_killed(start, project, record_fault):
    search = start("--out", "out", "--trials", 12, "--set", "training.epochs=150")
    search.wait_for(r"t0001 complete")
    times, seconds = {}, {}
    for name in ACTORS:
        time.sleep(0.5)
        before, begin = num_done(search), time.monotonic()
        times[name] = kill_actors(search, name)
        wait_until(
            lambda before=before: (
                num_done(search) > before + 1 or search.process.poll() is not None
            ),
            100,
            lambda: search.said,
        )
        seconds[name] = time.monotonic() - begin
    code = search.wait()
    out = project / "out"
    known = re.findall(r"\] (t\d+) complete", search.said)
    lost, doubled, is_told = count_faults(out, set(known))
    failed = int((trials_of(out).state == "failed").sum())
    for name, fault in ACTORS.items():
        record_fault(fault, injected=times[name], lost=lost + failed, doubled=doubled,
                     seconds=[seconds[name]])  # fmt: skip
    assert code == 0, search.said
    assert min(times.values()) > 0
    assert (lost, failed, doubled, is_told) == (0, 0, 0, True), search.said
    assert len(finished(out)) == 12
    assert "Traceback" not in search.said
    assert "the process that hands out the trials was lost: it goes on" in search.said
