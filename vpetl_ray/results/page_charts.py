"""The other charts of a search's page: history, importance, positions, parallel coordinates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log10
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
from vpetl_ray.results.records import Scalar, TrialRecord

_LATER = "It comes when the search is over; `python -m vpetl_ray.report DIR` makes it at any time."
_OBJECTIVES = {
    "top1": ("accuracy", DARK, ""),
    "log10_params": ("parameters", MIDDLE, "/"),
    "hypervolume": ("hypervolume", WARM, "x"),
}
_MAX_AXES = 9


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
    paths = dict.fromkeys(path for record in chosen for path in record.config)
    axes = []
    for path in paths:
        values = [record.config.get(path) for record in chosen]
        if len(set(values) - {None}) > 1:
            axes.append(_axis(path, values))
    params = [max(record.trainable_params, 1) for record in chosen]
    top1 = [record.top1 for record in chosen]
    ends = [
        _numbers("parameters", [log10(count) for count in params], decades=True),
        {"label": "top-1 (%)", "values": top1},
    ]
    lines = {
        "type": "parcoords",
        "dimensions": [*axes[:_MAX_AXES], *ends],
        "line": {
            "color": top1,
            "colorscale": SCALE,
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


def _axis(path: str, values: Sequence[Scalar | None]) -> dict[str, Any]:
    label = path.removeprefix("petl.").removeprefix("training.")
    given = [value for value in values if value is not None]
    is_count = all(isinstance(v, int | float) and not isinstance(v, bool) for v in given)
    if is_count and len(set(given)) > 8 and len(given) == len(values):
        return _numbers(label, [float(value) for value in values])  # type: ignore[arg-type]
    if is_count and len(set(given)) > 8:
        return _with_absent(label, values)
    names = sorted(set(given), key=lambda v: (isinstance(v, str), v))
    places: dict[Scalar | None, int] = {None: 0, **{v: i + 1 for i, v in enumerate(names)}}
    ticks = [("-", 0)] if None in values else []
    ticks += [(_short(name), places[name]) for name in names]
    return {
        "label": label,
        "values": [places[value] for value in values],
        "tickvals": [place for _, place in ticks],
        "ticktext": [text for text, _ in ticks],
        "range": [min(p for _, p in ticks) - 0.2, len(names) + 0.2],
    }


def _with_absent(label: str, values: Sequence[Scalar | None]) -> dict[str, Any]:
    """Draw numbers that some configs do not have: those stand below all others."""
    given = [float(value) for value in values if value is not None]
    low, high = min(given), max(given)
    below = low - 0.15 * (high - low)
    marks = [low + share * (high - low) for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    return {
        "label": label,
        "values": [below if value is None else float(value) for value in values],
        "tickvals": [below, *marks],
        "ticktext": ["-", *(f"{mark:.2g}" for mark in marks)],
    }


def _numbers(label: str, values: Sequence[float], *, decades: bool = False) -> dict[str, Any]:
    if not decades:
        return {"label": label, "values": list(values)}
    low, high = min(values), max(values)
    marks = [low + share * (high - low) for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    texts = [f"{10**mark:,.0f}" for mark in marks]
    return {"label": label, "values": list(values), "tickvals": marks, "ticktext": texts}


def _short(value: Scalar) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.2g}" if isinstance(value, float) else str(value)
