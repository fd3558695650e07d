"""What every benchmark writes: `results/summary.json`, one entry a figure, and a table of it."""

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One measured number. `floor` is what it has to reach, None where it is only reported.

    A figure that could not be taken (no GPU) has `value=None`: left empty, never guessed.
    """

    figure: str
    value: float | None
    unit: str = ""
    floor: float | None = None
    better: Literal["higher", "lower"] = "higher"

    @property
    def met(self) -> bool | None:
        """Whether the floor holds; None where there is no floor or no value."""
        if self.value is None or self.floor is None:
            return None
        is_met = self.value >= self.floor if self.better == "higher" else self.value <= self.floor
        return bool(is_met)  # a numpy bool is no JSON


def write_summary(
    folder: Path,
    figures: Sequence[Figure],
    *,
    device: str | None = None,
    commit: str | None = None,
    keep_others: bool = False,
) -> Path:
    """Writes `folder/results/summary.json`; returns its path.

    `commit` and `device` are found here unless given (a machine without the repository's history
    gets the commit handed in). With `keep_others`, entries of other figures stay as they are, and
    so do those of figures that were not taken now: parts may be taken on different machines.
    """
    device = device or describe_device()
    commit = commit or describe_commit(folder)
    entries = [
        {
            "figure": figure.figure,
            "value": None if figure.value is None else float(f"{figure.value:.5g}"),
            "floor": figure.floor,
            "met": figure.met,
            "unit": figure.unit,
            "device": device,
            "commit": commit,
        }
        for figure in figures
    ]
    path = folder / "results" / "summary.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    if keep_others and path.exists():
        entries = _beside_others(json.loads(path.read_text()), entries)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(entries, indent=2) + "\n")
    temporary.replace(path)
    return path


def _beside_others(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The new entries in their order, an old one in place of one without a value, then the rest."""
    before = {entry["figure"]: entry for entry in old}
    names = {entry["figure"] for entry in new}
    merged = [before.get(e["figure"], e) if e["value"] is None else e for e in new]
    return merged + [entry for entry in old if entry["figure"] not in names]


def print_figures(title: str, figures: Sequence[Figure]) -> None:
    """Prints the figures as a table, floors and whether they hold beside them."""
    table = Table(title=title)
    for column in ("figure", "value", "floor", "met"):
        table.add_column(column, justify="left" if column == "figure" else "right")
    for figure in figures:
        row = asdict(figure)
        value = "not taken" if figure.value is None else f"{figure.value:,.4g} {figure.unit}"
        floor = "" if figure.floor is None else f"{row['floor']:,.4g}"
        table.add_row(figure.figure, value, floor, {True: "yes", False: "NO"}.get(figure.met, ""))
    Console().print(table)


def describe_commit(folder: Path) -> str:
    """The commit of the working tree, with `-dirty` when tracked files differ from it."""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *words], check=True, capture_output=True, text=True
        ).stdout.strip()

    try:
        # A benchmark's own results are what it is about to write, so they do not make a tree dirty.
        own = ":(top,exclude)benchmarks/*/results/*"
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ":/", own)
        return git("rev-parse", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("VPETL_COMMIT", "unknown")


def describe_device() -> str:
    """Processor, cores this process may use, memory, and the GPU if there is one; no host name."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parts = [f"{_processor()}, {cores} cores"]
    if hasattr(os, "sysconf"):
        gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
        parts.append(f"{gigabytes:.0f} GB")
    try:
        import torch  # noqa: PLC0415  (a benchmark of the driver needs no torch)

        if torch.cuda.is_available():
            parts.append(torch.cuda.get_device_name())
    except ImportError:
        pass
    return ", ".join(parts)


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
