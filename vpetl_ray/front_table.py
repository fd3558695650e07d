"""Trials as tables in a terminal, that lose no digit where it is narrow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from vpetl_ray.results.front import ppt
from vpetl_ray.results.labels import cost_label, trial_label
from vpetl_ray.results.objectives import COSTS
from vpetl_ray.results.records import TrialRecord, TrialState
from vpetl_ray.stage_display import percent_label

_GAP = 2
"""Between columns."""
_WIDEST_CONFIG, _NARROWEST_CONFIG = 36, 20


@dataclass(frozen=True, kw_only=True)
class _Column:
    """Numbers."""

    header: str
    cells: Sequence[str]

    @property
    def width(self) -> int:
        return max(map(len, (self.header, *self.cells))) + _GAP


def front_table(
    front: Sequence[TrialRecord],
    *,
    title: str | None = None,
    bend: str | None = None,
    width: int | None = None,
    is_calm: bool = False,
) -> Table:
    """The front, cheapest first: trial, config, parameters, accuracies, other objectives, PPT.

    Where not all fits, seconds, PPT and then further objectives are left out from the right, and
    the caption says so; no number is cut.

    Args:
        front: from `front_of`.
        title: above the table.
        bend: id of the member to mark as the knee.
        width: of the terminal; None for no limit.
        is_calm: give each member one line, a long config cut.
    """
    ids = [record.id + (" knee" if record.id == bend else "") for record in front]
    first = _Column(header="trial", cells=ids)
    columns, config_width = _columns(front), _WIDEST_CONFIG
    hidden: list[str] = []
    if width is not None:
        room = width - first.width
        columns, hidden = _fitting(columns, room - _NARROWEST_CONFIG)
        config_width = min(config_width, room - sum(column.width for column in columns))
    caption = f"not shown: {', '.join(hidden)}; front.json has all" if hidden else None
    table = Table(
        title=title,
        caption=caption,
        title_justify="left",
        caption_justify="left",
        box=None,
        pad_edge=False,
        header_style="bold",
    )
    table.add_column("trial", no_wrap=True, min_width=first.width - _GAP)
    table.add_column(
        "config",
        overflow="ellipsis" if is_calm else "fold",
        no_wrap=is_calm,
        max_width=max(config_width, _NARROWEST_CONFIG),
    )
    for column in columns:
        wide = column.width - _GAP
        table.add_column(column.header, justify="right", no_wrap=True, min_width=wide)
    for i, record in enumerate(front):
        table.add_row(ids[i], Text(trial_label(record)), *(column.cells[i] for column in columns))
    return table


def _columns(front: Sequence[TrialRecord]) -> list[_Column]:
    columns = [
        _Column(header="parameters", cells=[f"{record.trainable_params:,}" for record in front]),
        _Column(header="top-1 %", cells=[percent_label(record.top1) for record in front]),
    ]
    if any(record.test_top1 is not None for record in front):
        tested = [percent_label(record.test_top1) for record in front]
        columns.append(_Column(header="test %", cells=tested))
    for name in front[0].costs if front else ():
        cells = [cost_label(name, record.costs.get(name)) for record in front]
        columns.append(_Column(header=COSTS[name].header, cells=cells))
    trade = [f"{ppt(record.top1 or 0.0, record.trainable_params):.1f}" for record in front]
    columns.append(_Column(header="PPT", cells=trade))
    columns.append(_Column(header="seconds", cells=[f"{record.seconds:.1f}" for record in front]))
    return columns


def _fitting(columns: list[_Column], room: int) -> tuple[list[_Column], list[str]]:
    """Leave out from the right, but never parameters and accuracy; seconds is not missed."""
    shown, hidden = list(columns), list[str]()
    while len(shown) > 2 and sum(c.width for c in shown) > room:
        hidden.insert(0, shown.pop().header)
    return shown, [name for name in hidden if name != "seconds"]


def list_table(records: Sequence[TrialRecord], *, title: str | None = None) -> Table:
    """Write the rows of a list, in its order: name, parameters, accuracies, further objectives."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    table.add_column("config", overflow="fold", max_width=44)
    for name in ("parameters", "top-1 %", "test %"):
        table.add_column(name, justify="right", no_wrap=True)
    costs = tuple(dict.fromkeys(name for record in records for name in record.costs))
    for name in costs:
        table.add_column(COSTS[name].header, justify="right", no_wrap=True)
    for record in records:
        cells = [f"{record.trainable_params:,}"]
        if record.state is TrialState.COMPLETE:
            cells += [percent_label(record.top1), percent_label(record.test_top1)]
        else:
            cells += [record.state.value, "-"]
        label = Text(trial_label(record))  # a start's name may look like markup
        table.add_row(label, *cells, *(cost_label(name, record.costs.get(name)) for name in costs))
    return table
