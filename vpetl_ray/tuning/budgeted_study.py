"""A study that never hands out a config over the budget, nor one it has handed out before.

Its file (see `study_file`) is the one truth about a search: a config is written before it is
trained and its record when it is finished, so a search that was cut off goes on from the file
alone. The sampler lives in memory beside it (see `samplers`), and is taught from the file again.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from optuna.trial import FixedTrial

from vpetl_ray.errors import SearchError
from vpetl_ray.results.objectives import TRAIN_SECONDS
from vpetl_ray.results.records import EpochRow, TrialRecord, TrialState
from vpetl_ray.tuning.beliefs import Belief, Beliefs
from vpetl_ray.tuning.drawing import draw, repair
from vpetl_ray.tuning.halving import Worth
from vpetl_ray.tuning.method_space import Values
from vpetl_ray.tuning.samplers import QUEUED, ConfigSampler, Told, make_sampler
from vpetl_ray.tuning.space import NothingToTrain, Space, TrialConfig
from vpetl_ray.tuning.space_size import summarise
from vpetl_ray.tuning.study_file import StoredTrial, StudyFile

MAX_REPEATS = 5
"""Proposals in a row that were known already, after which one is drawn without the sampler."""
MAX_LISTED = 20_000
"""Largest space whose configs are listed."""

OverBudget = Literal["repair", "reject"]
"""What becomes of a proposal over the budget: it is shrunk into it, or another one is asked for."""
OVER_BUDGET: tuple[OverBudget, ...] = get_args(OverBudget)

CountCosts = Callable[[str, TrialConfig], Mapping[str, float]]
"""What is counted of a trial, by its id and config, beside its trainable parameters."""
MakeConfigSampler = Callable[[int, Beliefs], ConfigSampler]


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A config within the budget, written down and ready to be trained."""

    number: int
    config: TrialConfig
    trainable_params: int
    name: str | None = None
    curve: tuple[EpochRow, ...] = ()
    """Of a trial that an earlier run had begun: up to the last rung that it came to."""
    costs: Mapping[str, float] = field(default_factory=dict)
    """Further objectives that are known already."""

    @property
    def id(self) -> str:
        """Its name as a trial."""
        return trial_id(self.number)


def trial_id(number: int) -> str:
    """`t0007`: the name of a trial in files, tables and MLflow."""
    return f"t{number:04d}"


def number_of(trial_id: str) -> int:
    """The number that a name has."""
    return int(trial_id.removeprefix("t"))


