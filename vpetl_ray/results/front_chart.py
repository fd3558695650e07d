"""The front as an interactive chart: trials with their configs, the budget, the paper's points."""

from __future__ import annotations

from collections.abc import Sequence
from math import log10
from typing import Any

from vpetl_ray.results.front import front_of
from vpetl_ray.results.labels import count_label
from vpetl_ray.results.page_parts import (
    DARK,
    GREY,
    WARM,
    Chart,
    complete,
    hover,
    layout,
    params_axis,
    steps,
)
from vpetl_ray.results.paper_points import PaperPoint
from vpetl_ray.results.records import TrialRecord, TrialState

_MARKS: dict[str, dict[str, Any]] = {
    "complete, beaten": {"symbol": "circle", "color": GREY, "size": 8, "opacity": 0.75},
    "stopped early": {"symbol": "triangle-down-open", "color": GREY, "size": 9},
    "infeasible or failed": {"symbol": "line-ns-open", "color": GREY, "size": 9},
    "the paper's": {"symbol": "star-open", "color": WARM, "size": 12, "line": {"width": 2}},
}


def front_chart(
    records: Sequence[TrialRecord],
    *,
    budget: int | None,
    paper: Sequence[PaperPoint] = (),
) -> Chart:
    """Draw accuracy against trainable parameters.

    Args:
        records: all trials.
        budget: limit on trainable parameters.
        paper: reference points.
    """
    front = front_of(records, costs=())
    on_front = {record.id for record in front}
    beaten = [r for r in complete(records) if r.id not in on_front]
    stopped = [r for r in records if r.state is TrialState.STOPPED and r.top1 is not None]
    others = [r for r in records if r.state in {TrialState.INFEASIBLE, TrialState.FAILED}]
    floor = min([r.top1 or 0.0 for r in (*beaten, *stopped, *front)], default=0.0) - 3
    data = [
        _points("complete, beaten", beaten),
        _points("stopped early", stopped),
        _points("infeasible or failed", others, height=floor),
        *_front(front, budget or max([r.trainable_params for r in records], default=1)),
    ]
    if paper:
        data.append(_paper(paper))
    told = f" The dashed line is the budget of {budget:,} parameters." if budget else ""
    return Chart(
        title="Accuracy against trainable parameters",
        note="Each point is a trial; point at it for its config. No trial beats one of the front "
        f"in both.{told}" + (" Stars are the paper's own figures." if paper else ""),
        data=[trace for trace in data if trace["x"]],
        layout=layout(
            params_axis(),
            {"title": {"text": "top-1 accuracy on validation (%)"}},
            height=520,
            **_budget(budget),
        ),
    )


def _points(
    name: str, records: Sequence[TrialRecord], *, height: float | None = None
) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": f"{name} ({len(records)})",
        "x": [max(record.trainable_params, 1) for record in records],
        "y": [record.top1 if height is None else height for record in records],
        "text": [hover(record) for record in records],
        "hovertemplate": "%{text}<extra></extra>",
        "marker": _MARKS[name],
    }


def _front(front: Sequence[TrialRecord], right: float) -> list[dict[str, Any]]:
    xs, ys = steps(front, right)
    tested = [record for record in front if record.test_top1 is not None]
    line = {
        "type": "scatter",
        "mode": "lines",
        "x": xs,
        "y": ys,
        "line": {"color": DARK, "width": 2},
        "showlegend": False,
        "hoverinfo": "skip",
    }
    common = {"type": "scatter", "mode": "markers", "hovertemplate": "%{text}<extra></extra>"}
    members = {
        **common,
        "name": f"front ({len(front)})",
        "x": [max(record.trainable_params, 1) for record in front],
        "y": [record.top1 for record in front],
        "text": [hover(record) for record in front],
        "marker": {"symbol": "circle", "color": DARK, "size": 12},
    }
    test = {
        **common,
        "name": "front on the test split",
        "x": [max(record.trainable_params, 1) for record in tested],
        "y": [record.test_top1 for record in tested],
        "text": [hover(record) for record in tested],
        "marker": {"symbol": "diamond-open", "color": DARK, "size": 9, "line": {"width": 2}},
    }
    return [line, members, test]


def _paper(points: Sequence[PaperPoint]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": f"the paper's ({len(points)})",
        "x": [point.params for point in points],
        "y": [point.top1 for point in points],
        "text": [point.label for point in points],
        "hovertemplate": "the paper: %{text}<br>%{x:.3s} parameters, %{y:.2f}%<extra></extra>",
        "marker": _MARKS["the paper's"],
    }


def _budget(budget: int | None) -> dict[str, Any]:
    if not budget:
        return {}
    line = {"color": WARM, "width": 2, "dash": "dash"}
    shape = {"type": "line", "x0": budget, "x1": budget, "yref": "paper", "y0": 0, "y1": 1}
    return {
        "shapes": [{**shape, "line": line}],
        "annotations": [
            {
                "xref": "x",
                "yref": "paper",
                "x": log10(budget),  # annotations stand on a logarithmic axis by exponent
                "y": 0.02,
                "text": f"budget {count_label(budget)}",
                "showarrow": False,
                "xanchor": "right",
                "font": {"color": WARM},
            }
        ],
    }
