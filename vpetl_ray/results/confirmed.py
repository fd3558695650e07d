"""`confirmed.json`: what trials came to when they were trained again with other seeds."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vpetl_ray.errors import SearchError, SpecError
from vpetl_ray.results.atomic import write_json
from vpetl_ray.results.front import front_hypervolume, ppt
from vpetl_ray.results.front_facts import UNIT
from vpetl_ray.results.records import EpochRow, Scalar, TrialRecord, TrialState
from vpetl_ray.results.seed_files import Spread, spread_of
from vpetl_ray.results.standings import (
    RULE,
    Noise,
    Scores,
    Verdict,
    judge,
    mean_hypervolume,
    pooled_noise,
)

CONFIRMED_FILE = "confirmed.json"
_RESULTS = ("top1", "test_top1", "loss", "epochs", "seconds", "reason")


@dataclass(frozen=True, kw_only=True)
class Member:
    """A trial that is confirmed: what the search said of it, and its seeds."""

    id: str
    trainable_params: int
    config: Mapping[str, Scalar]
    """As a flat row."""
    name: str | None
    search_top1: float | None
    """On validation, with the search's own seed: what it was chosen by."""
    search_test_top1: float | None
    seeds: Mapping[int, TrialRecord] = field(default_factory=dict)
    """Of the seeds that have ended, by seed."""

    @property
    def done(self) -> list[TrialRecord]:
        """Trained and tested, by seed."""
        return [
            record
            for _, record in sorted(self.seeds.items())
            if record.state is TrialState.COMPLETE and record.test_top1 is not None
        ]

    @property
    def scores(self) -> Scores | None:
        """On the test split; None where no seed is done."""
        values = tuple(r.test_top1 for r in self.done if r.test_top1 is not None)
        if not values:
            return None
        return Scores(id=self.id, trainable_params=self.trainable_params, values=values)

    def spread(self, measure: str) -> Spread | None:
        """Mean and deviation over the seeds of `val_top1` or `test_top1`."""
        return spread_of(self.done, measure)


@dataclass(frozen=True, kw_only=True)
class Confirmation:
    """All that is known by now."""

    name: str
    backbone: str
    max_params: int
    """Right edge of the hypervolume."""
    search_seed: int
    overrides: tuple[str, ...]
    """Of the spec, as far as they change what is trained."""
    num_test_clips: int | None
    members: tuple[Member, ...]
    """Cheapest first."""

    @property
    def scores(self) -> list[Scores]:
        """Of the members that have any."""
        return [scores for member in self.members if (scores := member.scores)]

    @property
    def verdicts(self) -> dict[str, Verdict]:
        """By member."""
        return {verdict.id: verdict for verdict in judge(self.scores)}

    @property
    def noise(self) -> Noise:
        """From seed to seed."""
        return pooled_noise(self.scores)

    @property
    def hypervolume(self) -> float:
        """Of mean test accuracies."""
        return mean_hypervolume(self.scores, max_params=self.max_params)

    @property
    def search_hypervolume(self) -> float:
        """Of the same members' accuracies that the search told, on validation with one seed."""
        told = [member for member in self.members if member.scores and member.search_top1]
        return front_hypervolume(
            [member.trainable_params for member in told],
            [member.search_top1 or 0.0 for member in told],
            max_params=self.max_params,
        )

    def with_record(self, member_id: str, seed: int, record: TrialRecord) -> Confirmation:
        """Return the same with one more seed."""
        members = tuple(
            replace(member, seeds={**member.seeds, seed: record})
            if member.id == member_id
            else member
            for member in self.members
        )
        return replace(self, members=members)

    def to_dict(self) -> dict[str, Any]:
        """As the file has it."""
        verdicts, noise = self.verdicts, self.noise
        return {
            "name": self.name,
            "backbone": self.backbone,
            "search_seed": self.search_seed,
            "overrides": list(self.overrides),
            "num_test_clips": self.num_test_clips,
            "rule": RULE,
            "noise": {"pooled_sd": noise.sd, "degrees_of_freedom": noise.degrees},
            "hypervolume": self.hypervolume,
            "hypervolume_of_the_search": self.search_hypervolume,
            "hypervolume_reference": {
                "trainable_params": self.max_params,
                "top1": 0.0,
                "unit": UNIT,
            },
            "members": [_member_dict(m, verdicts.get(m.id)) for m in self.members],
        }


