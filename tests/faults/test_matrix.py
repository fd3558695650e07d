"""The table of faults itself."""

from tests.faults.matrix import FaultMatrix, FaultRow


def test_rows_of_one_fault_are_added_up():
    matrix = FaultMatrix()
    matrix.add(FaultRow("worker killed", 2, 0, 1, [1.0, 3.0]))
    matrix.add(FaultRow("disk full"))
    matrix.add(FaultRow("worker killed", 3, 1, 0, [2.0]))
    lines = [line.split() for line in matrix.render(80).splitlines()]
    assert ["worker", "killed", "5", "1", "1", "2.0", "3.0"] in lines
    assert ["disk", "full", "0", "0", "0", "-", "-"] in lines
