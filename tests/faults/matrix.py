"""What was injected and what came of it, row by row, and the table that `make faults` prints."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.report import Figure, write_summary


@dataclass
class FaultRow:
    """Counts of one fault; rows of the same fault are added up."""

    fault: str
    injected: int = 0
    lost: int = 0
    """Trials that were finished, or would have been, and are not in the records."""
    doubled: int = 0
    """Trials that are in the records, or at the tracking server, more than once."""
    seconds: list[float] = field(default_factory=list)
    """Of each injection: until work went on, or the process had ended as it should."""

    def add(self, other: "FaultRow") -> None:
        self.injected += other.injected
        self.lost += other.lost
        self.doubled += other.doubled
        self.seconds += other.seconds


class FaultMatrix:
    """Rows in the order in which they came."""

    def __init__(self) -> None:
        self._rows: dict[str, FaultRow] = {}

    def add(self, row: FaultRow) -> None:
        self._rows.setdefault(row.fault, FaultRow(row.fault)).add(row)

    def __len__(self) -> int:
        return len(self._rows)

    def write(self, folder: Path) -> None:
        """Keep it: the table as it is printed, and its figures as a benchmark has them."""
        figures = []
        for row in self._rows.values():
            for what, count in (("lost", row.lost), ("doubled", row.doubled)):
                name = f"{row.fault}, {row.injected} times: trials {what}"
                figures.append(Figure(figure=name, value=count, floor=0, better="lower"))
            if row.seconds:
                name = f"{row.fault}: seconds to recover"
                figures.append(Figure(figure=name, value=median(row.seconds), unit="s"))
        write_summary(folder, figures)
        (folder / "results" / "table.txt").write_text(self.render(80))

    def render(self, width: int) -> str:
        table = Table(box=box.SIMPLE_HEAD, title="Faults", title_justify="left")
        table.add_column("fault")
        for name in ("times\ninjected", "trials\nlost", "trials\ndoubled"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("seconds to\nrecover", justify="right", no_wrap=True)
        table.add_column("the\nlongest", justify="right", no_wrap=True)
        for row in self._rows.values():
            counts = (str(n) for n in (row.injected, row.lost, row.doubled))
            table.add_row(row.fault, *counts, *_seconds(row.seconds))
        console = Console(width=width, color_system=None)
        with console.capture() as captured:
            console.print(table)
        return captured.get()


def _seconds(seconds: Sequence[float]) -> tuple[str, str]:
    """The usual and the longest."""
    return (f"{median(seconds):.1f}", f"{max(seconds):.1f}") if seconds else ("-", "-")
