"""Ways to choose items from groups, added up without listing them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Sums(Generic[T]):
    """How numbers of configs, or histograms of what they cost, are put together."""

    nothing: T
    """Of one config that has nothing."""
    both: Callable[[T, T], T]
    """Of configs that consist of one of each."""
    either: Callable[[T, T], T]
    """Of the configs of both."""
    times: Callable[[T, int], T]
    """Of so many configs in place of each."""

    def put(self, into: dict[int, T], key: int, value: T) -> None:
        """Put it in, beside what is there."""
        into[key] = self.either(into[key], value) if key in into else value


def choose(groups: Sequence[Mapping[int, T]], at_least: int, sums: Sums[T]) -> T | None:
    """Choose `at_least` items or more from groups; None if there are not so many.

    Args:
        groups: how many items are chosen from a group to what that gives, in all its ways.
        at_least: at least 1.
        sums: how that is put together.
    """
    states = {0: sums.nothing}
    for group in groups:
        after = dict(states)
        for num, state in states.items():
            gives: dict[int, T] = {}
            for more, given in group.items():
                sums.put(gives, min(num + more, at_least), given)
            for total, given in gives.items():
                sums.put(after, total, sums.both(state, given))
        states = after
    return states.get(at_least)
