"""The study on disk: every proposal and every record of a search, in Optuna's own format.

One SQLite file, written by the one driver process. It knows no space and no sampler: values are
JSON here, and what is proposed next is decided elsewhere.
"""

from __future__ import annotations

import json
import math
import uuid
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, create_trial
from optuna.trial import TrialState as OptunaState
from sqlalchemy import event

from vpetl_ray.errors import SearchError
from vpetl_ray.results.records import EpochRow, TrialRecord, TrialState
from vpetl_ray.tuning.search_id import SEARCH_ID
from vpetl_ray.tuning.study_format import FORMAT, FORMAT_ATTRIBUTE, check_study

_VALUES = "values"
_NAME = "name"
_RECORD = "record"
_CURVE = "curve"
_COSTS = "costs"
_BUDGET = "over_budget"
_QUEUED = "fixed_params"  # Optuna's own name
_TEST_TOP1 = "test_top1:"
_SEAL = "crc"
"""Of a record, beside its own values; records of earlier versions have none."""


@dataclass(frozen=True, kw_only=True)
class StoredTrial:
    """A row of the file."""

    number: int
    is_open: bool
    """Handed out, and not closed."""
    values: Mapping[str, Any] | None
    """As JSON; None of a row that was cut off while it was written."""
    name: str | None
    curve: tuple[EpochRow, ...]
    """Up to the last rung that it came to."""
    record: TrialRecord | None
    costs: Mapping[str, float] = field(default_factory=dict)
    """What was measured of it."""
    queued: Mapping[str, Any] | None = None
    """Optuna's parameters, of a row that came from the queue."""


