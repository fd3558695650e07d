"""Ctrl-C and SIGTERM: state saved, one line that says how to go on, no process left behind."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from tests.faults.searches import finished, trials_of

pytestmark = pytest.mark.timeout(400)

LONG = ("--trials", 40, "--set", "training.epochs=400")
GO_ON = "go on with: python -m vpetl_ray.search faulty.yaml --out out"


def last_line(search):
    return search.said.strip().splitlines()[-1]


def check_end(search, code, line):
    """How long it took to end as it should, from now on."""
    begin = time.monotonic()
    assert search.wait(60) == code, search.said
    search.wait_until_gone(20)
    seconds = time.monotonic() - begin
    assert line in last_line(search), search.said
    assert GO_ON in last_line(search)
    assert last_line(search).endswith("--resume")
    assert "Traceback" not in search.said
    return seconds


def begun(start, *words):
    search = start("--out", "out", *words)
    search.wait_for(r"t0000 complete")
    return search


def test_sigterm_in_a_trial_ends_with_143_and_says_how_to_go_on(start, project, record_fault):
    search = begun(start, *LONG)
    time.sleep(1)  # into the next trial
    search.strike(signal.SIGTERM)
    seconds = check_end(search, 143, "interrupted by SIGTERM after 1 trials;")
    table = trials_of(project / "out")
    record_fault("SIGTERM", lost=int("t0000" not in set(table.id)), seconds=[seconds])
    assert finished(project / "out") == ["t0000"]


@pytest.mark.faults
def test_ctrl_c_in_a_trial_ends_with_130(start, project, record_fault):
    search = begun(start, *LONG)
    search.press()
    seconds = check_end(search, 130, "interrupted after 1 trials;")
    lost = int("t0000" not in finished(project / "out"))
    record_fault("Ctrl-C once", lost=lost, seconds=[seconds])
    assert not lost


@pytest.mark.faults
def test_ctrl_c_twice_ends_at_once(start, project, record_fault):
    search = begun(start, *LONG)
    search.press()
    time.sleep(0.3)
    search.press()
    seconds = check_end(search, 130, "interrupted")
    again = start("--out", "out", "--trials", 2, "--set", "training.epochs=400", "--resume")
    assert again.wait() == 0, again.said
    lost = int("t0000" not in finished(project / "out"))
    record_fault("Ctrl-C twice", lost=lost, seconds=[seconds])
    assert not lost


@pytest.mark.faults
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl_c", "sigterm"])
@pytest.mark.parametrize("stage", ["preparing the clips", "starting Ray", "worker group"])
def test_a_signal_before_the_first_trial(start, record_fault, stage, number):
    search = start("--out", "out", *LONG)
    search.wait_for(stage)
    time.sleep(0.5)
    search.press(number) if number == signal.SIGINT else search.strike(number)
    seconds = check_end(search, 128 + number, "interrupted")
    record_fault("Ctrl-C or SIGTERM before the first trial", seconds=[seconds])


MOMENTS = 20
LONGEST_START = 12.0


@pytest.mark.faults
@pytest.mark.parametrize("moment", range(MOMENTS))
def test_sigterm_at_any_moment_of_the_start(start, record_fault, moment):
    """Most of it is inside Ray, Optuna and MLflow, which may drop what is raised there."""
    search = start("--out", "out", *LONG)
    search.wait_for("starting Ray")
    time.sleep(random.Random(moment).uniform(0.0, LONGEST_START))
    search.strike(signal.SIGTERM)
    seconds = check_end(search, 143, "interrupted by SIGTERM")
    record_fault("SIGTERM at a random moment of the start", seconds=[seconds])


STRUCK_AT_THE_WORST_MOMENT = """\
import os, signal, sys
from vpetl_ray.exits import run_door
from vpetl_ray.search import search
from vpetl_ray.tuning import worker_group

worker_group.END_SECONDS = SECONDS_TO_END
WorkerGroups = worker_group.WorkerGroups
add = WorkerGroups.add

def add_and_be_struck(groups, number):
    add(groups, number)
    os.kill(os.getpid(), signal.SIGTERM)

