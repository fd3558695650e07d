"""What one value of a search space may be: fixed, or one of several.

A domain knows its members, how Optuna is asked for one of them, and how one is written in a table.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
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


class Domain(ABC):
    """What the five kinds of domain have in common."""

    @property
    def size(self) -> int | None:
        """Number of members; None where they are continuous."""
        return self._size()

    @property
    def num_structures(self) -> int:
        """Number of members, where a continuous range counts as one."""
        return self.size or 1

    def contains(self, value: Value) -> bool:
        """Whether `value` is a member."""
        return self._contains(value)

    def nearest(self, value: Value) -> Value:
        """Return the member closest to `value`, None where no member is like it."""
        return self._nearest(value)

    def members(self) -> Iterable[Value]:
        """Return every member; a TypeError where they are continuous."""
        members = self._members()
        if members is None:
            raise TypeError(f"{self} is continuous")
        return members

    def suggest(self, trial: BaseTrial, path: str) -> Value:
        """Ask an Optuna trial for a member."""
        return self._suggest(trial, path)

    def params(self, path: str, value: Value) -> dict[str, Scalar]:
        """Return the Optuna params that make `suggest` return `value`."""
        return self._params(path, value)

    def distributions(self, path: str) -> dict[str, BaseDistribution]:
        """Return the Optuna params that `suggest` may ask for."""
        return self._distributions(path)

    @abstractmethod
    def _size(self) -> int | None: ...

    @abstractmethod
    def _contains(self, value: Value) -> bool: ...

    @abstractmethod
    def _nearest(self, value: Value) -> Value: ...

    @abstractmethod
    def _members(self) -> Iterable[Value] | None: ...

    @abstractmethod
    def _suggest(self, trial: BaseTrial, path: str) -> Value: ...

    @abstractmethod
    def _params(self, path: str, value: Value) -> dict[str, Scalar]: ...

    @abstractmethod
    def _distributions(self, path: str) -> dict[str, BaseDistribution]: ...


@dataclass(frozen=True, kw_only=True)
class Fixed(Domain):
    """One value; it is not searched."""

    value: Value

    def _size(self) -> int:
        return 1

    def _contains(self, value: Value) -> bool:
        return _same(value, self.value)

    def _members(self) -> tuple[Value, ...]:
        return (self.value,)

    def _nearest(self, value: Value) -> Value:
        return self.value

    def _suggest(self, trial: BaseTrial, path: str) -> Value:
        return self.value

    def _params(self, path: str, value: Value) -> dict[str, Scalar]:
        return {}

    def _distributions(self, path: str) -> dict[str, BaseDistribution]:
        return {}


@dataclass(frozen=True, kw_only=True)
class Choice(Domain):
    """One of the listed values, which have no order for the sampler."""

    options: tuple[Value, ...]

    def __post_init__(self) -> None:
        if not self.options:
            raise ValueError("a choice needs at least one option")
        labels = [_typed_label(option) for option in self.options]
        if len(set(labels)) < len(labels):
            raise ValueError("a choice lists the same option twice")

    def _size(self) -> int:
        return len(self.options)

    def _contains(self, value: Value) -> bool:
        return any(_same(value, option) for option in self.options)

    def _members(self) -> tuple[Value, ...]:
        return self.options

    def _nearest(self, value: Value) -> Value:
        return _nearest(self.options, value)

    def _suggest(self, trial: BaseTrial, path: str) -> Value:
        chosen = trial.suggest_categorical(path, self._labels())
        return self.options[self._labels().index(chosen)]

    def _params(self, path: str, value: Value) -> dict[str, Scalar]:
        return {path: label(value)}

    def _distributions(self, path: str) -> dict[str, BaseDistribution]:
        return {path: CategoricalDistribution(self._labels())}

    def _labels(self) -> list[Scalar]:
        return [label(option) for option in self.options]


@dataclass(frozen=True, kw_only=True)
class IntRange(Domain):
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

    def _size(self) -> int:
        return (self.high - self.low) // self.step + 1

    def _contains(self, value: Value) -> bool:
        if not _is_int(value):
            return False
        return value in range(self.low, self.high + 1, self.step)

    def _members(self) -> range:
        return range(self.low, self.high + 1, self.step)

    def _nearest(self, value: Value) -> Value:
        if not _is_number(value):
            return None
        steps = round((float(value) - self.low) / self.step)  # type: ignore[arg-type]
        return self.low + self.step * min(max(steps, 0), self._size() - 1)

    def _suggest(self, trial: BaseTrial, path: str) -> Value:
        return trial.suggest_int(path, self.low, self._members()[-1], step=self.step, log=self.log)

    def _params(self, path: str, value: Value) -> dict[str, Scalar]:
        return {path: value}  # type: ignore[dict-item]

    def _distributions(self, path: str) -> dict[str, BaseDistribution]:
        high = self._members()[-1]
        return {path: IntDistribution(self.low, high, log=self.log, step=self.step)}


@dataclass(frozen=True, kw_only=True)
class FloatRange(Domain):
    """Any number from `low` to `high`, both included."""

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        _check_range(self.low, self.high, log=self.log)

    def _size(self) -> None:
        return

    @property
    def middle(self) -> float:
        """The middle of the range; of its logarithm on a log range. Rounded to be readable."""
        middle = math.sqrt(self.low * self.high) if self.log else (self.low + self.high) / 2
        return min(max(float(f"{middle:.3g}"), self.low), self.high)

    def points(self, num: int) -> tuple[float, ...]:
        """Return `num` evenly spaced members (in logarithm on a log range), the ends included."""
        if num == 1 or self.low == self.high:
            return (self.middle,)
        shares = [i / (num - 1) for i in range(num)]
        if self.log:
            inner = [self.low * (self.high / self.low) ** share for share in shares]
        else:
            inner = [self.low + (self.high - self.low) * share for share in shares]
        return (self.low, *(float(f"{x:.6g}") for x in inner[1:-1]), self.high)

    def _members(self) -> None:
        return

    def _contains(self, value: Value) -> bool:
        if not _is_number(value):
            return False
        return self.low <= float(value) <= self.high  # type: ignore[arg-type]

    def _nearest(self, value: Value) -> Value:
        if not _is_number(value):
            return None
        return min(max(float(value), self.low), self.high)  # type: ignore[arg-type]

    def _suggest(self, trial: BaseTrial, path: str) -> Value:
        return trial.suggest_float(path, self.low, self.high, log=self.log)

    def _params(self, path: str, value: Value) -> dict[str, Scalar]:
        return {path: float(value)}  # type: ignore[arg-type]

    def _distributions(self, path: str) -> dict[str, BaseDistribution]:
        return {path: FloatDistribution(self.low, self.high, log=self.log)}


@dataclass(frozen=True, kw_only=True)
class Subset(Domain):
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

    def _size(self) -> int:
        sizes = range(self.min_size, len(self.items) + 1)
        return sum(math.comb(len(self.items), k) for k in sizes)

    def _contains(self, value: Value) -> bool:
        if not isinstance(value, tuple) or len(value) < self.min_size:
            return False
        return len(set(value)) == len(value) and all(item in self.items for item in value)

    def _members(self) -> Iterator[tuple[Scalar, ...]]:
        # Small ones first; there can be millions.
        for k in range(self.min_size, len(self.items) + 1):
            yield from combinations(self.items, k)

    def ordered(self, items: Iterable[Scalar]) -> tuple[Scalar, ...]:
        """Return the same items in this domain's order, in which members are always written."""
        return tuple(sorted(items, key=self.items.index))

    def _nearest(self, value: Value) -> Value:
        if not isinstance(value, tuple):
            return None
        chosen = self.ordered(item for item in set(value) if item in self.items)
        return chosen if self.contains(chosen) else None

    def _suggest(self, trial: BaseTrial, path: str) -> Value:
        if self._is_categorical:
            members = {label(member): member for member in self._members()}
            return members[trial.suggest_categorical(path, list(members))]
        chosen: list[Scalar] = []
        for item, must in self._switches(chosen):
            name = _switch(path, item)
            if must or trial.suggest_categorical(name, [False, True]):
                chosen.append(item)
        return tuple(chosen)

    def _params(self, path: str, value: Value) -> dict[str, Scalar]:
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

    def _distributions(self, path: str) -> dict[str, BaseDistribution]:
        if self._is_categorical:
            return {path: CategoricalDistribution([label(member) for member in self._members()])}
        switch = CategoricalDistribution([False, True])
        return {_switch(path, item): switch for item in self.items}

    @property
    def _is_categorical(self) -> bool:
        return self._size() <= MAX_SUBSET_CATEGORIES

    def _switches(self, chosen: list[Scalar]) -> Iterator[tuple[Scalar, bool]]:
        """Each item, and whether it must be chosen because `min_size` needs all that are left."""
        for i, item in enumerate(self.items):
            yield item, len(chosen) + len(self.items) - i <= self.min_size


def as_domain(value: Domain | Value) -> Domain:
    """Return `value` itself if it is a domain, else `Fixed` at it."""
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
    """Return the option that equals `value`, else for a number the closest by ratio, else None."""
    for option in options:
        if _same(option, value):
            return option
    numbers = [option for option in options if _is_number(option)]
    if not numbers or not _is_number(value):
        return None
    return min(numbers, key=lambda option: _distance(float(option), float(value)))  # type: ignore[arg-type]


def _distance(a: float, b: float) -> float:
    return abs(math.log(a / b)) if a > 0 and b > 0 else abs(a - b)