class StudyFile:
    """Rows, by number from 0.

    Args:
        path: the SQLite file, made if it is missing. None: in memory, for simulations.
        costs: objectives beside top-1 and trainable parameters, each a direction more.
    """

    def __init__(self, path: Path | None, costs: Sequence[str] = ()) -> None:
        self._costs = tuple(costs)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        if path is not None and path.exists():
            check_study(path)
        self._study = optuna.create_study(
            study_name="search",
            storage=_storage(path),
            directions=directions(costs),
            # Asked for queued configs alone; what they leave open is drawn at random.
            sampler=optuna.samplers.RandomSampler(seed=0),
            load_if_exists=True,
        )
        if SEARCH_ID not in self._study.user_attrs:
            self._study.set_user_attr(SEARCH_ID, uuid.uuid4().hex)
        if self._study.user_attrs.get(FORMAT_ATTRIBUTE) != FORMAT:
            self._study.set_user_attr(FORMAT_ATTRIBUTE, FORMAT)
        trials = self._study.get_trials(deepcopy=False)
        self._count = len(trials)
        self._num_waiting = sum(trial.state is OptunaState.WAITING for trial in trials)

    def __len__(self) -> int:
        return self._count

    @property
    def search_id(self) -> str:
        """Names the search for good, through every interruption."""
        return str(self._study.user_attrs[SEARCH_ID])

    def enqueue(self, params: Mapping[str, Any], name: str | None) -> None:
        """Put a config in the queue, to be taken by `take`."""
        attrs = {_NAME: name} if name else {}
        self._study.enqueue_trial(dict(params), user_attrs=attrs)
        self._count += 1
        self._num_waiting += 1

    def take(self) -> tuple[optuna.Trial, str | None] | None:
        """Take the next config from the queue, with its name; None if it is empty."""
        if not self._num_waiting:
            return None
        self._num_waiting -= 1
        trial = self._study.ask()
        return trial, trial.user_attrs.get(_NAME)

    def add(self, values: Mapping[str, Any] | None, excess: float) -> int:
        """Add an open row.

        Its values are one attribute of it, and no Optuna params: those are written with three
        queries each, which is more than all the rest that a trial costs the driver.

        Args:
            values: as JSON.
            excess: over the budget, as a share of it; below 0 within it.

        Returns:
            Its number.
        """
        self._study.add_trial(
            create_trial(
                state=OptunaState.RUNNING,
                user_attrs={_VALUES: dict(values)} if values is not None else {},
                constraints={_BUDGET: excess},
            )
        )
        self._count += 1
        return self._count - 1

    def note_values(self, trial: optuna.Trial, values: Mapping[str, Any], excess: float) -> None:
        """Complete the row of a config that was taken from the queue."""
        trial.set_user_attr(_VALUES, dict(values))
        trial.set_constraint(_BUDGET, excess)

    def write_values(self, number: int, values: Mapping[str, Any]) -> None:
        """Keep what a row is built from that was cut off before that was written."""
        self._write_attr(number, _VALUES, dict(values))

    def drop(self, number: int) -> None:
        """Close a row that comes to nothing."""
        self._end(number, OptunaState.FAIL)

    def close(self, record: TrialRecord) -> None:
        """Write a final record, then close its row."""
        self.write_record(record)
        match record.state:
            case TrialState.STOPPED:
                self._end(record.number, OptunaState.PRUNED)
            case TrialState.FAILED:
                self._end(record.number, OptunaState.FAIL)
            case _:
                # What is infeasible was never measured: infinity is the worst that Optuna takes.
                further = [record.costs.get(name, math.inf) for name in self._costs]
                values = [record.top1 or 0.0, float(record.trainable_params), *further]
                self._end(record.number, OptunaState.COMPLETE, values)

    def write_record(self, record: TrialRecord) -> None:
        """Keep a record."""
        values = record.to_dict()
        self._write_attr(record.number, _RECORD, {**values, _SEAL: _seal(values)})

    def write_curve(
        self, number: int, curve: Sequence[EpochRow], costs: Mapping[str, float]
    ) -> None:
        """Keep how far an open trial has come, and what was measured of it."""
        self._write_attr(number, _CURVE, [dict(vars(row)) for row in curve])
        if costs:
            self._write_attr(number, _COSTS, dict(costs))

    def write_test_top1(self, number: int, test_top1: float) -> None:
        """Keep the test accuracy of a closed trial, whose row can't be written any more."""
        self._study.set_user_attr(f"{_TEST_TOP1}{number}", test_top1)

    def values_of(self, number: int) -> Mapping[str, Any]:
        """Return what a trial was built from, as JSON."""
        return dict(self._study.get_trials(deepcopy=False)[number].user_attrs[_VALUES])

    def read(self) -> list[StoredTrial]:
        """Return every row that was handed out."""
        trials = self._study.get_trials(deepcopy=False)
        return [self._stored(trial) for trial in trials if trial.state is not OptunaState.WAITING]

    def _stored(self, trial: FrozenTrial) -> StoredTrial:
        attrs = trial.user_attrs
        record = None
        if _RECORD in attrs:
            test_top1 = self._study.user_attrs.get(f"{_TEST_TOP1}{trial.number}")
            record = replace(_record_of(attrs[_RECORD], trial.number), test_top1=test_top1)
        return StoredTrial(
            number=trial.number,
            is_open=trial.state is OptunaState.RUNNING,
            values=attrs.get(_VALUES),
            name=attrs.get(_NAME),
            curve=tuple(EpochRow(**row) for row in attrs.get(_CURVE, ())),
            record=record,
            costs=attrs.get(_COSTS, {}),
            queued=trial.system_attrs.get(_QUEUED),
        )

    def _end(self, number: int, state: OptunaState, values: Sequence[float] | None = None) -> None:
        # `Study.tell` does this, and reads the trial twice besides: half of its time.
        self._study._storage.set_trial_state_values(self._id_of(number), state, values)

    def _write_attr(self, number: int, key: str, value: Any) -> None:
        self._study._storage.set_trial_user_attr(self._id_of(number), key, value)

    def _id_of(self, number: int) -> int:
        storage, study_id = self._study._storage, self._study._study_id
        return storage.get_trial_id_from_study_id_trial_number(study_id, number)


def _seal(values: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(values, sort_keys=True).encode())


def _record_of(stored: Mapping[str, Any], number: int) -> TrialRecord:
    values = {name: value for name, value in stored.items() if name != _SEAL}
    if _SEAL in stored and stored[_SEAL] != _seal(values):
        raise SearchError(
            f"study.db: the record of trial {number} does not match its checksum; put a copy of "
            "the file in its place, or search anew into another folder"
        )
    return TrialRecord.from_dict(values)


def directions(costs: Sequence[str]) -> list[StudyDirection]:
    """Top-1 up, trainable parameters and each of `costs` down."""
    return [
        StudyDirection.MAXIMIZE,
        StudyDirection.MINIMIZE,
        *(StudyDirection.MINIMIZE for _ in costs),
    ]


def _storage(path: Path | None) -> optuna.storages.BaseStorage:
    """Open SQLite with a write-ahead log: a commit then needs no disk flush (10 ms each).

    A driver that is killed loses nothing; a machine that loses power, at most the last commits.
    """
    if path is None:
        return optuna.storages.InMemoryStorage()
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}")

    @event.listens_for(storage.engine, "connect")
    def _set_pragmas(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    storage.engine.dispose()  # so that the connections opened before follow, too
    return storage
