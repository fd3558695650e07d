"""What is known about a trial once it has ended, and the table of all of them.

A record is kept twice: as JSON with the trial in Optuna's storage (the truth, written by the
driver), and as a row of ``trials.parquet`` (for reading: pandas, DuckDB, a notebook).
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from vpetl_ray.errors import SearchError
from vpetl_ray.results.atomic import replacing
from vpetl_ray.results.objectives import COSTS

Scalar = bool | int | float | str


class TrialState(StrEnum):
    """How a trial ended."""

    COMPLETE = "complete"
    """Trained for all of its epochs: the only state that can be on the front."""
    STOPPED = "stopped"
    """Ended early by the scheduler, because cheaper trials were already better."""
    INFEASIBLE = "infeasible"
    """Over the budget by its count alone: never trained."""
    FAILED = "failed"
    """Could not be trained; `TrialRecord.reason` says why."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EpochRow:
    """One epoch of a trial. Values that are not finite are kept as None: not measured."""

    epoch: int
    """1-based."""
    top1: float | None = None
    """Percent of the validation clips, 0..100."""
    loss: float | None = None
    train_loss: float | None = None
    seconds: float = 0.0
    """Of this epoch alone, validation included."""

    def __post_init__(self) -> None:
        _drop_non_finite(self, ("top1", "loss", "train_loss"))

    @classmethod
    def of(cls, epoch: int, metrics: Mapping[str, Any]) -> Self:
        """Take what a worker measured in an epoch; what a row has no place for is left out."""
        names = {field.name for field in dataclasses.fields(cls)} - {"epoch"}
        values: dict[str, Any] = {name: metrics.get(name) for name in names}
        return cls(epoch=epoch, **values)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """A trial that has ended. Values that are not finite are kept as None: not measured."""

    id: str
    """As the user reads it everywhere: ``t0007``."""
    number: int
    """Its place in the order of asking, from 0."""
    state: TrialState
    trainable_params: int
    top1: float | None = None
    """Percent on the validation split, 0..100."""
    loss: float | None = None
    """On the validation split."""
    epochs: int = 0
    """Epochs trained."""
    seconds: float = 0.0
    """Spent on training and validation."""
    group: int | None = None
    """Worker group that finished it."""
    config: Mapping[str, Scalar | None] = dataclasses.field(default_factory=dict)
    """Flat path of the spec -> value; None where the choice does not exist in this config."""
    curve: tuple[EpochRow, ...] = ()
    reason: str | None = None
    """Why it failed, was stopped or is infeasible."""
    test_top1: float | None = None
    """Percent on the test split: measured once, at the end, for the front alone."""
    test_top1_multi_view: float | None = None
    """The same by the mean over all views of a clip: of a config that was trained by itself."""
    name: str | None = None
    """Of a trial that was seeded by name, such as ``linear probe``."""
    costs: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Objectives beside top-1 and trainable parameters, as far as they are known, by name."""
    at_seconds: float | None = None
    """Seconds that the search had run when this ended, pauses between two runs left out."""
    at_epochs: int | None = None
    """Epochs that all trials together had trained by then; a linear probe's count as one, since
    it sends the clips through the backbone once. None, as above, in a record of an older version
    and of a trial that was never trained."""

    def __post_init__(self) -> None:
        _drop_non_finite(self, ("top1", "loss", "test_top1", "test_top1_multi_view"))
        object.__setattr__(self, "state", TrialState(self.state))
        known = {name: v for name, v in self.costs.items() if v is not None and math.isfinite(v)}
        object.__setattr__(self, "costs", known)

    def to_dict(self) -> dict[str, Any]:
        """Everything, as values that JSON has (no NaN, no tuple); no costs where there are none."""
        curve = [dict(vars(row)) for row in self.curve]
        values = {
            **vars(self),
            "state": self.state.value,
            "config": dict(self.config),
            "curve": curve,
            "costs": dict(self.costs),
        }
        if not self.costs:
            del values["costs"]  # as records are of a search with two objectives, and always were
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`.

        Raises:
            SearchError: a field is missing, unknown or of another kind: written by another version.
        """
        try:
            for name, kind in (("id", str), ("config", Mapping), ("costs", Mapping)):
                if name in values and not isinstance(values[name], kind):
                    raise TypeError(f"{name}: got {values[name]!r:.60}")
            curve = tuple(EpochRow(**row) for row in values.get("curve", ()))
            return cls(**{**values, "curve": curve})
        except (TypeError, ValueError) as error:
            trial = values.get("id", "without an id")
            raise SearchError(f"the record of trial {trial} cannot be read: {error}") from error


