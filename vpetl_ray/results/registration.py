"""What MLflow's registry is told at a search's end. Knows no MLflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vpetl_ray.results.front import knee_of
from vpetl_ray.results.records import TrialRecord

ALIASES = ("best", "knee", "smallest")
"""Set by the search; others are the user's."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A front member that becomes a version of the search's registered model."""

    trial: str
    adapter: Path
    card: str
    """Markdown."""
    tags: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Registration:
    """A front, as a registered model."""

    name: str
    members: Sequence[Candidate]
    aliases: Mapping[str, str]
    """To the trial's id."""


def roles_of(front: Sequence[TrialRecord]) -> dict[str, str]:
    """Say which trials are the best, the knee and the smallest; nothing of an empty front."""
    bend = knee_of(front)
    if bend is None:
        return {}
    best = max(front, key=lambda record: record.top1 or 0.0)
    return {"best": best.id, "knee": bend.id, "smallest": front[0].id}
