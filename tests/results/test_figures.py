from itertools import combinations
from pathlib import Path

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from vpetl_ray.errors import SearchError
from vpetl_ray.results.figures import plot_front
from vpetl_ray.results.label_layout import place_labels
from vpetl_ray.results.parallel_axes import parallel_axes
from vpetl_ray.results.parallel_figure import plot_parallel
from vpetl_ray.results.records import TrialState


def many(make_record, count: int):
    states = list(TrialState)
    return [
        make_record(
            i,
            params=1500 + 37 * i,
            top1=None if i % 4 > 1 else 40.0 + (i * 7919 % 400) / 10,
            state=states[i % 4],
            test_top1=50.0 if i % 5 == 0 else None,
        )
        for i in range(count)
    ]


@pytest.mark.parametrize("count", [0, 1, 2, 40, 2000])
def test_any_number_of_trials_can_be_drawn(tmp_path: Path, make_record, count: int) -> None:
    plot_front(many(make_record, count), tmp_path / "front.png", title="demo", budget=34_000)
    with Image.open(tmp_path / "front.png") as image:
        assert image.format == "PNG"
        assert image.width >= 1200
        assert len(image.convert("L").getcolors()) > 20, "not an empty sheet"
    assert [entry.name for entry in tmp_path.iterdir()] == ["front.png"]


@pytest.mark.parametrize(
    ("params", "top1"),
    [([0, 0], [0.0, 0.0]), ([5, 5], [100.0, 100.0]), ([1, 10**11], [0.0, 100.0])],
    ids=["nothing trained", "equal", "eleven decades"],
)
def test_extremes_can_be_drawn(tmp_path: Path, make_record, params, top1) -> None:
    records = [make_record(i, p, t) for i, (p, t) in enumerate(zip(params, top1, strict=True))]
    plot_front(records, tmp_path / "front.svg", title="demo", subtitle="all of them")
    assert (tmp_path / "front.svg").read_text().startswith("<?xml")


def test_a_figure_that_cannot_be_written_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(SearchError, match=r"missing/front\.png: cannot be written"):
        plot_front([], tmp_path / "missing" / "front.png", title="demo")


@pytest.mark.parametrize("count", [2, 40, 2000])
def test_trials_are_drawn_as_lines_through_their_choices(tmp_path: Path, make_record, count: int):
    records = [
        make_record(
            i,
            params=1500 + 37 * i,
            top1=40.0 + (i * 7919 % 400) / 10,
            config={
                "petl.patt.targets": ("kv", "qkv", None)[i % 3],
                "petl.patt.scale": None if i % 3 == 2 else 0.1 + 0.01 * i,
                "petl.adapter.enabled": i % 2 == 0,
                "training.epochs": 4,
            },
        )
        for i in range(count)
    ]
    axes = parallel_axes(records)
    shown = ["patt.targets", "patt.scale", "adapter.enabled", "parameters", "top-1 (%)"]
    assert [axis.label for axis in axes] == shown, "what all have in common is left out"
    for axis in axes:
        assert len(axis.values) == count
        assert axis.low <= min(axis.values) <= max(axis.values) <= axis.high
        assert all(axis.low <= place <= axis.high for place, _ in axis.ticks)
    targets = dict(axes[0].ticks)
    told = [targets[value] for value in axes[0].values[:3]]
    assert told == ["kv", "qkv", "-"][:count]
    plot_parallel(records, tmp_path / "parallel.png", title="demo")
    with Image.open(tmp_path / "parallel.png") as image:
        assert len(image.convert("L").getcolors()) > 20, "not an empty sheet"


def test_labels_overlap_neither_each_other_nor_a_line_nor_the_frame() -> None:
    figure = Figure(figsize=(6, 4), dpi=100)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlim=(0, 10), ylim=(0, 10))
    figure.canvas.draw()
    points = [(5.0 + i / 20, 5.0 + i / 20) for i in range(12)]
    labels = place_labels(
        axes, canvas, points, [f"label {i}\nof two lines" for i in range(12)], keep_clear=[points]
    )
    figure.canvas.draw()
    # Text's own extent: an annotation's takes in its leading line.
    boxes = [Text.get_window_extent(label, canvas.get_renderer()) for label in labels]
    frame = axes.get_window_extent()
    assert 4 <= len(labels) <= 12
    assert labels[0].get_text().startswith("label 0"), "the first matters most"
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 for box in boxes)
    for x, y in axes.transData.transform(points):
        assert not any(box.contains(x, y) for box in boxes)