WorkerGroups.add = add_and_be_struck
run_door(search)
"""


@pytest.mark.parametrize(
    ("fault", "end"),
    [
        ("SIGTERM as a group starts", 35),
        pytest.param("and it does not end in time", 0.5, marks=pytest.mark.faults),
    ],
)
def test_sigterm_between_the_start_of_a_group_and_the_next_line(
    start, project, record_fault, fault, end
):
    """Ray used to be left under the group's thread, which then started another one."""
    script = STRUCK_AT_THE_WORST_MOMENT.replace("SECONDS_TO_END", str(end))
    (project / "struck.py").write_text(script)
    search = start("--out", "out", *LONG, script="struck.py")
    search.wait_for("worker group")
    seconds = check_end(search, 143, "interrupted by SIGTERM;")
    record_fault(fault, seconds=[seconds])
    assert "ERROR" not in search.said


@pytest.mark.parametrize(
    ("fault", "seconds_to_end"),
    [
        ("SIGTERM to the group of processes", 15),
        # Ray is gone before the driver can leave it: that one is ended when its time is over.
        pytest.param("SIGTERM to every process", 35, marks=pytest.mark.faults),
    ],
)
def test_sigterm_to_more_than_the_driver(start, project, record_fault, fault, seconds_to_end):
    """As `timeout` sends it, and as Slurm or systemd do."""
    search = begun(start, *LONG)
    time.sleep(1)
    if "every" in fault:
        for pid in search.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
    else:
        search.press(signal.SIGTERM)
    seconds = check_end(search, 143, "interrupted by SIGTERM")
    lost = int("t0000" not in finished(project / "out"))
    record_fault(fault, lost=lost, seconds=[seconds])
    assert not lost
    assert seconds < seconds_to_end


EARLY = """\
import os, signal
import vpetl_ray.search as door
from vpetl_ray.exits import run_door

load = door.load_spec

def struck(*args):
    os.kill(os.getpid(), signal.SIGTERM)
    return load(*args)

door.load_spec = struck
run_door(door.search)
"""


def test_sigterm_while_the_spec_is_read_is_one_line(start, project):
    (project / "early.py").write_text(EARLY)
    search = start("--out", "out", script="early.py")
    assert search.wait(60) == 143
    assert search.said.strip() == "interrupted by SIGTERM"
    assert not (project / "out").exists()


UNWINDS = """\
import logging, os, signal, sys, threading, time, weakref
from vpetl_ray.stop_signals import exit_code, signals_unwind

def strike():
    os.kill(os.getpid(), signal.{number})
    for _ in range(10_000):
        pass

class Finalized:
    def __del__(self):
        strike()

class Watched:
    pass

class Struck(logging.Filter):
    def filter(self, record):
        logging._lock.acquire()
        strike()
        logging._lock.release()
        return True

def in_a_finalizer():
    Finalized()

def in_a_callback():
    watched = Watched()
    watcher = weakref.ref(watched, lambda _: strike())
    del watched

def below_a_bare_except():
    try:
        strike()
    except:
        pass

def in_logging():
    logging.getLogger().addFilter(Struck())
    logging.error("x")

def while_it_ends():
    try:
        strike()
    finally:
        time.sleep(3)
        print("ended in order")

try:
    with signals_unwind():
        {where}()
        time.sleep(60)
except KeyboardInterrupt:
    other = threading.Thread(target=logging.getLogger, args=("new",), daemon=True)
    other.start()
    other.join(5)
    raise SystemExit("the lock of logging is lost" if other.is_alive() else exit_code())
"""


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
@pytest.mark.parametrize(
    "where",
    ["in_a_finalizer", "in_a_callback", "below_a_bare_except", "in_logging", "while_it_ends"],
)
def test_a_signal_is_neither_lost_nor_leaves_a_lock_nor_comes_twice(where, number):
    script = UNWINDS.format(where=where, number=number)
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, check=False, timeout=40, capture_output=True, text=True)
    assert done.returncode == {"SIGTERM": 143, "SIGINT": 130}[number], done.stderr
    assert done.stderr == ("ERROR:root:x\n" if where == "in_logging" else "")
    assert done.stdout == ("ended in order\n" if where == "while_it_ends" else "")
