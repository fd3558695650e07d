"""An Optuna study that never hands out a config over the budget, nor one it has handed out before.

The study's SQLite file is the one truth about a search: a config is written before it is trained
and its record when it is finished, so a search that was cut off goes on from this file alone.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState
from sqlalchemy import event

from vpetl_ray.errors import SearchError
from vpetl_ray.results.records import EpochRow, TrialRecord, TrialState
from vpetl_ray.tuning.method_space import Values
from vpetl_ray.tuning.samplers import QUEUED, make_sampler
from vpetl_ray.tuning.space import NothingToTrain, Space, TrialConfig
from vpetl_ray.tuning.space_size import summarise

MAX_REPEATS = 5
"""Proposals in a row that were known already, after which one is drawn without the sampler."""
MAX_LISTED = 20_000
"""Largest space whose configs are listed."""

_VALUES = "values"
_NAME = "name"
_RECORD = "record"
_TWIN = "duplicate_of"
_CURVE = "curve"
_BUDGET = "over_budget_or_repeated"
_TEST_TOP1 = "test_top1:"
_SEARCH_ID = "search_id"


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A config within the budget, written down and ready to be trained."""

    number: int
    config: TrialConfig
    trainable_params: int
    name: str | None
    curve: tuple[EpochRow, ...] = ()
    """Of a trial that an earlier run had begun: up to the last rung that it came to."""

    @property
    def id(self) -> str:
        """Its name as a trial."""
        return trial_id(self.number)


def trial_id(number: int) -> str:
    """`t0007`: the name of a trial in files, tables and MLflow."""
    return f"t{number:04d}"


