"""The picture of a search: accuracy against trainable parameters."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from vpetl_ray.results.figure_parts import DARK as _FRONT
from vpetl_ray.results.figure_parts import WARM as _BUDGET
from vpetl_ray.results.figure_parts import draw_titles, new_figure, quieten, save_figure
from vpetl_ray.results.front import front_of, knee
from vpetl_ray.results.label_layout import place_labels
from vpetl_ray.results.labels import count_label, trial_label
from vpetl_ray.results.paper_points import PaperPoint
from vpetl_ray.results.records import TrialRecord, TrialState

_MAX_LABELS = 7
_MIN_RANGE = 20.0  # of parameters on the axis, as a ratio, however few the trials
_MIN_SPAN = 10.0  # of accuracy on the axis, in points
_LOOKS: dict[TrialState, tuple[str, float, dict[str, Any]]] = {
    TrialState.COMPLETE: ("complete, beaten", 26, {"marker": "o", "color": "0.55"}),
    TrialState.STOPPED: (
        "stopped early",
        22,
        {"marker": "v", "facecolors": "none", "edgecolors": "0.6"},
    ),
    TrialState.INFEASIBLE: ("infeasible", 40, {"marker": "|", "color": "0.45"}),
    TrialState.FAILED: ("failed", 22, {"marker": "x", "color": "0.1"}),
}
"""What the legend says, area in square points, marker."""
_PAPER_NAMED = ("Swin-BAPAT 128", "full tuning", "linear probe", "prefix 128")
"""Of the paper's points, those with room for a name; the first has it above."""
_RUG_HEIGHT = 0.025  # in axes units, where trials without an accuracy stand


def plot_front(
    records: Sequence[TrialRecord],
    path: Path | str,
    *,
    title: str,
    budget: int | None = None,
    subtitle: str = "",
    paper: Sequence[PaperPoint] = (),
) -> None:
    """Draw all trials and their front, atomically; the format follows the path's suffix.

    Shown are complete and stopped trials at their validation accuracy, the front as steps (the
    best accuracy that each number of parameters buys) with its configs named, its accuracy on
    the test split where it was measured, and at the foot what has no accuracy: infeasible and
    failed trials at their parameter counts.

    Args:
        records: any number, none included.
        path: ``.png``, ``.svg`` or ``.pdf``; its folder exists.
        title: of the figure.
        budget: limit on trainable parameters, drawn as a line.
        subtitle: one line below the title, e.g. data set and backbone.
        paper: what the paper reports for the same setting.

    Raises:
        SearchError: the file cannot be written.
    """
    figure = new_figure(8.4, 5.2)
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    axes = figure.add_subplot()
    front = front_of(records, costs=())
    _draw_axes(axes, records, budget, paper)
    others = [record for record in front_of(records) if record not in front]
    _draw_trials(axes, records, [*front, *others])
    _draw_others(axes, others)
    if budget:
        _draw_budget(axes, budget)
    if paper:
        _draw_paper(axes, paper)
    if front:
        _draw_front(axes, front, budget)
    draw_titles(axes, title, subtitle)
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside lower center", ncols=6, fontsize=8, frameon=False)
    figure.canvas.draw()  # fixes the layout: labels are placed in pixels
    if front:
        _name_front(axes, canvas, records, front, budget)
    save_figure(figure, path)


def _draw_paper(axes: Axes, paper: Sequence[PaperPoint]) -> None:
    axes.scatter(
        [point.params for point in paper],
        [point.top1 for point in paper],
        label="the paper's own",
        marker="*",
        facecolors="white",
        edgecolors=_BUDGET,
        linewidths=1.0,
        s=70,
        zorder=3,
    )
    for point in paper:
        if point.label in _PAPER_NAMED:
            axes.annotate(
                point.label,
                (point.params, point.top1),
                xytext=(0, 7 if point.label == _PAPER_NAMED[0] else -12),
                textcoords="offset points",
                ha="center",
                fontsize=7,
                color=_BUDGET,
            )


def _draw_axes(
    axes: Axes, records: Sequence[TrialRecord], budget: int | None, paper: Sequence[PaperPoint]
) -> None:
    axes.set_xscale("log")
    axes.set_xlabel("trainable parameters (log scale)")
    axes.set_ylabel("top-1 accuracy on validation (%)")
    quieten(axes)
    counts = [*map(_count, records), *([budget] if budget else []), *(p.params for p in paper)]
    low, high = (min(counts), max(counts)) if counts else (1e3, 1e6)
    if high / low < _MIN_RANGE:
        low = high / _MIN_RANGE
    low, high = low / 1.6, high * 1.6
    axes.set_xlim(low, high)
    subs = (1.0, 2.0, 5.0) if high / low < 3000 else (1.0,)
    axes.xaxis.set_major_locator(LogLocator(base=10, subs=subs))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda count, _: count_label(count)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    accuracies = [record.top1 for record in records if record.top1 is not None]
    _limit_accuracy(axes, [*accuracies, *(point.top1 for point in paper)])
    if not records:
        axes.text(
            0.5, 0.5, "no trial has ended yet", transform=axes.transAxes, ha="center", color="0.4"
        )


