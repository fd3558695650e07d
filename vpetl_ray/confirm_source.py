"""What `confirm` is given: a search's folder, and which of its trials to train with which seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vpetl_ray.errors import SpecError
from vpetl_ray.inference.find import read_front_document
from vpetl_ray.models.arch import count_backbone
from vpetl_ray.results.confirmed import Confirmation, Member, run_id, take_up
from vpetl_ray.results.records import TrialRecord, TrialState, read_trials
from vpetl_ray.results_folder import SPEC_FILE
from vpetl_ray.spec.load import load_spec
from vpetl_ray.spec.search_spec import SearchSpec
from vpetl_ray.tuning.seed_runs import PlannedRun
from vpetl_ray.tuning.space import TrialConfig
from vpetl_ray.tuning.stored_values import values_from_columns

FRONT_FILE = "front.json"
TRIALS_FILE = "trials.parquet"
DEFAULT_SEEDS = 3
MAY_BE_SET = ("training.", "resources.", "tracking.")
"""Keys of the spec that `confirm` may change; the rest says which search this is."""
_FREE = ("resources.", "tracking.")
"""Of these, what changes nothing of what is trained."""


@dataclass(frozen=True, kw_only=True)
class ConfirmPlan:
    """What there is to do."""

    directory: Path
    spec: SearchSpec
    """The search's, with what was overridden."""
    known: Confirmation
    """With what an earlier run has done."""
    seeds: tuple[int, ...]
    wanted: tuple[str, ...]
    """Ids of the trials."""
    runs: tuple[PlannedRun, ...]
    """What is missing: seed by seed, the cheapest trial first."""


def plan_confirmation(
    directory: Path,
    *,
    trials: Sequence[str] = (),
    seeds: Sequence[int] = (),
    num_seeds: int | None = None,
    overrides: Sequence[str] = (),
) -> ConfirmPlan:
    """Find out what is to be trained.

    Args:
        directory: of a search.
        trials: ids; by default the front.
        seeds: given one by one.
        num_seeds: or only their number: those after the search's own, which the front was chosen
            with and for which it is therefore too good.
        overrides: `key.path=value` each.

    Raises:
        VpetlError: it is no search's folder, or something given does not go with it.
    """
    for name in (SPEC_FILE, FRONT_FILE, TRIALS_FILE):
        if not (directory / name).is_file():
            raise SpecError(f"{directory}: is no search's results folder, it has no {name}")
    for override in overrides:
        if not override.startswith(MAY_BE_SET):
            raise SpecError(
                f"--set {override}: confirm trains what the search found; only keys that begin "
                f"with {', '.join(MAY_BE_SET)} may be set"
            )
    spec = load_spec(directory / SPEC_FILE, list(overrides))
    if seeds and num_seeds is not None:
        raise SpecError("--seeds: goes without --seed; give either the seeds or their number")
    number = DEFAULT_SEEDS if num_seeds is None else num_seeds
    chosen = tuple(seeds) or tuple(spec.seed + 1 + i for i in range(number))
    twice = [seed for seed in chosen if chosen.count(seed) > 1]
    if twice:
        raise SpecError(f"--seed: {twice[0]} is given twice")
    document = read_front_document(directory)
    records = {record.id: record for record in read_trials(directory / TRIALS_FILE)}
    wanted = tuple(trials) or tuple(entry["id"] for entry in document["front"])
    if not wanted:
        raise SpecError(f"{directory / FRONT_FILE}: the front is empty")
    new = Confirmation(
        name=str(document.get("name", directory.name)),
        backbone=spec.arch.name,
        max_params=count_backbone(spec.arch),
        search_seed=spec.seed,
        overrides=tuple(sorted(o for o in overrides if not o.startswith(_FREE))),
        num_test_clips=None,
        members=tuple(
            sorted(
                (_member(_complete(records, trial, directory)) for trial in dict.fromkeys(wanted)),
                key=lambda member: member.trainable_params,
            )
        ),
    )
    known = take_up(directory, new)
    return ConfirmPlan(
        directory=directory,
        spec=spec,
        known=known,
        seeds=chosen,
        wanted=wanted,
        runs=tuple(_missing(known, spec, chosen, wanted)),
    )


def _complete(records: Mapping[str, TrialRecord], trial: str, directory: Path) -> TrialRecord:
    record = records.get(trial)
    if record is None:
        has = f"; it has {min(records)} to {max(records)}" if records else ""
        raise SpecError(f"--trials: there is no trial {trial} in {directory}{has}")
    if record.state is not TrialState.COMPLETE:
        raise SpecError(f"--trials: {trial} is {record.state.value}, only complete ones can be")
    return record


def _member(record: TrialRecord) -> Member:
    return Member(
        id=record.id,
        name=record.name,
        trainable_params=record.trainable_params,
        config={path: value for path, value in record.config.items() if value is not None},
        search_top1=record.top1,
        search_test_top1=record.test_top1,
    )


def _missing(
    known: Confirmation, spec: SearchSpec, seeds: Sequence[int], wanted: Sequence[str]
) -> list[PlannedRun]:
    runs: list[PlannedRun] = []
    members = [member for member in known.members if member.id in wanted]
    configs = {member.id: _config(member, spec) for member in members}
    for seed in seeds:  # so that an interruption leaves every member with the same seeds
        for member in members:
            if seed in {record.config["seed"] for record in member.done}:
                continue
            record = TrialRecord(
                id=run_id(member.id, seed),
                number=len(runs),
                state=TrialState.COMPLETE,
                trainable_params=member.trainable_params,
                config={**member.config, "seed": seed},
                name=member.name,
            )
            runs.append(PlannedRun(config=configs[member.id], seed=seed, record=record))
    return runs


def _config(member: Member, spec: SearchSpec) -> TrialConfig:
    # The number of classes matters to counts alone, and is not known before the data is opened.
    space = spec.space(spec.data.num_classes or 2)
    values, missing = values_from_columns(space, member.config)
    if missing:
        raise SpecError(f"{member.id}: its row says nothing of {', '.join(missing)}")
    return space.build(values)
