"""How a front grew: its hypervolume after each trial, against what the search had spent by then."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from vpetl_ray.results.atomic import replacing
from vpetl_ray.results.front import front_of, volume_of
from vpetl_ray.results.labels import is_probe
from vpetl_ray.results.records import TrialRecord, TrialState

_SCHEMA = pa.schema(
    [
        ("trial", pa.string()),
        ("epochs", pa.int64()),
        ("seconds", pa.float64()),
        ("training_seconds", pa.float64()),
        ("hypervolume", pa.float64()),
        ("best_top1", pa.float64()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class HistoryRow:
    """The search at the moment when a trial had ended."""

    trial: str
    epochs: int
    """Trained by all trials together, those that were still running included; of a linear probe
    one (see `TrialRecord.at_epochs`)."""
    seconds: float | None
    """Since the search began, pauses between two runs left out; None where a trial is of an older
    version, which kept no times."""
    training_seconds: float
    """Spent on training and validation by the trials that had ended, all groups together."""
    hypervolume: float
    best_top1: float
    """Percent; 0 before the first trial is complete."""


def history_of(
    records: Sequence[TrialRecord],
    *,
    max_params: float,
    references: Mapping[str, float] | None = None,
) -> list[HistoryRow]:
    """Follow the hypervolume through all trials that were trained, in the order of their ends.

    A stopped or failed trial costs epochs and seconds and adds nothing. Where a record says no
    time, the order is that of asking, and epochs are summed up.

    Args:
        records: of the search.
        max_params: right edge, as for `front.volume_of`.
        references: further objectives, as for `front.volume_of`.
    """
    further = dict(references or {})
    trained = [record for record in records if record.epochs]
    is_timed = all(record.at_seconds is not None for record in trained)
    trained.sort(key=lambda r: (r.at_seconds or 0.0, r.number) if is_timed else (0.0, r.number))
    rows: list[HistoryRow] = []
    front: list[TrialRecord] = []
    area = best = spent = 0.0
    epochs = 0
    for record in trained:
        spent += record.seconds
        own = 1 if is_probe(record.config) else record.epochs
        epochs = (record.at_epochs if is_timed else None) or epochs + own
        if record.state is TrialState.COMPLETE:
            best = max(best, record.top1 or 0.0)
            front, before = front_of([*front, record], tuple(further)), front
            if front != before:
                area = volume_of(front, max_params=max_params, references=further)
        rows.append(
            HistoryRow(
                trial=record.id,
                epochs=epochs,
                seconds=record.at_seconds if is_timed else None,
                training_seconds=spent,
                hypervolume=area,
                best_top1=best,
            )
        )
    return rows


def write_history(path: Path | str, history: Sequence[HistoryRow]) -> None:
    """Write one row a trial as Parquet, atomically.

    Raises:
        SearchError: the file cannot be written.
    """
    table = pa.Table.from_pylist([vars(row) for row in history], schema=_SCHEMA)
    with replacing(Path(path)) as temporary:
        pq.write_table(table, temporary)
