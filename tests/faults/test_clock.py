"""A clock that is set while a search runs: durations are measured by one that never goes back."""

import os

import pytest

from tests.faults.searches import finished, trials_of

pytestmark = [pytest.mark.timeout(300), pytest.mark.faults]

# Every process of the search reads this at its start, Ray's and MLflow's among them.
JUMPING = """\
import time

_real, _begin = time.time, time.monotonic()


def _jumping():
    number = int((time.monotonic() - _begin) / 3)
    return _real() + (0, 86400, -86400, 3600)[number % 4]


time.time = _jumping
time.time_ns = lambda: int(_jumping() * 1e9)
"""


def test_a_search_does_not_notice_that_the_clock_jumps(start, project, record_fault):
    folder = project / "jumping"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(JUMPING)
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    search = start(
        "--out", "out", "--trials", 6, "--set", "training.epochs=60",
        "--set", "search.max_minutes=4", PYTHONPATH=path,
    )  # fmt: skip
    code = search.wait()
    table = trials_of(project / "out")
    lost = 6 - len(finished(project / "out"))
    record_fault("clock set by an hour or a day", injected=6, lost=lost)
    assert code == 0, search.said
    assert (lost, "Traceback" in search.said) == (0, False), search.said
    assert (table.state == "complete").all()
    assert table.seconds.between(0, 120).all()