def _drop_non_finite(record: object, fields: Sequence[str]) -> None:
    for field in fields:
        value = getattr(record, field)
        if value is not None and not math.isfinite(value):
            object.__setattr__(record, field, None)


_CURVE = pa.list_(
    pa.struct(
        [
            ("epoch", pa.int32()),
            ("top1", pa.float64()),
            ("loss", pa.float64()),
            ("train_loss", pa.float64()),
            ("seconds", pa.float64()),
        ]
    )
)
_FIXED_COLUMNS = (
    ("id", pa.string()),
    ("number", pa.int64()),
    ("state", pa.string()),
    ("trainable_params", pa.int64()),
    ("top1", pa.float64()),
    ("epochs", pa.int64()),
    ("seconds", pa.float64()),
    ("group", pa.int64()),
    ("loss", pa.float64()),
    ("test_top1", pa.float64()),
    ("name", pa.string()),
    ("reason", pa.string()),
    ("at_seconds", pa.float64()),
    ("at_epochs", pa.int64()),
)
_NEWER = {"at_seconds", "at_epochs"}
"""Columns that a table of an older version lacks."""
_ALWAYS_GIVEN = ("id", "number", "state", "trainable_params", "epochs", "seconds")
"""Columns in which no row is empty."""
_ARROW_TYPES = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}
# A choice between numbers and words, such as a scale of 0.1 or "learned", is stored as text.
_MIXED = {b"vpetl_ray": b"mixed"}

Columns = Sequence[str] | Mapping[str, type]


def write_trials(
    path: Path | str,
    records: Sequence[TrialRecord],
    columns: Columns,
    *,
    costs: Sequence[str] = (),
) -> None:
    """Write one row a record, in the given order, atomically.

    Columns: id, number, state, trainable_params, top1, epochs, seconds, group, loss, test_top1,
    name, reason, at_seconds, at_epochs; then further objectives under their names; then every
    config value under its own path (``petl.patt.d_bottle``; a path has a dot, so it never
    meets one of the others); then the curve as a list of structs.

    Args:
        path: the Parquet file; its folder exists.
        records: any number of them, none included.
        columns: every path of the space, with its type (bool, int, float, str) where known: the
            schema then is the same before the first trial and after the last. Of a path without a
            type the values decide. Paths met in a record alone are added at the end.
        costs: further objectives of the search, as `results.objectives` names them; those met in
            a record alone are added.

    Raises:
        SearchError: the file cannot be written.
    """
    fields = [pa.field(name, kind) for name, kind in _FIXED_COLUMNS]
    arrays = [
        pa.array([_fixed_value(record, name) for record in records], kind)
        for name, kind in _FIXED_COLUMNS
    ]
    for name in dict.fromkeys((*costs, *(name for record in records for name in record.costs))):
        kind = pa.int64() if COSTS[name].is_count else pa.float64()
        fields.append(pa.field(name, kind))
        arrays.append(pa.array([record.costs.get(name) for record in records], kind))
    for column, declared in _config_columns(records, columns).items():
        values = [record.config.get(column) for record in records]
        field = _config_field(column, values, declared)
        fields.append(field)
        arrays.append(pa.array([_stored(value, field) for value in values], field.type))
    # vars: dataclasses.asdict copies deeply and took most of the time of a table of 2000 trials.
    curves = [[vars(row) for row in record.curve] for record in records]
    fields.append(pa.field("curve", _CURVE))
    arrays.append(pa.array(curves, _CURVE))
    table = pa.Table.from_arrays(arrays, schema=pa.schema(fields))
    with replacing(Path(path)) as temporary:
        pq.write_table(table, temporary)


