"""Accuracy by position: the trials whose method acts in a stage, and there on a target."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from vpetl_ray.models.arch import Arch
from vpetl_ray.results.choices import items_of
from vpetl_ray.results.labels import has_method
from vpetl_ray.results.records import Scalar, TrialRecord

_TARGET_FIELDS = ("targets", "kinds")


@dataclass(frozen=True, kw_only=True)
class PositionCell:
    """The trials that have a method at a stage and target, whatever else they have."""

    place: str
    """Method, and target where the method has any: `patt k`, `adapter`."""
    stage: int
    """From 1."""
    num_trials: int
    best: float
    """Percent."""
    mean: float


def position_table(
    records: Sequence[TrialRecord], top1: Sequence[float], arch: Arch
) -> list[PositionCell]:
    """Gather accuracies by place and stage. A trial counts in every cell that it acts in.

    Args:
        records: with accuracies that can be compared.
        top1: percent, one a record.
        arch: the backbone, for its stages and the blocks in them.

    Returns:
        The cells with a trial in them, place by place, stages ascending.
    """
    found: dict[tuple[str, int], list[float]] = defaultdict(list)
    places: dict[str, None] = {}
    for record, accuracy in zip(records, top1, strict=True):
        for place, stage in _positions(record.config, arch):
            places.setdefault(place)
            found[place, stage].append(accuracy)
    return [
        PositionCell(
            place=place,
            stage=stage,
            num_trials=len(values),
            best=max(values),
            mean=fmean(values),
        )
        for place in sorted(places, key=lambda name: (name.split()[0], _rank(name)))
        for stage in range(1, arch.num_stages + 1)
        if (values := found.get((place, stage)))
    ]


def _rank(place: str) -> tuple[int, str]:
    target = place.partition(" ")[2]
    return ("qkv".find(target) if target else -1), target


def _positions(config: Mapping[str, Scalar | None], arch: Arch) -> Iterator[tuple[str, int]]:
    names = (path.split(".")[1] for path in config if path.startswith("petl."))
    for method in dict.fromkeys(names):
        if method == "classifier" or not has_method(config, method):
            continue
        fields = {
            path.removeprefix(f"petl.{method}."): value
            for path, value in config.items()
            if path.startswith(f"petl.{method}.") and value is not None
        }
        targets = [
            f"{method} {item}"
            for name in _TARGET_FIELDS
            for item in sorted(items_of(fields.get(name), name) or ())
        ]
        for stage in _stages(fields, arch):
            for place in targets or [method]:
                yield place, stage


def _stages(fields: Mapping[str, Scalar], arch: Arch) -> list[int]:
    """In which stages a method that is on acts; in all where nothing says otherwise."""
    stages = set(range(1, arch.num_stages + 1))
    if "blocks" in fields:
        blocks = items_of(fields["blocks"], "blocks") or set()
        stages &= {site.stage for site in arch.blocks() if str(site.index + 1) in blocks}
    if "stages" in fields:
        stages &= {int(item) for item in items_of(fields["stages"], "stages") or set()}
    own = {int(name.partition(".stage")[2]) for name in fields if ".stage" in name}
    return sorted(stages & own if own else stages)
