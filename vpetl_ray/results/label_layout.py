"""Places the words of a figure where nothing else is."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

Pixels = NDArray[np.float64]
"""(P, 2), in pixels of the figure."""

_LEADER = {"arrowstyle": "-", "linewidth": 0.6, "color": "0.35", "shrinkA": 1, "shrinkB": 5}
# Below the markers of the front, so that a leading line ends under its point.
_TEXT: dict[str, Any] = {
    "fontsize": 7.5,
    "linespacing": 1.15,
    "color": "0.15",
    "zorder": 3.5,
    "va": "bottom",
}
_MARGIN = 3.0  # pixels kept free round a label
_SAMPLES_A_SEGMENT = 40


def place_labels(
    axes: Axes,
    canvas: FigureCanvasAgg,
    points: Sequence[tuple[float, float]],
    texts: Sequence[str],
    *,
    keep_clear: Sequence[Sequence[tuple[float, float]]],
) -> list[Annotation]:
    """Write each text near its point so that no two overlap and none leaves the axes.

    Each label takes the nearest free place; a thin line leads from it to its point. A label for
    which there is no place is left out: earlier ones matter more.

    Args:
        axes: with their final limits.
        canvas: of their figure.
        points: in data units, most important first.
        texts: one a point.
        keep_clear: lines by their corners, in data units, that no label may cover; a line of one
            corner is a point.
    """
    renderer = canvas.get_renderer()  # type: ignore[no-untyped-call]
    frame = axes.get_window_extent(renderer)
    obstacles = np.concatenate([_along(axes, corners) for corners in keep_clear])
    taken: list[Bbox] = []
    placed = []
    for point, text in zip(points, texts, strict=True):
        anchor_2 = axes.transData.transform(point)
        size_2 = _size(axes, renderer, text)
        for offset_2 in _offsets(*size_2):
            box = Bbox.from_bounds(*(anchor_2 + offset_2), *size_2)
            nearest_2 = np.clip(anchor_2, box.min, box.max)
            leader = _segment(anchor_2, nearest_2)
            if _is_free(box.padded(_MARGIN), leader, frame, taken, obstacles):
                taken.append(box.padded(_MARGIN))
                obstacles = np.concatenate([obstacles, leader])
                placed.append(_write(axes, text, point, offset_2, (nearest_2 - box.min) / size_2))
                break
    return placed


def _size(axes: Axes, renderer: RendererAgg, text: str) -> Pixels:
    probe = axes.text(0, 0, text, **_TEXT)
    size_2 = np.array(probe.get_window_extent(renderer).size)
    probe.remove()
    return size_2


def _write(
    axes: Axes, text: str, point: tuple[float, float], offset_2: Pixels, leader_start_2: Pixels
) -> Annotation:
    return axes.annotate(
        text,
        point,
        xytext=tuple(offset_2),
        textcoords="offset pixels",
        arrowprops={**_LEADER, "relpos": tuple(leader_start_2)},
        **_TEXT,
    )


def _offsets(width: float, height: float) -> Iterator[Pixels]:
    """Lower left corners relative to the point, above left first: a front leaves room there."""
    for gap in (12.0, 22.0, 34.0, 48.0):
        for x in (-width - gap, -width / 2, gap):
            yield np.array([x, gap])
        for x in (-width - gap, gap):
            yield np.array([x, -height / 2])
        for x in (gap, -width / 2, -width - gap):
            yield np.array([x, -height - gap])


def _along(axes: Axes, corners: Sequence[tuple[float, float]]) -> Pixels:
    """Points along a line, close enough for a label not to slip between them."""
    pixels = axes.transData.transform(np.asarray(corners, dtype=float).reshape(-1, 2))
    if len(pixels) < 2:
        return pixels
    return np.concatenate([_segment(start, end) for start, end in itertools.pairwise(pixels)])


def _segment(start: Pixels, end: Pixels) -> Pixels:
    return start + (end - start) * np.linspace(0.0, 1.0, _SAMPLES_A_SEGMENT)[:, None]


def _is_free(
    box: Bbox, leader: Pixels, frame: Bbox, taken: Sequence[Bbox], obstacles: Pixels
) -> bool:
    inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
    if not inside or any(box.overlaps(other) for other in taken):
        return False
    return not _meets(box, obstacles) and not any(_meets(other, leader) for other in taken)


def _meets(box: Bbox, points: Pixels) -> bool:
    x, y = points[:, 0], points[:, 1]
    return bool(((box.x0 < x) & (x < box.x1) & (box.y0 < y) & (y < box.y1)).any())