def _limit_accuracy(axes: Axes, values: Sequence[float]) -> None:
    low, high = (min(values), max(values)) if values else (0.0, 100.0)
    room = high - low
    if room < _MIN_SPAN:
        middle = (low + high) / 2
        low, high, room = middle - _MIN_SPAN / 2, middle + _MIN_SPAN / 2, _MIN_SPAN
    # Below is room for the trials that have no accuracy, above for the names of the front.
    axes.set_ylim(max(low - 0.12 * room, -6.0), min(high + 0.22 * room, 106.0))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 2.5, 5, 10]))


def _draw_trials(axes: Axes, records: Sequence[TrialRecord], front: Sequence[TrialRecord]) -> None:
    on_front = {record.id for record in front}
    small = 0.5 if len(records) > 300 else 1.0
    for state, (meaning, area, look) in _LOOKS.items():
        shown = [r for r in records if r.state is state and r.id not in on_front]
        if state in {TrialState.COMPLETE, TrialState.STOPPED}:
            shown = [record for record in shown if record.top1 is not None]
            heights, transform = [record.top1 or 0.0 for record in shown], axes.transData
        else:
            heights, transform = [_RUG_HEIGHT] * len(shown), axes.get_xaxis_transform()
        if shown:
            axes.scatter(
                [_count(record) for record in shown],
                heights,
                transform=transform,
                label=f"{meaning} ({len(shown)})",
                s=area * small,
                linewidths=0.8,
                zorder=2,
                **look,
            )


def _draw_others(axes: Axes, others: Sequence[TrialRecord]) -> None:
    """What is on the front of all objectives by one that this picture does not show."""
    if others:
        axes.scatter(
            [_count(record) for record in others],
            [record.top1 or 0.0 for record in others],
            label=f"front by another objective ({len(others)})",
            facecolors="white",
            edgecolors=_FRONT,
            linewidths=1.2,
            s=40,
            zorder=3,
        )


def _draw_budget(axes: Axes, budget: int) -> None:
    axes.axvline(budget, color=_BUDGET, linestyle=(0, (5, 3)), linewidth=1.4, zorder=1)
    axes.annotate(
        f"budget {count_label(budget)}",
        (budget, 0.08),
        xycoords=("data", "axes fraction"),
        xytext=(4, 0),  # to the right, where nothing has an accuracy
        textcoords="offset points",
        rotation=90,
        ha="left",
        va="bottom",
        fontsize=8,
        color=_BUDGET,
    )


def _draw_front(axes: Axes, front: Sequence[TrialRecord], budget: int | None) -> None:
    corners = _steps(front, axes.get_xlim()[1], budget)
    axes.plot(*zip(*corners, strict=True), color=_FRONT, linewidth=1.6, zorder=3)
    axes.scatter(
        [_count(record) for record in front],
        [record.top1 or 0.0 for record in front],
        label=f"front ({len(front)})",
        color=_FRONT,
        edgecolors="white",
        linewidths=0.9,
        s=58,
        zorder=4,
    )
    tested = [record for record in front if record.test_top1 is not None]
    if tested:
        axes.scatter(
            [_count(record) for record in tested],
            [record.test_top1 or 0.0 for record in tested],
            label="front on the test split",
            marker="D",
            facecolors="white",
            edgecolors=_FRONT,
            linewidths=1.1,
            s=24,
            zorder=4,
        )


def _steps(
    front: Sequence[TrialRecord], right_edge: float, budget: int | None
) -> list[tuple[float, float]]:
    corners: list[tuple[float, float]] = []
    for record in front:
        count, top1 = _count(record), record.top1 or 0.0
        if corners:
            corners.append((count, corners[-1][1]))
        corners.append((count, top1))
    last_count, last_top1 = corners[-1]
    corners.append((max(last_count, budget or right_edge), last_top1))
    return corners


def _name_front(
    axes: Axes,
    canvas: FigureCanvasAgg,
    records: Sequence[TrialRecord],
    front: Sequence[TrialRecord],
    budget: int | None,
) -> None:
    points = [(float(_count(record)), record.top1 or 0.0) for record in front]
    bend = knee([point[0] for point in points], [point[1] for point in points])
    order = _most_telling(len(front), bend)
    texts = []
    for index in order:
        mark = "knee: " if index == bend and 0 < bend < len(front) - 1 else ""
        record = front[index]
        label = f"{mark}{trial_label(record, brief=True)}"
        texts.append(f"{label}\n{count_label(record.trainable_params)}, {record.top1:.1f}%")
    lines = [_steps(front, axes.get_xlim()[1], budget)]
    if budget:
        lines.append([(budget, limit) for limit in axes.get_ylim()])
    lines += [
        [(_count(record), value)]
        for record in records
        for value in (record.top1, record.test_top1)
        if value is not None
    ]
    place_labels(
        axes,
        canvas,
        [points[index] for index in order],
        texts,
        keep_clear=lines,
    )


def _most_telling(count: int, bend: int) -> list[int]:
    """Both ends, the knee, then an even spread between: most important first."""
    spread = [round(i * (count - 1) / (_MAX_LABELS - 1)) for i in range(_MAX_LABELS)]
    return list(dict.fromkeys([0, count - 1, bend, *spread]))[:_MAX_LABELS]


def _count(record: TrialRecord) -> int:
    return max(record.trainable_params, 1)  # the axis is logarithmic
