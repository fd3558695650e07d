"""Trials as lines through their choices: the axes, whoever draws them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log10

from vpetl_ray.results.labels import count_label
from vpetl_ray.results.records import Scalar, TrialRecord

MAX_CHOICES = 12
"""Axes of choices; more cannot be told apart."""
_MAX_NAMED = 8
"""Numbers of up to so many different values stand in equal steps, each with its tick."""
_QUARTERS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, kw_only=True)
class ParallelAxis:
    """One axis: where each trial crosses it."""

    label: str
    values: tuple[float, ...]
    """Of the trials, in their order."""
    ticks: tuple[tuple[float, str], ...]
    low: float
    high: float
    """Its ends."""


def parallel_axes(records: Sequence[TrialRecord]) -> list[ParallelAxis]:
    """Give an axis for each choice in which the trials differ, then parameters and top-1.

    Args:
        records: complete, two or more.
    """
    paths = dict.fromkeys(path for record in records for path in record.config)
    axes = []
    for path in paths:
        values = [record.config.get(path) for record in records]
        if len(set(values) - {None}) > 1:
            axes.append(_choice(path, values))
    params = [log10(max(record.trainable_params, 1)) for record in records]
    top1 = [record.top1 or 0.0 for record in records]
    return [
        *axes[:MAX_CHOICES],
        _measured("parameters", params, [count_label(10**mark) for mark in _marks(params)]),
        _measured("top-1 (%)", top1, [f"{mark:.1f}" for mark in _marks(top1)]),
    ]


def _choice(path: str, values: Sequence[Scalar | None]) -> ParallelAxis:
    label = path.removeprefix("petl.").removeprefix("training.")
    given = [value for value in values if value is not None]
    numbers = [float(v) for v in given if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(numbers) == len(given) and len(set(given)) > _MAX_NAMED:
        return _numbers(label, [None if v is None else float(v) for v in values], numbers)
    names = sorted(set(given), key=lambda v: (isinstance(v, str), v))
    places: dict[Scalar | None, int] = {None: 0, **{v: i + 1 for i, v in enumerate(names)}}
    ticks = [(0.0, "-")] if None in values else []
    ticks += [(float(places[name]), _short(name)) for name in names]
    return ParallelAxis(
        label=label,
        values=tuple(float(places[value]) for value in values),
        ticks=tuple(ticks),
        low=ticks[0][0] - 0.2,
        high=len(names) + 0.2,
    )


def _numbers(label: str, values: Sequence[float | None], given: Sequence[float]) -> ParallelAxis:
    """Place numbers; configs that have none stand below all others."""
    marks = _marks(given)
    below = marks[0] - 0.15 * (marks[-1] - marks[0])
    ticks = [(below, "-")] if None in values else []
    ticks += [(mark, f"{mark:.2g}") for mark in marks]
    return ParallelAxis(
        label=label,
        values=tuple(below if value is None else value for value in values),
        ticks=tuple(ticks),
        low=ticks[0][0],
        high=marks[-1],
    )


def _measured(label: str, values: Sequence[float], texts: Sequence[str]) -> ParallelAxis:
    marks = _marks(values)
    ticks = tuple(zip(marks, texts, strict=True))
    return ParallelAxis(
        label=label, values=tuple(values), ticks=ticks, low=marks[0], high=marks[-1]
    )


def _marks(values: Sequence[float]) -> list[float]:
    low, high = min(values), max(values)
    if low == high:
        low, high = low - 0.5, high + 0.5
    return [low + share * (high - low) for share in _QUARTERS]


def _short(value: Scalar) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.2g}" if isinstance(value, float) else str(value)
