"""What one value of a search space may be: fixed, or one of several.

A domain knows its members, how Optuna is asked for one of them, and how one is written in a table.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any, TypeAlias

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import BaseTrial

Scalar: TypeAlias = bool | int | float | str | None
Value: TypeAlias = Scalar | tuple[Any, ...]
"""A scalar, or the chosen items of a subset in the order in which the domain lists them."""

MAX_SUBSET_CATEGORIES = 32
"""Subsets with more members than this are searched by one switch per item."""
NONE_CHOSEN = "none"


@dataclass(frozen=True, kw_only=True)
class Fixed:
    """One value; it is not searched."""

    value: Value

    @property
    def size(self) -> int:
        return 1

    def contains(self, value: Value) -> bool:
        return _same(value, self.value)

    def members(self) -> tuple[Value, ...]:
        return (self.value,)

    def nearest(self, value: Value) -> Value:  # noqa: ARG002 - there is only one
        return self.value

    def suggest(self, trial: BaseTrial, path: str) -> Value:  # noqa: ARG002 - nothing to ask
        return self.value

    def params(self, path: str, value: Value) -> dict[str, Scalar]:  # noqa: ARG002
        return {}

    def distributions(self, path: str) -> dict[str, BaseDistribution]:  # noqa: ARG002
        return {}


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One of the listed values, which have no order for the sampler."""

    options: tuple[Value, ...]

    def __post_init__(self) -> None:
        if not self.options:
            raise ValueError("a choice needs at least one option")
        labels = [_typed_label(option) for option in self.options]
        if len(set(labels)) < len(labels):
            raise ValueError("a choice lists the same option twice")

    @property
    def size(self) -> int:
        return len(self.options)

    def contains(self, value: Value) -> bool:
        return any(_same(value, option) for option in self.options)

    def members(self) -> tuple[Value, ...]:
        return self.options

    def nearest(self, value: Value) -> Value:
        return _nearest(self.options, value)

    def suggest(self, trial: BaseTrial, path: str) -> Value:
        label = trial.suggest_categorical(path, self._labels())
        return self.options[self._labels().index(label)]

    def params(self, path: str, value: Value) -> dict[str, Scalar]:
        return {path: _category(value)}

    def distributions(self, path: str) -> dict[str, BaseDistribution]:
        return {path: CategoricalDistribution(self._labels())}

    def _labels(self) -> list[Scalar]:
        return [_category(option) for option in self.options]


@dataclass(frozen=True, kw_only=True)
class IntRange:
    """Whole numbers from `low` to `high`, both included."""

    low: int
    high: int
    log: bool = False
    step: int = 1

    def __post_init__(self) -> None:
        _check_range(self.low, self.high, log=self.log)
        if self.step < 1:
            raise ValueError(f"the step must be at least 1, got {self.step}")
        if self.log and self.step != 1:
            raise ValueError("a log range has no step")

    @property
    def size(self) -> int:
        return (self.high - self.low) // self.step + 1

    def contains(self, value: Value) -> bool:
        if not _is_int(value):
            return False
        return value in range(self.low, self.high + 1, self.step)

    def members(self) -> range:
        return range(self.low, self.high + 1, self.step)

    def nearest(self, value: Value) -> Value:
        if not _is_number(value):
            return None
        steps = round((float(value) - self.low) / self.step)  # type: ignore[arg-type]
        return self.low + self.step * min(max(steps, 0), self.size - 1)

    def suggest(self, trial: BaseTrial, path: str) -> Value:
        return trial.suggest_int(path, self.low, self.members()[-1], step=self.step, log=self.log)

    def params(self, path: str, value: Value) -> dict[str, Scalar]:
        return {path: value}  # type: ignore[dict-item]

    def distributions(self, path: str) -> dict[str, BaseDistribution]:
        high = self.members()[-1]
        return {path: IntDistribution(self.low, high, log=self.log, step=self.step)}


@dataclass(frozen=True, kw_only=True)
class FloatRange:
    """Any number from `low` to `high`, both included."""

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        _check_range(self.low, self.high, log=self.log)

    @property
    def size(self) -> None:
        """There are too many to count."""
        return

    @property
    def middle(self) -> float:
        """The middle of the range; of its logarithm on a log range. Rounded to be readable."""
        middle = math.sqrt(self.low * self.high) if self.log else (self.low + self.high) / 2
        return min(max(float(f"{middle:.3g}"), self.low), self.high)

    def points(self, num: int) -> tuple[float, ...]:
        """`num` evenly spaced members, the ends included (on a log range evenly in logarithm)."""
        if num == 1 or self.low == self.high:
            return (self.middle,)
        shares = [i / (num - 1) for i in range(num)]
        if self.log:
            inner = [self.low * (self.high / self.low) ** share for share in shares]
        else:
            inner = [self.low + (self.high - self.low) * share for share in shares]
        return (self.low, *(float(f"{x:.6g}") for x in inner[1:-1]), self.high)

    def contains(self, value: Value) -> bool:
        return _is_number(value) and self.low <= float(value) <= self.high  # type: ignore[arg-type]

    def nearest(self, value: Value) -> Value:
        if not _is_number(value):
            return None
        return min(max(float(value), self.low), self.high)  # type: ignore[arg-type]

    def suggest(self, trial: BaseTrial, path: str) -> Value:
        return trial.suggest_float(path, self.low, self.high, log=self.log)

    def params(self, path: str, value: Value) -> dict[str, Scalar]:
        return {path: float(value)}  # type: ignore[arg-type]

    def distributions(self, path: str) -> dict[str, BaseDistribution]:
        return {path: FloatDistribution(self.low, self.high, log=self.log)}


