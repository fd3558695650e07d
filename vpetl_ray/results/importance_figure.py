"""The pictures of what mattered: importances as bars, accuracy by position as a heat map."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from vpetl_ray.results.figure_parts import (
    DARK,
    MIDDLE,
    name_panels,
    new_figure,
    quieten,
    save_figure,
)
from vpetl_ray.results.importance import ObjectiveImportance
from vpetl_ray.results.position_table import PositionCell

_MAX_BARS = 16
_MEANINGS = {
    "top1": "top-1 on validation",
    "log10_params": "log10(trainable parameters)",
    "hypervolume": "share of the hypervolume (its rank)",
}


def plot_importance(
    found: Sequence[ObjectiveImportance], path: Path | str, *, title: str, subtitle: str
) -> None:
    """Draw a panel of bars for each objective, the same choices in the same order in each.

    Conditional choices are hatched; of a panel whose trees foresee too little the bars are pale.

    Raises:
        SearchError: the file cannot be written.
    """
    names = _order(found)
    figure = new_figure(10.2, 2.1 + 0.27 * len(names))
    panels = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    for panel, objective in zip(panels, found, strict=True):
        _draw_bars(panel, objective, names)
    panels[0].set_yticks(range(len(names)), names, fontsize=8.5)
    panels[0].invert_yaxis()
    name_panels(figure, title, f"{subtitle}\n{_LEGEND}")
    save_figure(figure, path)


_LEGEND = (
    "Bars: total Sobol index, the share of the variance that hangs on the choice, alone or with "
    "others; line: standard error.\nHatched: the choice exists in some trials only, and counts "
    'for those. A method\'s "on or off" contains its own choices.'
)


def _order(found: Sequence[ObjectiveImportance]) -> list[str]:
    best: dict[str, float] = {}
    for objective in found:
        for choice in objective.choices:
            best[choice.name] = best.get(choice.name, 0.0) + choice.share
    return sorted(best, key=lambda name: -best[name])[:_MAX_BARS]


def _draw_bars(axes: Axes, found: ObjectiveImportance, names: Sequence[str]) -> None:
    quieten(axes, grid="x")
    by_name = {choice.name: choice for choice in found.choices}
    for place, name in enumerate(names):
        choice = by_name.get(name)
        if choice is None:
            continue
        axes.barh(
            place,
            100 * choice.share,
            height=0.68,
            color=DARK if choice.active == 1 else "white",
            edgecolor=DARK,
            hatch="" if choice.active == 1 else "////",
            alpha=1.0 if found.is_trusted else 0.35,
            linewidth=0.9,
            zorder=2,
        )
        axes.errorbar(
            100 * choice.share,
            place,
            xerr=100 * choice.error,
            color="0.1",
            ecolor=MIDDLE if choice.active == 1 else "0.1",
            linewidth=1.2,
            zorder=3,
        )
    # Clipped for the eye: the index cannot be below 0, and hardly above 1.
    axes.set_xlim(0, max(10.0, *(105 * (c.share + c.error) for c in found.choices), 0.0))
    axes.set_xlabel("% of the variance", fontsize=8.5)
    doubt = "" if found.is_trusted else ": too little to be believed"
    meaning = _MEANINGS.get(found.objective, found.objective)
    axes.annotate(
        f"{meaning}\nR² on unseen trials {found.explained:.2f}{doubt}",
        (0, 1),
        xycoords="axes fraction",
        xytext=(0, 5),
        textcoords="offset points",
        fontsize=8.5,
        color="0.2",
    )


def plot_positions(
    cells: Sequence[PositionCell], path: Path | str, *, title: str, subtitle: str, num_stages: int
) -> None:
    """Draw two heat maps, stages across and places down: the best accuracy, and the mean.

    Each cell says its accuracy and how many trials it is of; a cell without trials stays empty.

    Raises:
        SearchError: the file cannot be written.
    """
    places = list(dict.fromkeys(cell.place for cell in cells))
    figure = new_figure(8.4, 1.9 + 0.42 * len(places))
    panels = figure.subplots(1, 2, sharey=True)
    values = [value for cell in cells for value in (cell.best, cell.mean)]
    limits = {"vmin": min(values), "vmax": max(*values, min(values) + 1.0)}
    for panel, what in zip(panels, ("best", "mean"), strict=True):
        shade_PS = np.full((len(places), num_stages), np.nan)
        for cell in cells:
            shade_PS[places.index(cell.place), cell.stage - 1] = getattr(cell, what)
        image = panel.imshow(shade_PS, aspect="auto", cmap="cividis", **limits)
        _write_cells(panel, cells, places, what, image)
        panel.set_xticks(range(num_stages), [str(s + 1) for s in range(num_stages)])
        panel.set_xlabel("stage")
        panel.set_title(f"{what} of the trials that act there", loc="left", fontsize=9)
        panel.tick_params(length=0)
        panel.spines[:].set_visible(False)
    panels[0].set_yticks(range(len(places)), places)
    panels[0].set_ylabel("method and target")
    figure.colorbar(image, ax=panels, label="top-1 on validation (%)", shrink=0.9)
    name_panels(figure, title, subtitle)
    save_figure(figure, path)


def _write_cells(
    axes: Axes, cells: Sequence[PositionCell], places: Sequence[str], what: str, image: Any
) -> None:
    for cell in cells:
        value = getattr(cell, what)
        red, green, blue, _ = image.cmap(image.norm(value))
        is_dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.5
        axes.text(
            cell.stage - 1,
            places.index(cell.place),
            f"{value:.1f}\n{cell.num_trials} trial" + ("" if cell.num_trials == 1 else "s"),
            ha="center",
            va="center",
            fontsize=7.5,
            color="white" if is_dark else "black",
        )
