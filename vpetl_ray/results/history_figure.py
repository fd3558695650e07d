"""The picture of a search's progress: hypervolume against epochs and against seconds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from vpetl_ray.results.figure_parts import (
    DARK,
    MIDDLE,
    name_panels,
    new_figure,
    quieten,
    save_figure,
)
from vpetl_ray.results.history import HistoryRow

_UNITS = ((2 * 86_400.0, 86_400.0, "days"), (7200.0, 3600.0, "hours"), (600.0, 60.0, "minutes"))
_NEARLY = 0.99
"""Of the last hypervolume: from then on little was gained."""


def plot_history(
    history: Sequence[HistoryRow], path: Path | str, *, title: str, subtitle: str = ""
) -> None:
    """Draw how the hypervolume grew, as steps, and where 99% of its last value was reached.

    Args:
        history: from `history.history_of`.
        path: ``.png``, ``.svg`` or ``.pdf``; its folder exists.
        title: of the figure.
        subtitle: small print at the foot.

    Raises:
        SearchError: the file cannot be written.
    """
    figure = new_figure(8.4, 3.9)
    left, right = figure.subplots(1, 2, sharey=True)
    _draw(left, history, [float(row.epochs) for row in history], "training epochs, all trials", "")
    if all(row.seconds is not None for row in history):
        seconds, what = [row.seconds or 0.0 for row in history], "since the search began"
    else:
        seconds, what = [row.training_seconds for row in history], "of training, all trials"
    scale, unit = _unit(max(seconds, default=0.0))
    _draw(right, history, [value / scale for value in seconds], f"{unit} {what}", unit)
    left.set_ylabel("hypervolume\n(top-1 % x decades of parameters)")
    left.set_ylim(0.0, 1.1 * max([row.hypervolume for row in history], default=0.0) or 1.0)
    name_panels(figure, title, subtitle)
    save_figure(figure, path)


def _unit(longest: float) -> tuple[float, str]:
    for least, scale, unit in _UNITS:
        if longest >= least:
            return scale, unit
    return 1.0, "seconds"


def _draw(
    axes: Axes, history: Sequence[HistoryRow], spent: Sequence[float], label: str, unit: str
) -> None:
    quieten(axes)
    axes.set_xlabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=not unit))
    axes.set_xlim(left=0.0)
    if not history:
        axes.text(0.5, 0.5, "no trial yet", transform=axes.transAxes, ha="center", color="0.4")
        return
    areas = [row.hypervolume for row in history]
    axes.step([0.0, *spent], [0.0, *areas], where="post", color=DARK, linewidth=1.6, zorder=3)
    axes.set_xlim(0.0, max(spent) * 1.02 or 1.0)
    if not areas[-1]:
        return
    nearly = next(x for x, area in zip(spent, areas, strict=True) if area >= _NEARLY * areas[-1])
    axes.axvline(nearly, color=MIDDLE, linestyle=(0, (4, 3)), linewidth=1.1, zorder=1)
    is_late = nearly > 0.55 * max(spent)
    axes.annotate(
        f"99% at {nearly:.3g} {unit or 'epochs'}",
        (nearly, 0.05),
        xycoords=("data", "axes fraction"),
        xytext=(-4 if is_late else 4, 0),
        textcoords="offset points",
        ha="right" if is_late else "left",
        fontsize=8,
        color="0.25",
    )
    axes.annotate(
        f"{areas[-1]:.1f}",
        (spent[-1], areas[-1]),
        xytext=(-2, 4),
        textcoords="offset points",
        ha="right",
        fontsize=8,
        color=DARK,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
    )
