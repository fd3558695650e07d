"""What was injected and what came of it, row by row, and the table that `make faults` prints."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
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

    def keep(self, folder: Path) -> None:
        """Keep it: rows, the table as it is printed, and its figures as a benchmark has them.

        Rows of an earlier run stay, but for the faults that were injected anew: the matrix may be
        run a file at a time.
        """
        path = folder / "results" / "rows.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        before = json.loads(path.read_text()) if path.exists() else []
        rows = {row["fault"]: FaultRow(**row) for row in before} | self._rows
        path.write_text(json.dumps([asdict(row) for row in rows.values()], indent=1) + "\n")
        whole = FaultMatrix()
        whole._rows = rows
        (folder / "results" / "table.txt").write_text(whole.render(80))
        write_summary(folder, self._figures(), keep_others=True)

    def _figures(self) -> list[Figure]:
        figures = []
        for row in self._rows.values():
            for what, count in (("lost", row.lost), ("doubled", row.doubled)):
                name = f"{row.fault}: trials {what}"
                figures.append(Figure(figure=name, value=count, floor=0, better="lower"))
            if row.seconds:
                name = f"{row.fault}: seconds to recover"
                figures.append(Figure(figure=name, value=median(row.seconds), unit="s"))
        return figures

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
