"""Faults that are really injected. `make faults` runs them all and prints what was counted.

A test calls `record_fault` once it has counted, before it asserts, so that the table shows what
happened and not what should have. What only the whole matrix runs is marked `faults`: the same
fault more often, or one that takes long.
"""

import pytest

from tests.faults.matrix import FaultMatrix, FaultRow

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