class BudgetedStudy:
    """Ask for proposals, tell their records.

    Args:
        path: the study's SQLite file; one process writes it. None: in memory, for simulations.
        space: what is searched.
        budget: most trainable parameters a proposal may have.
        sampler: a name of `SAMPLERS`, or how one is made from a seed and what is believed.
        seed: of the sampler.
        start: named values that are proposed first, in this order.
        on_record: called with every record as it becomes final.
        max_rejects: proposals in a row that may be infeasible or repeated; after twice as many
            (the second half drawn at random) the space counts as exhausted.
        over_budget: what becomes of a proposal over the budget.
        told: what Optuna's samplers are told of trials that were not trained to their end.
        costs: objectives beside top-1 and parameters, by name.
        count_costs: gives those of them that are known before a trial is trained.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        space: Space,
        budget: int,
        sampler: str | MakeConfigSampler,
        seed: int,
        start: Iterable[tuple[str | None, Mapping[str, Any]]],
        on_record: Callable[[TrialRecord], None],
        max_rejects: int = 500,
        over_budget: OverBudget = "repair",
        told: Told = "extrapolated",
        costs: Sequence[str] = (),
        count_costs: CountCosts = lambda trial_id, config: {},
    ) -> None:
        self._space = space
        self._budget = budget
        self._max_rejects = max_rejects
        self._repairs = over_budget == "repair"
        self._on_record = on_record
        self._numbers_by_key: dict[str, int] = {}
        self._records: dict[int, TrialRecord] = {}
        self._unfinished: list[Proposal] = []
        self._unseen: list[Values] | None = None
        self.costs = tuple(costs)
        """Objectives beside top-1 and parameters, by name."""
        self._count_costs = count_costs
        self._file = StudyFile(path, self.costs)
        self._seed = seed
        self.beliefs = Beliefs()
        """What is known and predicted of the trials that were handed out."""
        self._has_queue_alone = sampler in QUEUED
        self._sampler: ConfigSampler = (
            make_sampler(
                sampler,
                space=space,
                budget=budget,
                seed=seed,
                num_before=len(self._file),
                beliefs=self.beliefs,
                told=told,
                costs=self.costs,
            )
            if isinstance(sampler, str)
            else sampler(seed + len(self._file), self.beliefs)
        )
        rows = self._file.read()
        for stored in rows:
            self._recall(stored)
        if not rows:
            grid = space.grid() if sampler == "grid" else ()
            # A driver may have been killed while it wrote the queue.
            queue = [*start, *((None, values) for values in grid)]
            for name, values in queue[len(self._file) :]:
                self._file.enqueue(space.params_for(values), name)

    @property
    def search_id(self) -> str:
        """Names this search for good, through every interruption."""
        return self._file.search_id

    @property
    def columns(self) -> tuple[str, ...]:
        """Every path of the space: the config columns of a table of trials."""
        return self._space.columns

    @property
    def records(self) -> list[TrialRecord]:
        """Every finished or infeasible trial so far, by number."""
        return [self._records[number] for number in sorted(self._records)]

    @property
    def num_trained(self) -> int:
        """Trials that were trained, whatever came of them."""
        return sum(r.state is not TrialState.INFEASIBLE for r in self._records.values())

    def ask(self) -> Proposal | None:
        """The next config to train, or None where the space has nothing new within the budget."""
        if self._unfinished:
            return self._unfinished.pop(0)
        proposal = self._next_queued()
        if proposal is None and not self._has_queue_alone:
            proposal = self._next_sampled() or self._next_unseen()
        return proposal

    def observe(
        self, number: int, curve: Sequence[EpochRow], costs: Mapping[str, float] | None = None
    ) -> None:
        """Teach the sampler how far a trial has come that may be trained on."""
        self._learn(number, curve, None, costs or {})

    def keep_curve(
        self, number: int, curve: Sequence[EpochRow], costs: Mapping[str, float] | None = None
    ) -> None:
        """Keep how far a trial has come, for a search that is cut off."""
        self._file.write_curve(number, curve, costs or {})

    def worth(self, numbers: Sequence[int], *, is_new_possible: bool) -> Worth | None:
        """What it is worth to train trials on that wait, if the sampler can tell.

        Args:
            numbers: of those that wait.
            is_new_possible: whether a new trial may be begun in their place.
        """
        waiting = [self.beliefs[number] for number in numbers]
        return self._sampler.worth(waiting, is_new_possible=is_new_possible)

    def tell(self, record: TrialRecord) -> None:
        """Keep `record` and teach the sampler what it says."""
        if record.state is TrialState.INFEASIBLE:
            raise SearchError(f"{record.id} is infeasible and cannot have been trained")
        self._records[record.number] = record
        self._file.close(record)
        self._learn(record.number, record.curve, record, record.costs)
        self._on_record(record)

    def columns_of(self, proposal: Proposal) -> dict[str, Any]:
        """The proposal's config as a flat row, one entry a column of `trials.parquet`."""
        return self._space.config_columns(proposal.config.values)

    def config_of(self, number: int) -> TrialConfig:
        """The config of a trial that was handed out, by its number."""
        return self._build(self._file.values_of(number))

    def set_test_top1(self, number: int, test_top1: float) -> TrialRecord:
        """Keep the test accuracy of a finished trial."""
        self._file.write_test_top1(number, test_top1)
        self._records[number] = replace(self._records[number], test_top1=test_top1)
        return self._records[number]

    def _next_queued(self) -> Proposal | None:
        """Take the next config of the queue that is new and within the budget."""
        while (taken := self._file.take()) is not None:
            trial, name = taken
            try:
                config = self._space.build(self._space.suggest(trial))
            except NothingToTrain as error:
                self._reject(trial.number, None, 0, reason=str(error), name=name)
                continue
            params = self._space.count(config)
            self._file.note_values(trial, self._space.to_json(config.values), self._excess(params))
            if self._numbers_by_key.setdefault(config.key, trial.number) != trial.number:
                self._file.drop(trial.number)
            elif params > self._budget:
                self._reject(trial.number, config, params, name=name)
            else:
                proposal = self._proposal(trial.number, config, params, name=name)
                self._hand_out(proposal, is_own=False)
                return proposal
        return None

    def _next_sampled(self) -> Proposal | None:
        """Ask the sampler until it proposes something new within the budget."""
        num_repeats = 0
        for _ in range(self._max_rejects):
            values = self._sampler.propose()
            if values is None:
                return None
            fitted = self._fit(values)
            if fitted is None:
                continue
            config, params, is_own = fitted
            if config.key not in self._numbers_by_key:
                return self._write(config, params, is_own=is_own)
            if is_own:
                self._sampler.refuse(params, 1.0)
            num_repeats += 1
            if num_repeats >= MAX_REPEATS:
                return None
        return None

    def _fit(self, values: Values) -> tuple[TrialConfig, int, bool] | None:
        """Build a proposal within the budget, shrunk if need be; None if it comes to nothing.

        Returns:
            The config, its parameters, and whether it is just what was proposed.
        """
        try:
            config = self._space.build(values)
        except NothingToTrain as error:
            self._sampler.refuse(0, 1.0)
            self._reject(self._add(None, 0), None, 0, reason=str(error))
            return None
        params = self._space.count(config)
        if params <= self._budget:
            return config, params, True
        self._sampler.refuse(params, self._excess(params))
        repaired = repair(self._space, config.values, self._budget) if self._repairs else None
        if repaired is not None:
            return repaired, self._space.count(repaired), False
        if config.key not in self._numbers_by_key:
            self._numbers_by_key[config.key] = number = self._add(config.values, params)
            self._reject(number, config, params)
        return None

    def _next_unseen(self) -> Proposal | None:
        """Draw a config at random where the sampler only repeats itself.

        It does so for the cheapest config, which nothing can dominate, and towards the end of a
        small space; of such a space what is left is listed, so that its end is known exactly.
        """
        if self._unseen is None:
            size = summarise(self._space).size
            self._unseen = list(self._space.grid()) if size and size <= MAX_LISTED else []
            random.Random(self._seed).shuffle(self._unseen)
            self._is_listed = bool(self._unseen)
        # By the number of the trial, so that a search that goes on draws as it would have.
        rng = random.Random(f"{self._seed} {len(self.beliefs)}")
        for _ in range(len(self._unseen) if self._is_listed else self._max_rejects):
            values = self._unseen.pop() if self._is_listed else draw(self._space, rng)
            try:
                config = self._space.build(values)
            except NothingToTrain:
                continue
            params = self._space.count(config)
            if params <= self._budget and config.key not in self._numbers_by_key:
                return self._write(config, params, is_own=False)
        return None

    def _write(self, config: TrialConfig, params: int, *, is_own: bool) -> Proposal:
        """Write a config down before it is trained."""
        number = self._add(config.values, params)
        self._numbers_by_key[config.key] = number
        proposal = self._proposal(number, config, params)
        self._hand_out(proposal, is_own=is_own)
        return proposal

    def _proposal(
        self, number: int, config: TrialConfig, params: int, name: str | None = None
    ) -> Proposal:
        return Proposal(
            number=number,
            config=config,
            trainable_params=params,
            name=name,
            costs=self._count_costs(trial_id(number), config),
        )

    def _add(self, values: Values | None, params: int) -> int:
        stored = None if values is None else self._space.to_json(values)
        return self._file.add(stored, self._excess(params))

    def _excess(self, params: int) -> float:
        # Relative, so that the constraint's scale does not depend on the backbone.
        return params / self._budget - 1.0

    def _reject(
        self,
        number: int,
        config: TrialConfig | None,
        params: int,
        *,
        reason: str | None = None,
        name: str | None = None,
    ) -> None:
        """Record an infeasible proposal."""
        over = f"{params:,} trainable parameters, the budget is {self._budget:,}"
        record = TrialRecord(
            id=trial_id(number),
            number=number,
            state=TrialState.INFEASIBLE,
            trainable_params=params,
            config={} if config is None else dict(self._space.config_columns(config.values)),
            reason=reason or over,
            name=name,
            costs={} if config is None else self._count_costs(trial_id(number), config),
        )
        self._records[number] = record
        self._file.close(record)
        self._on_record(record)

    def _hand_out(self, proposal: Proposal, *, is_own: bool) -> None:
        recipe = proposal.config.recipe
        belief = Belief(
            number=proposal.number,
            config=proposal.config,
            params=proposal.trainable_params,
            epochs=recipe.probe_epochs if proposal.config.is_probe else recipe.epochs,
            costs=proposal.costs,
        )
        self.beliefs.add(belief)
        self._sampler.accept(belief, is_own=is_own)

    def _learn(
        self,
        number: int,
        curve: Sequence[EpochRow],
        record: TrialRecord | None,
        costs: Mapping[str, float],
    ) -> None:
        known = {row.epoch: row.top1 for row in curve if row.top1 is not None}
        if record is not None and not known and record.top1 is not None:
            known = {record.epochs: record.top1}
        seconds = sum(row.seconds for row in curve)
        state = record.state if record is not None else None
        if TRAIN_SECONDS in self.costs:
            costs = {**costs, TRAIN_SECONDS: seconds}
        self._sampler.learn(
            self.beliefs.saw(number, known, seconds=seconds, state=state, costs=costs)
        )

    def _recall(self, stored: StoredTrial) -> None:
        if stored.record is not None:
            self._recall_record(stored, stored.record)
        elif stored.is_open:
            self._recall_unfinished(stored)

    def _recall_record(self, stored: StoredTrial, record: TrialRecord) -> None:
        self._records[record.number] = record
        if stored.values is not None:
            config = self._build(stored.values)
            self._numbers_by_key[config.key] = record.number
            if record.state is not TrialState.INFEASIBLE:
                self._hand_out(self._issued(stored, config, record.trainable_params), is_own=False)
                self._learn(record.number, record.curve, record, record.costs)
        if stored.is_open:  # killed between writing the record and closing the row
            self._file.close(record)
            self._on_record(record)

    def _recall_unfinished(self, stored: StoredTrial) -> None:
        """Issue again what was handed out; forget what was cut off while it was being examined."""
        config = self._config_of(stored)
        params = self._space.count(config) if config is not None else 0
        if config is None or config.key in self._numbers_by_key or params > self._budget:
            self._file.drop(stored.number)
            return
        self._numbers_by_key[config.key] = stored.number
        proposal = self._issued(stored, config, params)
        self._hand_out(proposal, is_own=False)
        if proposal.curve:
            self.observe(stored.number, proposal.curve, proposal.costs)
        self._unfinished.append(proposal)

    def _config_of(self, stored: StoredTrial) -> TrialConfig | None:
        """Build what a row was handed out for; of the queue's, also where that was cut off."""
        if stored.values is not None:
            return self._build(stored.values)
        if stored.queued is None:
            return None
        try:
            config = self._space.build(self._space.suggest(FixedTrial(dict(stored.queued))))
        except (NothingToTrain, ValueError):  # it left something open, which was drawn
            return None
        self._file.write_values(stored.number, self._space.to_json(config.values))
        return config

    def _build(self, stored: Mapping[str, Any]) -> TrialConfig:
        return self._space.build(self._space.from_json(stored))

    def _issued(self, stored: StoredTrial, config: TrialConfig, params: int) -> Proposal:
        """Give again what an earlier run handed out, with what it measured."""
        proposal = self._proposal(stored.number, config, params, stored.name)
        return replace(proposal, curve=stored.curve, costs={**proposal.costs, **stored.costs})