def _storage(path: Path) -> optuna.storages.RDBStorage:
    """The study's file, with a write-ahead log: a commit then needs no disk flush (10 ms each).

    A driver that is killed loses nothing; a machine that loses power, at most the last commits.
    """
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}")

    @event.listens_for(storage.engine, "connect")
    def _set_pragmas(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    storage.engine.dispose()  # so that the connections opened before follow, too
    return storage


class BudgetedStudy:
    """Ask for proposals, tell their records.

    Args:
        path: the study's SQLite file; one process writes it.
        space: what is searched.
        budget: most trainable parameters a proposal may have.
        sampler: a name of `SAMPLERS`.
        seed: of the sampler.
        start: named values that are proposed first, in this order.
        on_record: called with every record as it becomes final.
        max_rejects: proposals in a row that may be infeasible or repeated; after twice as many
            (the second half drawn at random) the space counts as exhausted.
    """

    def __init__(
        self,
        path: Path,
        *,
        space: Space,
        budget: int,
        sampler: str,
        seed: int,
        start: Iterable[tuple[str | None, Mapping[str, Any]]],
        on_record: Callable[[TrialRecord], None],
        max_rejects: int = 500,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._space = space
        self._budget = budget
        self._sampler_name = sampler
        self._seed = seed
        self._max_rejects = max_rejects
        self._num_repeats = 0
        self._unseen: list[Values] | None = None
        self._is_listed = False
        self._on_record = on_record
        self._numbers_by_key: dict[str, int] = {}
        self._records: dict[int, TrialRecord] = {}
        self._unfinished: list[Proposal] = []
        self._study = optuna.create_study(
            study_name="search",
            storage=_storage(path),
            directions=["maximize", "minimize"],
            load_if_exists=True,
        )
        known = self._study.get_trials(deepcopy=False)
        # A resumed sampler must not repeat the draws that the trials on file were made from.
        self._study.sampler = make_sampler(sampler, seed + len(known))
        if _SEARCH_ID not in self._study.user_attrs:
            self._study.set_user_attr(_SEARCH_ID, uuid.uuid4().hex)
        if known:
            self._recall(known)
        else:
            self._queue(start)

    @property
    def search_id(self) -> str:
        """Names this search for good, through every interruption."""
        return str(self._study.user_attrs[_SEARCH_ID])

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
        if self._sampler_name in QUEUED:
            return self._next_queued()
        for _ in range(self._max_rejects):
            num_known = len(self._numbers_by_key)
            proposal = self._examine(self._study.ask())
            if proposal is not None:
                return proposal
            self._num_repeats = (
                0 if len(self._numbers_by_key) > num_known else self._num_repeats + 1
            )
            if self._num_repeats >= MAX_REPEATS:
                break
        return self._ask_for_an_unseen_one()

    def _next_queued(self) -> Proposal | None:
        """Take the next of a list or grid that is new and within the budget; draw nothing."""
        while self._study.get_trials(deepcopy=False, states=(OptunaState.WAITING,)):
            proposal = self._examine(self._study.ask())
            if proposal is not None:
                return proposal
        return None

    def _ask_for_an_unseen_one(self) -> Proposal | None:
        """Draw a config at random where the sampler only repeats itself.

        It does so for the cheapest config, which nothing can dominate, and towards the end of a
        small space; of such a space what is left is listed, so that its end is known exactly.
        """
        self._num_repeats = 0
        if self._unseen is None:
            size = summarise(self._space).size
            listed = list(self._space.grid()) if size is not None and size <= MAX_LISTED else []
            random.Random(self._seed).shuffle(listed)
            self._unseen = listed
            self._is_listed = bool(listed)
        return self._next_listed() if self._is_listed else self._next_random()

    def _next_listed(self) -> Proposal | None:
        assert self._unseen is not None
        while self._unseen:
            values = self._unseen.pop()
            if self._space.build(values).key not in self._numbers_by_key:
                self._study.enqueue_trial(self._space.params_for(values))
                proposal = self._examine(self._study.ask())
                if proposal is not None:
                    return proposal
        return None

    def _next_random(self) -> Proposal | None:
        sampler = self._study.sampler
        seed = self._seed + len(self._study.get_trials(deepcopy=False))
        self._study.sampler = make_sampler("random", seed)
        try:
            for _ in range(self._max_rejects):
                proposal = self._examine(self._study.ask())
                if proposal is not None:
                    return proposal
            return None
        finally:
            self._study.sampler = sampler

    def tell(self, record: TrialRecord) -> None:
        """Keep `record` and teach the sampler what it says."""
        self._write_record(record)
        match record.state:
            case TrialState.COMPLETE:
                values = [record.top1, float(record.trainable_params)]
                self._study.tell(record.number, values)  # type: ignore[arg-type]
            case TrialState.STOPPED:
                self._study.tell(record.number, state=OptunaState.PRUNED)
            case TrialState.FAILED:
                self._study.tell(record.number, state=OptunaState.FAIL)
            case TrialState.INFEASIBLE:
                raise SearchError(f"{record.id} is infeasible and cannot have been trained")
        self._on_record(record)

    def keep_curve(self, number: int, curve: Sequence[EpochRow]) -> None:
        """Keep how far a trial has come, for a search that is cut off."""
        self._write_attr(number, _CURVE, [dict(vars(row)) for row in curve])

    def columns_of(self, proposal: Proposal) -> dict[str, Any]:
        """The proposal's config as a flat row, one entry a column of `trials.parquet`."""
        return self._space.config_columns(proposal.config.values)

    def config_of(self, number: int) -> TrialConfig:
        """The config of a trial that was handed out, by its number."""
        return self._config_from(self._study.get_trials(deepcopy=False)[number])

    def set_test_top1(self, number: int, test_top1: float) -> TrialRecord:
        """Keep the test accuracy of a finished trial; Optuna has closed the trial itself."""
        self._study.set_user_attr(f"{_TEST_TOP1}{number}", test_top1)
        self._records[number] = replace(self._records[number], test_top1=test_top1)
        return self._records[number]

    def _examine(self, trial: optuna.Trial) -> Proposal | None:
        """Count the proposal before anything runs; over the budget or known means no."""
        try:
            values = self._space.suggest(trial)
            config = self._space.build(values)
        except NothingToTrain as error:
            self._reject(trial, config_values={}, params=0, excess=1.0, reason=str(error))
            return None
        trial.set_user_attr(_VALUES, self._space.to_json(config.values))
        twin = self._numbers_by_key.setdefault(config.key, trial.number)
        if twin != trial.number:
            # Told as infeasible: the cheapest config can't be dominated, and a sampler that is told
            # nothing (FAIL) of its repeats proposes it for ever (70 of 107 proposals on the demo).
            trial.set_user_attr(_TWIN, twin)
            trial.set_constraint(_BUDGET, 1.0)
            self._study.tell(trial, [0.0, float(self._space.count(config))])
            return None
        params = self._space.count(config)
        columns = self._space.config_columns(config.values)
        if params > self._budget:
            reason = f"{params:,} trainable parameters, the budget is {self._budget:,}"
            # Relative, so that the constraint's scale does not depend on the backbone.
            excess = params / self._budget - 1.0
            self._reject(trial, config_values=columns, params=params, excess=excess, reason=reason)
            return None
        trial.set_constraint(_BUDGET, params / self._budget - 1.0)
        return Proposal(
            number=trial.number,
            config=config,
            trainable_params=params,
            name=trial.user_attrs.get(_NAME),
        )

    def _reject(
        self,
        trial: optuna.Trial,
        *,
        config_values: Mapping[str, Any],
        params: int,
        excess: float,
        reason: str,
    ) -> None:
        """Record an infeasible proposal and teach the sampler by how much it missed.

        Told as COMPLETE with its constraint: told as FAIL, the sampler learns nothing from it and
        proposes 80 times as many (575 against 7 rejects for 60 accepted).
        """
        record = TrialRecord(
            id=trial_id(trial.number),
            number=trial.number,
            state=TrialState.INFEASIBLE,
            trainable_params=params,
            config=dict(config_values),
            reason=reason,
            name=trial.user_attrs.get(_NAME),
        )
        trial.set_constraint(_BUDGET, excess)
        self._write_record(record)
        self._study.tell(trial, [0.0, float(params)])
        self._on_record(record)

    def _write_record(self, record: TrialRecord) -> None:
        self._records[record.number] = record
        self._write_attr(record.number, _RECORD, record.to_dict())

    def _write_attr(self, number: int, key: str, value: Any) -> None:
        storage, study_id = self._study._storage, self._study._study_id
        trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, number)
        storage.set_trial_user_attr(trial_id, key, value)

    def _queue(self, start: Iterable[tuple[str | None, Mapping[str, Any]]]) -> None:
        for name, values in start:
            attrs = {_NAME: name} if name else {}
            self._study.enqueue_trial(self._space.params_for(values), user_attrs=attrs)
        if self._sampler_name == "grid":
            for values in self._space.grid():
                self._study.enqueue_trial(self._space.params_for(values))

    def _recall(self, trials: list[FrozenTrial]) -> None:
        for trial in trials:
            if _RECORD in trial.user_attrs:
                self._recall_record(trial)
            elif trial.state is OptunaState.RUNNING:
                self._recall_unfinished(trial)

    def _recall_record(self, trial: FrozenTrial) -> None:
        record = TrialRecord.from_dict(trial.user_attrs[_RECORD])
        test_top1 = self._study.user_attrs.get(f"{_TEST_TOP1}{trial.number}")
        self._records[trial.number] = replace(record, test_top1=test_top1)
        if _VALUES in trial.user_attrs:
            self._numbers_by_key[self._config_from(trial).key] = trial.number
        if trial.state is OptunaState.RUNNING:
            # Killed between writing the record and telling the sampler.
            self._finish_telling(trial, record)

    def _finish_telling(self, trial: FrozenTrial, record: TrialRecord) -> None:
        if record.state is TrialState.INFEASIBLE:
            self._study.tell(trial.number, [0.0, float(record.trainable_params)])
        else:
            self.tell(record)

    def _recall_unfinished(self, trial: FrozenTrial) -> None:
        """Issue again what was handed out; forget what was cut off while it was being examined."""
        config = self._config_from(trial) if _VALUES in trial.user_attrs else None
        params = self._space.count(config) if config is not None else 0
        if config is None or config.key in self._numbers_by_key or params > self._budget:
            self._study.tell(trial.number, state=OptunaState.FAIL)
            return
        self._numbers_by_key[config.key] = trial.number
        self._unfinished.append(
            Proposal(
                number=trial.number,
                config=config,
                trainable_params=params,
                name=trial.user_attrs.get(_NAME),
                curve=tuple(EpochRow(**row) for row in trial.user_attrs.get(_CURVE, ())),
            )
        )

    def _config_from(self, trial: FrozenTrial) -> TrialConfig:
        return self._space.build(self._space.from_json(trial.user_attrs[_VALUES]))
