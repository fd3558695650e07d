"""Faults that are really injected. `make faults` runs them all and prints what was counted.

A test calls `record_fault` once it has counted, before it asserts, so that the table shows what
happened and not what should have. What only the whole matrix runs is marked `faults`: the same
fault more often, or one that takes long.
"""

import contextlib
import os
import signal
from pathlib import Path

import pytest

from tests.doors.conftest import cache, videos
from tests.faults.matrix import FaultMatrix, FaultRow
from tests.faults.searches import SPEC, SearchProcess

__all__ = ["cache", "videos"]

_MATRIX = FaultMatrix()


@pytest.fixture
def record_fault():
    """Add to the table: `record_fault(fault, injected=, lost=, doubled=, seconds=[...])`."""

    def record(fault, *, injected=1, lost=0, doubled=0, seconds=()):
        row = FaultRow(fault, injected, lost, doubled, [float(s) for s in seconds])
        _MATRIX.add(row)

    return record


def pytest_terminal_summary(terminalreporter):
    if len(_MATRIX):
        width = max(80, terminalreporter._tw.fullwidth)
        terminalreporter.write(f"\n{_MATRIX.render(width)}")
    if folder := os.environ.get("VPETL_FAULTS"):
        _MATRIX.keep(Path(folder))


@pytest.fixture
def project(tmp_path, videos):
    """A folder with `faulty.yaml` in it."""
    (tmp_path / "faulty.yaml").write_text(SPEC.replace("path: videos", f"path: {videos}"))
    return tmp_path


@pytest.fixture
def start(project, cache):
    """Start a search there; whatever is left of it at the end of the test is killed."""
    started = []

    def search(*words, spec="faulty.yaml", **env):
        process = SearchProcess(spec, *words, cwd=project, cache=cache, **env)
        started.append(process)
        return process

    yield search
    for process in started:
        for pid in process.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.process.wait(10)
