"""Which member of a front somebody wants, said in a wish or two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vpetl_ray.results.front import knee
from vpetl_ray.results.labels import count_label


@dataclass(frozen=True, kw_only=True)
class Member:
    """Of a front, whether a folder or MLflow has it."""

    trial: str
    trainable_params: int
    top1: float
    """Percent on validation."""
    test_top1: float | None
    config: str
    """In few words."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A wish. With a limit on parameters the most accurate, else the cheapest; or the knee."""

    max_params: int | None = None
    min_top1: float | None = None
    """Percent on validation."""
    knee: bool = False
    """Of the members that satisfy the limits."""

    def __str__(self) -> str:
        words = []
        if self.max_params is not None:
            words.append(f"at most {self.max_params:,} parameters")
        if self.min_top1 is not None:
            words.append(f"at least {self.min_top1:g}% top-1")
        return " and ".join(words)

    def nearest(self, members: Sequence[Member]) -> str:
        """Say what there is instead."""
        smallest = min(members, key=lambda member: member.trainable_params)
        best = max(members, key=lambda member: member.top1)
        return (
            f"it goes from {smallest.top1:.1f}% with {count_label(smallest.trainable_params)} to "
            f"{best.top1:.1f}% with {count_label(best.trainable_params)}"
        )


def choose(members: Sequence[Member], wanted: Wanted) -> Member | None:
    """Give the member that is wanted; None if there is none."""
    fitting = [
        member
        for member in members
        if (wanted.max_params is None or member.trainable_params <= wanted.max_params)
        and (wanted.min_top1 is None or member.top1 >= wanted.min_top1)
    ]
    if not fitting:
        return None
    if wanted.knee:
        params, top1 = zip(*((m.trainable_params, m.top1) for m in fitting), strict=True)
        return fitting[knee(params, top1)]
    if wanted.max_params is not None:
        return max(fitting, key=lambda member: (member.top1, -member.trainable_params))
    return min(fitting, key=lambda member: (member.trainable_params, -member.top1))
