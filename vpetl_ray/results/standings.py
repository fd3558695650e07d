"""Which members of a front still belong to it, once each was trained with several seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean

from vpetl_ray.results.front import front_hypervolume

LEVEL = 0.05
"""How often a member that is as good as the others may be marked by chance."""
RULE = (
    "behind: a member with as many or fewer parameters has a higher mean test accuracy, by more "
    "than the noise. The noise is that of a one-sided t-test at 5%, divided by the number of such "
    "members (Bonferroni), with one standard deviation over seeds pooled from all members; it "
    "does not contain the test split's own sampling error, which is common to all members."
)


class Standing(StrEnum):
    """What the seeds say about a member of a front."""

    CONFIRMED = "confirmed"
    """No member that is as cheap or cheaper has a higher mean."""
    LEVEL = "within noise"
    """One has, but by no more than the noise."""
    BEHIND = "behind"
    """One has, by more than the noise."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """A member's accuracies on the test split, one a seed."""

    id: str
    trainable_params: int
    values: tuple[float, ...]
    """Percent; at least one."""

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return fmean(self.values)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Where a member stands."""

    id: str
    standing: Standing
    beaten_by: str | None = None
    """The as cheap or cheaper member with the highest mean, where that is higher."""
    gap: float = 0.0
    """By how many points."""
    noise: float | None = None
    """Points that the gap must exceed; None where there is a single seed of each."""


@dataclass(frozen=True, kw_only=True)
class Noise:
    """How much a member's accuracy differs from seed to seed."""

    sd: float | None
    """Pooled over the members, in points; None where no member has two seeds."""
    degrees: int
    """Of freedom."""


def pooled_noise(members: Sequence[Scores]) -> Noise:
    """Pool the variance over seeds: with three seeds a member, its own is hardly known at all.

    (Of eight equal members with three seeds each, Welch's test, which uses each member's own,
    needs gaps of 3.4 deviations where this one needs 2.2.)
    """
    degrees = sum(len(member.values) - 1 for member in members)
    if degrees == 0:
        return Noise(sd=None, degrees=0)
    squares = sum((value - m.mean) ** 2 for m in members for value in m.values)
    return Noise(sd=math.sqrt(squares / degrees), degrees=degrees)


def judge(members: Sequence[Scores]) -> list[Verdict]:
    """Say of each member where it stands, in the order given; see `RULE`."""
    noise = pooled_noise(members)
    return [_verdict(member, members, noise) for member in members]


def _verdict(member: Scores, members: Sequence[Scores], noise: Noise) -> Verdict:
    rivals = [
        other
        for other in members
        if other.id != member.id and other.trainable_params <= member.trainable_params
    ]
    best = max(rivals, key=lambda other: other.mean, default=None)
    if best is None or best.mean <= member.mean:
        return Verdict(id=member.id, standing=Standing.CONFIRMED)
    gap = best.mean - member.mean
    needed = _needed(member, best, noise, num_rivals=len(rivals))
    is_behind = needed is not None and gap > needed
    return Verdict(
        id=member.id,
        standing=Standing.BEHIND if is_behind else Standing.LEVEL,
        beaten_by=best.id,
        gap=gap,
        noise=needed,
    )


def _needed(member: Scores, rival: Scores, noise: Noise, *, num_rivals: int) -> float | None:
    from scipy.stats import t  # noqa: PLC0415 - takes a second

    if noise.sd is None:
        return None
    error = noise.sd * math.sqrt(1 / len(member.values) + 1 / len(rival.values))
    return float(t.ppf(1.0 - LEVEL / num_rivals, noise.degrees)) * error


def mean_hypervolume(members: Sequence[Scores], *, max_params: float) -> float:
    """Hypervolume of the members' mean test accuracies, as `front.front_hypervolume` has it."""
    return front_hypervolume(
        [member.trainable_params for member in members],
        [member.mean for member in members],
        max_params=max_params,
    )
