"""What all figures of a search have in common: paper, titles, and how they are kept."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from vpetl_ray.results.atomic import replacing

# Told apart by shape and by darkness, so that grey print and colour-blind eyes lose nothing.
DARK = "#08306b"
MIDDLE = "#6b9bc7"
WARM = "#b5441f"


def new_figure(width: float, height: float) -> Figure:
    """Give an empty figure, in inches, that lays itself out and needs no screen."""
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path | str) -> None:
    """Write a figure atomically; the format follows the path's suffix.

    Raises:
        SearchError: the file cannot be written.
    """
    with replacing(Path(path)) as temporary:
        figure.savefig(temporary)


def name_panels(figure: Figure, title: str, small_print: str = "") -> None:
    """Write a bold title above all panels of a figure, and small print below them."""
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    if small_print:
        figure.supxlabel(small_print, x=0.01, ha="left", fontsize=8, color="0.3")


def quieten(axes: Axes, *, grid: str = "both") -> None:
    """Leave of frame and grid what is needed to read a value."""
    axes.grid(visible=True, axis=grid, which="major", color="0.92", linewidth=0.8)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def draw_titles(axes: Axes, title: str, subtitle: str) -> None:
    """Write a bold title at the left, and a line in small print below it."""
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", pad=22 if subtitle else 8)
    if subtitle:
        axes.annotate(
            subtitle,
            (0, 1),
            xycoords="axes fraction",
            xytext=(0, 8),
            textcoords="offset points",
            fontsize=8.5,
            color="0.35",
        )