def read_trials(path: Path | str) -> list[TrialRecord]:
    """Read what `write_trials` wrote: the same records, every config path present in each.

    Raises:
        SearchError: no such file, or not a table of trials.
    """
    try:
        table = pq.read_table(Path(path))
        table.validate(full=True)  # that text is text, too
    except (OSError, pa.ArrowException) as error:
        raise SearchError(f"{path}: cannot be read as a table of trials: {error}") from error
    fixed = [name for name, _ in _FIXED_COLUMNS]
    missing = sorted({*fixed, "curve"} - _NEWER - set(table.column_names))
    if missing:
        raise SearchError(f"{path}: not a table of trials, it has no column {', '.join(missing)}")
    _check_columns(table, path)
    costs = [name for name in table.column_names if name in COSTS]
    others = {*fixed, *costs, "curve"}
    config_fields = [field for field in table.schema if field.name not in others]
    records = []
    for row in table.to_pylist():
        config = {field.name: _loaded(row[field.name], field) for field in config_fields}
        values = {name: row.get(name) for name in fixed}
        values |= {"config": config, "curve": row["curve"] or ()}
        values["costs"] = {name: row[name] for name in costs}
        records.append(TrialRecord.from_dict(values))
    return records


def _check_columns(table: pa.Table, path: Path | str) -> None:
    """Check the types of a table's columns, and that what each trial has is there.

    Raises:
        SearchError: one is not as `write_trials` writes it.
    """
    kinds = dict(_FIXED_COLUMNS) | {"curve": _CURVE}
    kinds |= {name: pa.int64() if cost.is_count else pa.float64() for name, cost in COSTS.items()}
    scalars = set(_ARROW_TYPES.values())
    seen = set()
    for field in table.schema:
        allowed = {kinds[field.name]} if field.name in kinds else scalars
        # Parquet has a name of its own for what a list holds.
        kind = pa.list_(field.type.value_type) if pa.types.is_list(field.type) else field.type
        if pa.types.is_large_string(kind):  # as pandas writes text
            kind = pa.string()
        if field.name == "curve" and pa.types.is_list(kind) and pa.types.is_struct(kind.value_type):
            # Older versions say less of an epoch, and pandas writes wider numbers.
            known = {entry.name for entry in _CURVE.value_type}
            is_curve = all(
                entry.name in known
                and (pa.types.is_integer(entry.type) or pa.types.is_floating(entry.type))
                for entry in kind.value_type
            )
            kind = _CURVE if is_curve else kind
        if kind not in allowed:
            raise SearchError(
                f"{path}: not a table of trials, its column {field.name} is {field.type}; it must "
                f"be {' or '.join(sorted(map(str, allowed)))}"
            )
        if field.name in seen:
            raise SearchError(f"{path}: not a table of trials, it has two columns {field.name}")
        seen.add(field.name)
    for name in _ALWAYS_GIVEN:
        if table.column(name).null_count:
            raise SearchError(f"{path}: not a table of trials, its column {name} has empty cells")


def _fixed_value(record: TrialRecord, name: str) -> Scalar | None:
    value: Scalar | None = getattr(record, name)
    return str(value) if name == "state" else value


def _config_columns(records: Sequence[TrialRecord], columns: Columns) -> dict[str, type | None]:
    declared: dict[str, type | None] = (
        dict(columns) if isinstance(columns, Mapping) else dict.fromkeys(columns)
    )
    for record in records:
        for path in record.config:
            declared.setdefault(path, None)
    return declared


def _config_field(name: str, values: Sequence[Scalar | None], declared: type | None) -> pa.Field:
    kinds = {type(value) for value in values if value is not None}
    if declared is not None:
        kinds.add(declared)
    if kinds == {int, float}:
        kinds = {float}
    if len(kinds) == 1:
        return pa.field(name, _ARROW_TYPES.get(kinds.pop(), pa.string()))
    return pa.field(name, pa.string(), metadata=_MIXED if kinds else None)


def _stored(value: Scalar | None, field: pa.Field) -> Scalar | None:
    if value is None or field.type != pa.string() or isinstance(value, str):
        return value
    return repr(value)


def _loaded(value: Scalar | None, field: pa.Field) -> Scalar | None:
    if not isinstance(value, str) or (field.metadata or {}).get(b"vpetl_ray") != b"mixed":
        return value
    if value in {"True", "False"}:
        return value == "True"
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value
