"""Several searches side by side: their fronts, and how much each dominates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.ticker import FuncFormatter

from vpetl_ray.errors import SpecError
from vpetl_ray.results.atomic import write_json
from vpetl_ray.results.front import front_of, knee_of, volume_of
from vpetl_ray.results.labels import count_label
from vpetl_ray.results.page import write_page
from vpetl_ray.results.page_parts import Chart, hover, layout, params_axis, steps
from vpetl_ray.results.records import TrialRecord
from vpetl_ray.results.search_folder import SearchFolder

# Of the palette of Okabe and Ito, from dark to light; markers and dashes tell the rest.
_COLORS = ("#08306b", "#b5441f", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
_MARKERS = (
    ("o", "circle"),
    ("s", "square"),
    ("^", "triangle-up"),
    ("D", "diamond"),
    ("v", "cross"),
)
_DASHES = ("solid", "dash", "dot", "dashdot")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One search of a comparison."""

    name: str
    front: tuple[TrialRecord, ...]
    """Of accuracy against parameters, whatever else the search traded off."""
    num_trials: int
    hypervolume: float
    ratio: float
    """Of the hypervolume, to that of the first search; 0 where that has none."""

    @property
    def best(self) -> float | None:
        """Top-1, percent, on validation."""
        return max((record.top1 or 0.0 for record in self.front), default=None)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Searches over the same reference point."""

    entries: tuple[Entry, ...]
    max_params: int
    """The reference point: the parameters of the largest backbone, at 0% top-1."""
    remarks: tuple[str, ...]
    """What makes them hard to compare."""


def compare(searches: Sequence[SearchFolder]) -> Comparison:
    """Measure fronts from one reference point.

    Raises:
        SpecError: there are fewer than two.
    """
    if len(searches) < 2:
        raise SpecError("give two or more results folders to compare")
    max_params = max(search.facts.backbone_params for search in searches)
    fronts = [tuple(front_of(search.records, costs=())) for search in searches]
    volumes = [volume_of(front, max_params=max_params, references={}) for front in fronts]
    entries = [
        Entry(
            name=name,
            front=front,
            num_trials=sum(record.epochs > 0 for record in search.records),
            hypervolume=volume,
            ratio=volume / volumes[0] if volumes[0] else 0.0,
        )
        for name, search, front, volume in zip(
            _names(searches), searches, fronts, volumes, strict=True
        )
    ]
    remarks = tuple(_remarks(searches))
    return Comparison(entries=tuple(entries), max_params=max_params, remarks=remarks)


def _names(searches: Sequence[SearchFolder]) -> list[str]:
    """Name searches by their folders, and by more of their paths where two are called alike."""
    paths = [search.path.resolve() for search in searches]
    for depth in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    raise SpecError(f"the same folder is given twice: {searches[0].path}")


def _remarks(searches: Sequence[SearchFolder]) -> list[str]:
    found = []
    for what, values in (
        ("backbones", [search.facts.backbone for search in searches]),
        ("data sets", [search.facts.data for search in searches]),
    ):
        if len(set(values)) > 1:
            found.append(f"they have different {what}: {', '.join(dict.fromkeys(values))}")
    running = [search.facts.name for search in searches if search.is_running]
    return [*found, *(f"{name} still runs" for name in running)]


def write_comparison(out: Path, comparison: Comparison) -> list[Path]:
    """Write the fronts as PNG, SVG and a page, and the numbers as JSON.

    Raises:
        SearchError: a file cannot be written.
    """
    paths = [out / f"compare.{suffix}" for suffix in ("png", "svg", "html", "json")]
    for path in paths[:2]:
        _plot(comparison, path)
    write_page(
        paths[2],
        title=f"{len(comparison.entries)} searches",
        intro=[sentence(comparison), *(f"Mind: {remark}." for remark in comparison.remarks)],
        charts=[_chart(comparison)],
    )
    write_json(paths[3], _document(comparison))
    return paths


def sentence(comparison: Comparison) -> str:
    """Say what the hypervolumes are measured from."""
    return (
        f"Hypervolumes up to {count_label(comparison.max_params)} parameters and down to 0% top-1, "
        f"in percent x decades of parameters; ratios to {comparison.entries[0].name}."
    )


def _document(comparison: Comparison) -> dict[str, Any]:
    return {
        "hypervolume_reference": {"trainable_params": comparison.max_params, "top1": 0.0},
        "remarks": list(comparison.remarks),
        "searches": [
            {
                "name": entry.name,
                "trials": entry.num_trials,
                "hypervolume": entry.hypervolume,
                "ratio": entry.ratio,
                "best_top1": entry.best,
                "knee": bend.id if (bend := knee_of(entry.front)) else None,
                "front": [
                    {"id": r.id, "trainable_params": r.trainable_params, "top1": r.top1}
                    for r in entry.front
                ],
            }
            for entry in comparison.entries
        ],
    }


def _right(comparison: Comparison) -> float:
    counts = [record.trainable_params for entry in comparison.entries for record in entry.front]
    return float(max(counts, default=1))


def _label(entry: Entry) -> str:
    return f"{entry.name} (hypervolume x {entry.ratio:.2f})"


def _plot(comparison: Comparison, path: Path) -> None:
    # Here: matplotlib takes a second.
    from vpetl_ray.results.figure_parts import (  # noqa: PLC0415
        draw_titles,
        new_figure,
        quieten,
        save_figure,
    )

    figure = new_figure(8.4, 5.2)
    axes = figure.add_subplot()
    axes.set_xscale("log")
    axes.set_xlabel("trainable parameters (log scale)")
    axes.set_ylabel("top-1 accuracy on validation (%)")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda count, _: count_label(count)))
    quieten(axes)
    for i, entry in enumerate(comparison.entries):
        color, marker = _COLORS[i % len(_COLORS)], _MARKERS[i % len(_MARKERS)][0]
        dash = ("-", "--", ":", "-.")[i % len(_DASHES)]
        look: dict[str, Any] = {"color": color, "linestyle": dash, "linewidth": 1.5}
        axes.plot(*steps(entry.front, _right(comparison)), **look)
        xs = [max(record.trainable_params, 1) for record in entry.front]
        ys = [record.top1 or 0.0 for record in entry.front]
        axes.scatter(
            xs, ys, color=color, marker=marker, s=44, edgecolors="white", linewidths=0.8, zorder=3
        )
        axes.plot([], [], marker=marker, label=_label(entry), **look)  # line and mark, as it says
    draw_titles(axes, "Fronts", "")
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    save_figure(figure, path)


def _chart(comparison: Comparison) -> Chart:
    data: list[dict[str, Any]] = []
    for i, entry in enumerate(comparison.entries):
        color, symbol = _COLORS[i % len(_COLORS)], _MARKERS[i % len(_MARKERS)][1]
        xs, ys = steps(entry.front, _right(comparison))
        line = {"color": color, "width": 2, "dash": _DASHES[i % len(_DASHES)]}
        group = {"type": "scatter", "legendgroup": entry.name}
        data += [
            {
                **group,
                "mode": "lines",
                "x": xs,
                "y": ys,
                "line": line,
                "showlegend": False,
                "hoverinfo": "skip",
            },
            {
                **group,
                "mode": "markers",
                "name": _label(entry),
                "x": [max(record.trainable_params, 1) for record in entry.front],
                "y": [record.top1 for record in entry.front],
                "text": [f"{entry.name} {hover(record)}" for record in entry.front],
                "hovertemplate": "%{text}<extra></extra>",
                "marker": {"symbol": symbol, "color": color, "size": 10},
            },
        ]
    return Chart(
        title="Fronts",
        note="Accuracy on validation against trainable parameters; point at a member for its "
        "config, click on a name to hide a search.",
        data=data,
        layout=layout(
            params_axis(), {"title": {"text": "top-1 accuracy on validation (%)"}}, height=560
        ),
    )
