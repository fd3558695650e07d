"""The picture of further objectives: accuracy against each of them, side by side."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from vpetl_ray.results.atomic import replacing
from vpetl_ray.results.front import front_of
from vpetl_ray.results.labels import cost_label
from vpetl_ray.results.records import TrialRecord, TrialState

_FRONT = "#08306b"
_COLUMNS = 3
_PANEL = (3.9, 3.2)  # inches
_ROOM = 0.06  # at both ends of an axis, as a share of its decades
_LEAST_ROOM = 1.002  # as a ratio


def plot_objectives(
    records: Sequence[TrialRecord], costs: Sequence[str], path: Path | str, *, title: str
) -> None:
    """Draw complete trials, the front of all objectives dark, in one panel a cost, atomically.

    A line joins what is best in accuracy and that one cost alone.

    Args:
        records: any number, none included.
        costs: names from `results.objectives`, one at least.
        path: ``.png``, ``.svg`` or ``.pdf``; its folder exists.
        title: of the figure.

    Raises:
        SearchError: the file cannot be written.
    """
    columns = min(len(costs), _COLUMNS)
    rows = -(-len(costs) // columns)
    figure = Figure(
        figsize=(_PANEL[0] * columns, _PANEL[1] * rows + 0.6), dpi=150, layout="constrained"
    )
    FigureCanvasAgg(figure)
    complete = [r for r in records if r.state is TrialState.COMPLETE and r.top1 is not None]
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True).flatten()
    for axes, cost in zip(panels, costs, strict=False):
        _draw_panel(axes, complete, cost)
    for axes in panels[len(costs) :]:
        axes.set_visible(False)
    for axes in panels[::columns]:
        axes.set_ylabel("top-1 on validation (%)")
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    handles, labels = panels[0].get_legend_handles_labels()
    if labels:
        figure.legend(
            handles, labels, loc="outside lower center", ncols=3, fontsize=8, frameon=False
        )
    with replacing(Path(path)) as temporary:
        figure.savefig(temporary)


def _draw_panel(axes: Axes, complete: Sequence[TrialRecord], cost: str) -> None:
    axes.set_xscale("log")
    axes.set_xlabel(f"{cost} (log scale)")
    axes.grid(visible=True, color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    known = [record for record in complete if cost in record.costs]
    if not known:
        return
    front = front_of(complete)
    on_front = {record.id for record in front}
    beaten = [record for record in known if record.id not in on_front]
    axes.scatter(*_points(beaten, cost), color="0.6", s=18, label="beaten", zorder=2)
    line = sorted(zip(*_points(_best(known, cost), cost), strict=True))
    axes.step(*zip(*line, strict=True), where="post", color="0.4", linewidth=1.0, zorder=1)
    axes.scatter(
        *_points(front, cost),
        color=_FRONT,
        edgecolors="white",
        linewidths=0.8,
        s=44,
        label="front of all objectives",
        zorder=3,
    )
    values = [record.costs[cost] for record in known]
    room = max((max(values) / min(values)) ** _ROOM, _LEAST_ROOM)
    axes.set_xlim(min(values) / room, max(values) * room)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: cost_label(cost, value)))
    axes.xaxis.set_minor_locator(NullLocator())


def _best(known: Sequence[TrialRecord], cost: str) -> list[TrialRecord]:
    """Those that none beats in accuracy and this cost."""
    return [
        record
        for record in known
        if not any(
            other.costs[cost] <= record.costs[cost]
            and (other.top1 or 0.0) >= (record.top1 or 0.0)
            and (other.costs[cost], other.top1) != (record.costs[cost], record.top1)
            for other in known
        )
    ]


def _points(records: Sequence[TrialRecord], cost: str) -> tuple[list[float], list[float]]:
    return [r.costs[cost] for r in records], [r.top1 or 0.0 for r in records]
