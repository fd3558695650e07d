"""Plotly figures as plain values: what every chart of a page has in common.

Told apart by shape and darkness as well as by colour: grey print, projectors and colour-blind eyes
lose nothing.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vpetl_ray.results.figure_parts import DARK, MIDDLE, WARM
from vpetl_ray.results.front import front_of
from vpetl_ray.results.labels import config_label, count_label
from vpetl_ray.results.records import TrialRecord, TrialState

GREY = "#8c8c8c"
SCALE = "Cividis"
"""Equally dark steps for all eyes, and in grey."""
_GRID = "#e6e6e6"
__all__ = ["DARK", "GREY", "MIDDLE", "SCALE", "WARM", "Chart", "hover", "layout", "params_axis"]


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One figure of a page, or why there is none."""

    title: str
    note: str
    """A sentence below the title."""
    data: Sequence[dict[str, Any]] = ()
    layout: dict[str, Any] | None = None


def layout(
    x: dict[str, Any], y: dict[str, Any], *, height: int = 460, **more: Any
) -> dict[str, Any]:
    """Lay out a chart with two axes."""
    line = {"gridcolor": _GRID, "zeroline": False, "linecolor": "#444", "ticks": "outside"}
    return {
        "height": height,
        "margin": {"l": 70, "r": 20, "t": 20, "b": 60},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "font": {"family": "system-ui, sans-serif", "size": 14, "color": "#222"},
        "legend": {"orientation": "h", "y": -0.2},
        "hoverlabel": {"bgcolor": "white", "align": "left", "font": {"size": 13}},
        "xaxis": {**line, **x},
        "yaxis": {**line, **y},
        **more,
    }


def params_axis() -> dict[str, Any]:
    """Count parameters on a logarithmic axis: 500, 1k, 2k."""
    marks = [step * 10**decade for decade in range(11) for step in (1, 2, 5)]
    return {
        "type": "log",
        "title": {"text": "trainable parameters (log scale)"},
        # Plotly's own ticks between the decades are bare digits.
        "tickvals": marks,
        "ticktext": [count_label(mark) for mark in marks],
    }


def hover(record: TrialRecord) -> str:
    """Say all about a trial, in the little HTML that plotly knows."""
    name = config_label(record.config)
    lines = [
        f"<b>{record.id}</b> {html.escape(record.name or name)}",
        f"{record.trainable_params:,} parameters ({count_label(record.trainable_params)})",
    ]
    if record.top1 is not None:
        lines.append(f"top-1 {record.top1:.1f}% on validation")
    if record.test_top1 is not None:
        lines.append(f"top-1 {record.test_top1:.1f}% on test")
    lines.append(f"{record.state.value}, {record.epochs} epochs, {record.seconds:.1f} s")
    if record.reason:
        lines.append(html.escape(record.reason[:120]))
    lines += [
        f"{path.removeprefix('petl.')}: {html.escape(str(value))}"
        for path, value in record.config.items()
        if value is not None and path.startswith("petl.") and not path.endswith(".enabled")
    ]
    rate = record.config.get("training.learning_rate")
    if isinstance(rate, float):
        lines.append(f"learning rate: {rate:.2g}")
    return "<br>".join(lines)


def complete(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Those with a final accuracy."""
    return [r for r in records if r.state is TrialState.COMPLETE and r.top1 is not None]


def steps(front: Sequence[TrialRecord], right: float) -> tuple[list[float], list[float]]:
    """Draw the best accuracy that each number of parameters buys, as steps."""
    xs: list[float] = []
    ys: list[float] = []
    for record in front_of(front, costs=()):
        if ys:
            xs.append(max(record.trainable_params, 1))
            ys.append(ys[-1])
        xs.append(max(record.trainable_params, 1))
        ys.append(record.top1 or 0.0)
    if xs:
        xs.append(max(right, xs[-1]))
        ys.append(ys[-1])
    return xs, ys
