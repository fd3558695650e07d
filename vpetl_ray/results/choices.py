"""The choices of a search as a table of numbers, absent values included.

A choice is one thing a trial could have had otherwise: whether a method is on, its width, its
stages, the learning rate. Choices depend on each other: a width exists only where its method is
on. Such a choice is *conditional*; in trials without it, it is absent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vpetl_ray.results.labels import has_method
from vpetl_ray.results.records import Scalar, TrialRecord

_SETS = {"targets", "kinds", "stages", "blocks"}
"""Fields that hold several items together, written `kv` or `1+3`."""
_NONE = "none"
_LETTERS = set("qkv")
"""Items of one letter are written without a sign between them."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One thing that differs between trials."""

    name: str
    """For people: `adapter d_bottle`, `patt on or off`, `learning_rate`."""
    group: str
    """What it belongs to: a method's name, or `training`."""
    columns: tuple[int, ...]
    """Of the matrix: one for a number, one for each item of a set or word."""
    active: NDArray[np.bool_]
    """(N,) in which trials it exists."""
    is_switch: bool = False
    """Whether it is a method being on or off. Changing it takes the method's own choices along."""

    @property
    def is_conditional(self) -> bool:
        """Whether there are trials without it."""
        return not bool(self.active.all())


@dataclass(frozen=True, kw_only=True)
class ChoiceTable:
    """All choices of some trials."""

    matrix: NDArray[np.float64]
    """(N, columns), finite: what is absent has a value that nothing present has."""
    choices: tuple[Choice, ...]

    def columns_of(self, group: str) -> tuple[int, ...]:
        """Columns of everything that belongs to a method."""
        return tuple(c for choice in self.choices if choice.group == group for c in choice.columns)


def choice_table(records: Sequence[TrialRecord]) -> ChoiceTable:
    """Find what differs between trials. What is the same in all of them is no choice.

    Args:
        records: at least one.
    """
    paths = list(dict.fromkeys(path for record in records for path in record.config))
    parts: list[NDArray[np.float64]] = []
    choices: list[Choice] = []

    def add(choice_name: str, group: str, values: Sequence[Scalar | None], field: str) -> None:
        active = np.array([value is not None for value in values])
        if len(set(values) - {None}) < 2:
            return
        columns = _encoded(values, field)
        first = sum(part.shape[1] for part in parts)
        parts.append(columns)
        choices.append(
            Choice(
                name=choice_name,
                group=group,
                columns=tuple(range(first, first + columns.shape[1])),
                active=active,
                is_switch=field == "enabled",
            )
        )

    for method in dict.fromkeys(m for path in paths if (m := _method(path))):
        on = [has_method(record.config, method) for record in records]
        add(f"{method} on or off", method, on, "enabled")
        for path in paths:
            field = path.removeprefix(f"petl.{method}.")
            if _method(path) == method and field != "enabled":
                values = [
                    record.config.get(path) if is_on else None
                    for record, is_on in zip(records, on, strict=True)
                ]
                add(f"{method} {_words(field)}", method, values, field)
    for path in paths:
        if not _method(path):
            group, name = ("training", path.removeprefix("training."))
            if path == "petl.classifier.train":
                group, name = "classifier", "classifier trained or frozen"
            add(name, group, [record.config.get(path) for record in records], name)
    matrix = np.hstack(parts) if parts else np.zeros((len(records), 0))
    return ChoiceTable(matrix=matrix, choices=tuple(choices))


def _method(path: str) -> str:
    """Name the method that a path belongs to; the classifier is none."""
    root, _, rest = path.partition(".")
    name = rest.partition(".")[0]
    return name if root == "petl" and name != "classifier" else ""


def _words(field: str) -> str:
    name, _, stage = field.partition(".stage")
    return f"{name} of stage {stage}" if stage else name


def _encoded(values: Sequence[Scalar | None], field: str) -> NDArray[np.float64]:
    """Encode a choice so that a tree can split it: (N, 1) for numbers, else a column an item.

    What is absent lies below everything present: one split tells it.
    """
    known = [value for value in values if value is not None]
    if all(isinstance(value, int | float) for value in known):
        low = min(float(value) for value in known)
        below = low - max(abs(low), 1.0)
        return np.array([[below if value is None else float(value)] for value in values])
    items = [items_of(value, field) for value in values]
    every = sorted({item for found in items if found for item in found} - {_NONE})
    if len(every) == 2 and field not in _SETS:
        every = every[1:]  # the other one is what is left
    return np.array(
        [[-1.0 if found is None else float(item in found) for item in every] for found in items]
    )


def items_of(value: Scalar | None, field: str) -> set[str] | None:
    """Give the items of a set as words; another word or number is its only item; None if absent.

    >>> sorted(items_of("kv", "targets")), items_of("1+3", "blocks") == {"1", "3"}
    (['k', 'v'], True)
    """
    if value is None:
        return None
    text = str(value)
    if field not in _SETS:
        return {text}
    return set(text) if set(text) <= _LETTERS else set(text.split("+"))
