"""The picture of every trial as a line through its choices, to its parameters and accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize

from vpetl_ray.results.figure_parts import name_panels, new_figure, save_figure
from vpetl_ray.results.front import front_of
from vpetl_ray.results.parallel_axes import ParallelAxis, parallel_axes
from vpetl_ray.results.records import TrialRecord

_FEW = 60
"""Trials whose lines can be told apart; of more, each is paler."""
_SHADES = "cividis_r"
"""Dark is accurate: on white paper the light end is hard to see."""
_MAX_TICK = 14
"""Characters of a tick."""


def plot_parallel(records: Sequence[TrialRecord], path: Path | str, *, title: str) -> None:
    """Draw every trial as a line, the accurate ones on top and dark, the front thick.

    Args:
        records: complete, two or more.
        path: ``.png``, ``.svg`` or ``.pdf``; its folder exists.
        title: of the figure.

    Raises:
        SearchError: the file cannot be written.
    """
    scales = parallel_axes(records)
    figure = new_figure(max(8.4, 1.1 * len(scales)), 5.0)
    axes = figure.add_subplot()
    _draw_lines(axes, records, scales)
    for place, scale in enumerate(scales):
        _draw_scale(axes, place, scale)
    axes.set_xlim(-0.15, len(scales) - 0.6)
    axes.set_ylim(-0.04, 1.04)
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.xaxis.tick_top()
    labels = [scale.label.replace(".", "\n").replace("_", " ") for scale in scales]
    axes.set_xticks(range(len(scales)), labels, fontsize=8.5)
    low, high = scales[-1].low, scales[-1].high
    shades = ScalarMappable(norm=Normalize(low, high), cmap=_SHADES)
    figure.colorbar(shades, ax=axes, label="top-1 on validation (%)", shrink=0.9, pad=0.03)
    name_panels(figure, title, "Thick: the front. A dash: the config does not have this choice.")
    save_figure(figure, path)


def _draw_lines(axes: Axes, records: Sequence[TrialRecord], scales: Sequence[ParallelAxis]) -> None:
    heights_AN = np.array([_heights(scale, scale.values) for scale in scales])
    order = sorted(range(len(records)), key=lambda i: records[i].top1 or 0.0)
    on_front = {record.id for record in front_of(records, costs=())}
    segments = [np.column_stack([np.arange(len(scales)), heights_AN[:, i]]) for i in order]
    thick = [records[i].id in on_front for i in order]
    pale = min(0.75, max(0.08, 0.75 * _FEW / len(records)))
    lines = LineCollection(
        segments,
        array=np.array([records[i].top1 or 0.0 for i in order]),
        cmap=_SHADES,
        norm=Normalize(scales[-1].low, scales[-1].high),
        linewidths=[2.4 if is_front else 0.9 for is_front in thick],
        alpha=np.array([1.0 if is_front else pale for is_front in thick]),
        zorder=2,
    )
    axes.add_collection(lines)


def _heights(scale: ParallelAxis, values: Sequence[float]) -> list[float]:
    return [(value - scale.low) / (scale.high - scale.low) for value in values]


def _draw_scale(axes: Axes, place: int, scale: ParallelAxis) -> None:
    axes.axvline(place, color="0.35", linewidth=0.9, zorder=3)
    heights = _heights(scale, [at for at, _ in scale.ticks])
    for height, (_, text) in zip(heights, scale.ticks, strict=True):
        axes.annotate(
            text if len(text) <= _MAX_TICK else f"{text[: _MAX_TICK - 1]}…",
            (place, height),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=7.5,
            color="0.1",
            bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 0.8},
            zorder=4,
        )
