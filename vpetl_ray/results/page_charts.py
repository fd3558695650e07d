"""The other charts of a search's page: history, importance, positions, parallel coordinates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vpetl_ray.results.history import HistoryRow
from vpetl_ray.results.page_parts import (
    DARK,
    MIDDLE,
    SCALE,
    WARM,
    Chart,
    complete,
    layout,
)
from vpetl_ray.results.parallel_axes import ParallelAxis, parallel_axes
from vpetl_ray.results.records import TrialRecord

_LATER = "It comes when the search is over; `python -m vpetl_ray.report DIR` makes it at any time."
_OBJECTIVES = {
    "top1": ("accuracy", DARK, ""),
    "log10_params": ("parameters", MIDDLE, "/"),
    "hypervolume": ("hypervolume", WARM, "x"),
}


def history_chart(history: Sequence[HistoryRow]) -> Chart:
    """Draw the hypervolume over what was trained."""
    title = "How the front grew"
    if not history:
        return Chart(title=title, note="No trial has ended yet.")
    told = [
        f"{row.trial}: {row.hypervolume:.1f}<br>best {row.best_top1:.1f}%<br>"
        + (f"after {row.seconds:.0f} s" if row.seconds is not None else "")
        for row in history
    ]
    line = {
        "type": "scatter",
        "mode": "lines+markers",
        "x": [row.epochs for row in history],
        "y": [row.hypervolume for row in history],
        "text": told,
        "hovertemplate": "%{text}<extra></extra>",
        "line": {"shape": "hv", "color": DARK, "width": 2},
        "marker": {"size": 6, "color": DARK},
    }
    return Chart(
        title=title,
        note="The area that the front dominates, after each trial.",
        data=[line],
        layout=layout(
            {"title": {"text": "epochs trained by all trials"}},
            {"title": {"text": "hypervolume (% x decades of parameters)"}},
        ),
    )


def importance_chart(document: Mapping[str, Any] | None) -> Chart:
    """Draw what mattered, from importance.json."""
    title = "What mattered"
    if document is None:
        return Chart(title=title, note=_LATER)
    if document["missing_because"]:
        return Chart(title=title, note=f"Not known: {document['missing_because']}.")
    order = [entry["choice"] for entry in document["objectives"]["top1"]["choices"]]
    data = []
    for key, (name, color, pattern) in _OBJECTIVES.items():
        found = document["objectives"].get(key)
        if found is None:
            continue
        shares = {entry["choice"]: entry for entry in found["choices"]}
        chosen = [shares[choice] for choice in order if choice in shares]
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": f"{name} (R² {found['r2_on_unseen_trials']:.2f})",
                "y": [entry["choice"] for entry in chosen],
                "x": [100 * entry["importance"] for entry in chosen],
                "error_x": {"array": [100 * e["standard_error"] for e in chosen], "thickness": 1},
                "marker": {"color": color, "pattern": {"shape": pattern, "fgcolor": "white"}},
                "opacity": 1.0 if found["is_trusted"] else 0.45,
                "hovertemplate": "%{y}: %{x:.0f}%<extra></extra>",
            }
        )
    return Chart(
        title=title,
        note=f"Share of the variance that a choice explains, interactions included; of "
        f"{document['of']}. Pale: the trees explain too little to be trusted.",
        data=data,
        layout=layout(
            {"title": {"text": "share of the variance (%)"}, "rangemode": "tozero"},
            {"autorange": "reversed", "automargin": True},
            height=140 + 62 * len(order),
            barmode="group",
        ),
    )


def position_chart(document: Mapping[str, Any] | None) -> Chart:
    """Draw the best accuracy by position and stage, from importance.json."""
    title = "Accuracy by position and stage"
    if document is None:
        return Chart(title=title, note=_LATER)
    cells = {(cell["place"], cell["stage"]): cell for cell in document["positions"]}
    if not cells:
        return Chart(title=title, note="No trial has a method that acts at a stage.")
    places = list(dict.fromkeys(place for place, _ in cells))
    stages = list(range(1, max(stage for _, stage in cells) + 1))
    rows = [[cells.get((place, stage)) for stage in stages] for place in places]
    best = [[cell and cell["best"] for cell in row] for row in rows]
    shown = [[f"{cell['best']:.1f}" if cell else "" for cell in row] for row in rows]
    told = [
        [f"mean {c['mean']:.1f}%, {c['num_trials']} trials" if c else "no trial" for c in row]
        for row in rows
    ]
    heat = {
        "type": "heatmap",
        "x": [f"stage {stage}" for stage in stages],
        "y": places,
        "z": best,
        "text": shown,
        "texttemplate": "%{text}",
        "customdata": told,
        "hovertemplate": "%{y}, %{x}: best %{z:.1f}%<br>%{customdata}<extra></extra>",
        "colorscale": SCALE,
        "colorbar": {"title": {"text": "best top-1 (%)", "side": "right"}},
    }
    return Chart(
        title=title,
        note=f"The best of the trials that act there; {document['of']}. It says what went along "
        "with good accuracies, not what caused them.",
        data=[heat],
        layout=layout(
            {}, {"automargin": True, "autorange": "reversed"}, height=160 + 44 * len(places)
        ),
    )


def parallel_chart(records: Sequence[TrialRecord]) -> Chart:
    """Draw every complete trial as a line through its choices."""
    title = "Every trial as a line"
    chosen = complete(records)
    if len(chosen) < 2:
        return Chart(title=title, note="It takes two complete trials.")
    axes = parallel_axes(chosen)
    top1 = axes[-1].values
    lines = {
        "type": "parcoords",
        "dimensions": [_dimension(axis) for axis in axes],
        "line": {
            "color": top1,
            "colorscale": SCALE,
            "reversescale": True,  # dark is accurate: the light end is hard to see on white
            "showscale": True,
            "colorbar": {"title": {"text": "top-1 (%)", "side": "right"}},
        },
        "labelangle": -25,
        "labelside": "top",
        "tickfont": {"size": 12},
    }
    return Chart(
        title=title,
        note="Drag along an axis to keep the lines that go through there; - is a choice that the "
        "config does not have.",
        data=[lines],
        layout={
            "height": 480,
            "margin": {"l": 60, "r": 40, "t": 110, "b": 30},
            "font": {"family": "system-ui, sans-serif", "size": 13, "color": "#222"},
            "paper_bgcolor": "white",
        },
    )


def _dimension(axis: ParallelAxis) -> dict[str, Any]:
    return {
        "label": axis.label,
        "values": axis.values,
        "tickvals": [place for place, _ in axis.ticks],
        "ticktext": [text for _, text in axis.ticks],
        "range": [axis.low, axis.high],
    }