def _member_dict(member: Member, verdict: Verdict | None) -> dict[str, Any]:
    spreads = {name: member.spread(name) for name in ("val_top1", "test_top1")}
    test = spreads["test_top1"]
    return {
        "id": member.id,
        "name": member.name,
        "trainable_params": member.trainable_params,
        "search": {"top1": member.search_top1, "test_top1": member.search_test_top1},
        "mean": {name: spread.mean for name, spread in spreads.items() if spread},
        "sd": {name: spread.sd for name, spread in spreads.items() if spread},
        "ppt": ppt(test.mean, member.trainable_params) if test else None,
        "standing": verdict.standing.value if verdict else None,
        "beaten_by": verdict.beaten_by if verdict else None,
        "gap": verdict.gap if verdict else None,
        "noise": verdict.noise if verdict else None,
        "seeds": [
            {
                "seed": seed,
                "state": record.state.value,
                **{key: getattr(record, key) for key in _RESULTS},
                "curve": [dict(vars(row)) for row in record.curve],
            }
            for seed, record in sorted(member.seeds.items())
        ],
        "config": dict(member.config),
    }


def write_confirmed(directory: Path, confirmation: Confirmation) -> None:
    """Write `confirmed.json`, atomically.

    Raises:
        SearchError: the file cannot be written.
    """
    write_json(directory / CONFIRMED_FILE, confirmation.to_dict())


def take_up(directory: Path, new: Confirmation) -> Confirmation:
    """Put into `new` what an earlier run has kept; members that it had besides come along.

    Raises:
        SpecError: it was run with other settings.
        SearchError: the file is none of ours.
    """
    path = directory / CONFIRMED_FILE
    if not path.is_file():
        return new
    try:
        stored = json.loads(path.read_bytes())
        before = tuple(stored["overrides"])
        known = {member.id: member for member in map(_member_from, stored["members"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SearchError(f"{path}: cannot be read as {CONFIRMED_FILE}: {error!r}") from error
    if before != new.overrides:
        raise SpecError(
            f"--set: {path} was made with {' '.join(before) or 'no --set'}, now it is "
            f"{' '.join(new.overrides) or 'none'}; give the same, or move the file away"
        )
    members = {member.id: known.pop(member.id, member) for member in new.members} | known
    return replace(
        new, members=tuple(sorted(members.values(), key=lambda member: member.trainable_params))
    )


def _member_from(stored: Mapping[str, Any]) -> Member:
    seeds: dict[int, TrialRecord] = {}
    for number, entry in enumerate(stored["seeds"]):
        seeds[entry["seed"]] = TrialRecord(
            id=run_id(stored["id"], entry["seed"]),
            number=number,
            state=TrialState(entry["state"]),
            trainable_params=stored["trainable_params"],
            config={**stored["config"], "seed": entry["seed"]},
            curve=tuple(EpochRow(**row) for row in entry["curve"]),
            **{key: entry[key] for key in _RESULTS},
        )
    return Member(
        id=stored["id"],
        name=stored["name"],
        trainable_params=stored["trainable_params"],
        config=stored["config"],
        search_top1=stored["search"]["top1"],
        search_test_top1=stored["search"]["test_top1"],
        seeds=seeds,
    )


def run_id(member_id: str, seed: int) -> str:
    """Name a member's run with a seed: `t0007-seed3`."""
    return f"{member_id}-seed{seed}"


def spread_label(spread: Spread | None) -> str:
    """Write `83.1 ± 0.4`, or a dash."""
    if spread is None:
        return "-"
    return f"{spread.mean:.1f}" + ("" if spread.sd is None else f" ± {spread.sd:.1f}")


def optimism(members: Sequence[Member]) -> float | None:
    """How many points the search's own validation accuracy lies above the seeds' mean, on average.

    A front is made of the luckiest: its members' accuracies are higher than what they keep.
    """
    gaps = [
        member.search_top1 - spread.mean
        for member in members
        if member.search_top1 is not None and (spread := member.spread("val_top1"))
    ]
    return statistics.fmean(gaps) if gaps else None