@dataclass(frozen=True, kw_only=True)
class Subset:
    """Any of the items together, at least `min_size` of them; their order means nothing."""

    items: tuple[Scalar, ...]
    min_size: int = 0

    def __post_init__(self) -> None:
        if not self.items:
            raise ValueError("a subset needs at least one item")
        if len(set(map(_typed_label, self.items))) < len(self.items):
            raise ValueError("a subset lists the same item twice")
        if not 0 <= self.min_size <= len(self.items):
            raise ValueError(f"min must be from 0 to {len(self.items)}, got {self.min_size}")

    @property
    def size(self) -> int:
        sizes = range(self.min_size, len(self.items) + 1)
        return sum(math.comb(len(self.items), k) for k in sizes)

    def contains(self, value: Value) -> bool:
        if not isinstance(value, tuple) or len(value) < self.min_size:
            return False
        return len(set(value)) == len(value) and all(item in self.items for item in value)

    def members(self) -> Iterator[tuple[Scalar, ...]]:
        """Every member, small ones first; there can be millions."""
        for k in range(self.min_size, len(self.items) + 1):
            yield from combinations(self.items, k)

    def ordered(self, items: Iterable[Scalar]) -> tuple[Scalar, ...]:
        """The same items in this domain's order, in which members are always written."""
        return tuple(sorted(items, key=self.items.index))

    def nearest(self, value: Value) -> Value:
        if not isinstance(value, tuple):
            return None
        chosen = self.ordered(item for item in set(value) if item in self.items)
        return chosen if self.contains(chosen) else None

    def suggest(self, trial: BaseTrial, path: str) -> Value:
        if self._is_categorical:
            members = {label(member): member for member in self.members()}
            return members[trial.suggest_categorical(path, list(members))]
        chosen: list[Scalar] = []
        for item, must in self._switches(chosen):
            name = _switch(path, item)
            if must or trial.suggest_categorical(name, [False, True]):
                chosen.append(item)
        return tuple(chosen)

    def params(self, path: str, value: Value) -> dict[str, Scalar]:
        wanted = value if isinstance(value, tuple) else ()
        if self._is_categorical:
            return {path: label(self.ordered(wanted))}
        params: dict[str, Scalar] = {}
        chosen: list[Scalar] = []
        for item, must in self._switches(chosen):
            if not must:
                params[_switch(path, item)] = item in wanted
            if item in wanted:
                chosen.append(item)
        return params

    def distributions(self, path: str) -> dict[str, BaseDistribution]:
        if self._is_categorical:
            return {path: CategoricalDistribution([label(member) for member in self.members()])}
        switch = CategoricalDistribution([False, True])
        return {_switch(path, item): switch for item in self.items}

    @property
    def _is_categorical(self) -> bool:
        return self.size <= MAX_SUBSET_CATEGORIES

    def _switches(self, chosen: list[Scalar]) -> Iterator[tuple[Scalar, bool]]:
        """Each item, and whether it must be chosen because `min_size` needs all that are left."""
        for i, item in enumerate(self.items):
            yield item, len(chosen) + len(self.items) - i <= self.min_size


Domain: TypeAlias = Fixed | Choice | IntRange | FloatRange | Subset


def as_domain(value: Domain | Value) -> Domain:
    """`value` itself if it is a domain, else `Fixed` at it."""
    return value if isinstance(value, Domain) else Fixed(value=value)


def label(value: Value) -> Scalar:
    """How a value is written in a table: a subset as `kv` or `1+3`, a scalar as it is."""
    if not isinstance(value, tuple):
        return value
    words = [str(item) for item in value]
    if not words:
        return NONE_CHOSEN
    letters = all(len(word) == 1 and word.isalpha() for word in words)
    return ("" if letters else "+").join(words)


def _category(value: Value) -> Scalar:
    return label(value)


def _typed_label(value: Value) -> tuple[str, Scalar]:
    # 1 == True in Python, but they are two options.
    return type(value).__name__, label(value)


def _switch(path: str, item: Scalar) -> str:
    return f"{path}[{item}]"


def _same(a: Value, b: Value) -> bool:
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and set(a) == set(b)
    if isinstance(a, bool) != isinstance(b, bool):
        return False
    return a == b


def _is_number(value: Value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_int(value: Value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_range(low: float, high: float, *, log: bool) -> None:
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("the ends of a range must be finite")
    if low > high:
        raise ValueError(f"the range runs from {low:g} down to {high:g}; write the smaller first")
    if log and low <= 0:
        raise ValueError(f"a log range must start above 0, got {low:g}")


def _nearest(options: tuple[Value, ...], value: Value) -> Value:
    """The option that equals `value`, else for a number the closest by ratio, else None."""
    for option in options:
        if _same(option, value):
            return option
    numbers = [option for option in options if _is_number(option)]
    if not numbers or not _is_number(value):
        return None
    return min(numbers, key=lambda option: _distance(float(option), float(value)))  # type: ignore[arg-type]


def _distance(a: float, b: float) -> float:
    return abs(math.log(a / b)) if a > 0 and b > 0 else abs(a - b)
