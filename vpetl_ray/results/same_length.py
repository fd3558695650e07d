"""Accuracies that can be compared: never an early one with a final one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vpetl_ray.results.labels import is_probe
from vpetl_ray.results.records import TrialRecord, TrialState

_LEAST_SHARE = 1 / 3
"""Of the trials that must have come to an epoch for it to stand for the search."""


@dataclass(frozen=True, kw_only=True)
class SameLength:
    """Trials with their accuracies at the same length of training."""

    records: tuple[TrialRecord, ...]
    top1: tuple[float, ...]
    """Percent, one a record."""
    epoch: int | None
    """After which all of them were measured; None is at the end of their training. A linear
    probe, which has epochs of its own, is always measured at its end."""

    @property
    def sentence(self) -> str:
        """Say which trials and which accuracies these are."""
        count = f"{len(self.records)} trials"
        if self.epoch is None:
            return f"{count} trained to their end"
        return f"{count} after epoch {self.epoch} (not at their end: most were stopped early)"


def same_length(records: Sequence[TrialRecord], *, least: int) -> SameLength:
    """Choose trials and the length at which they are compared.

    Without stopped trials: all complete ones, at their end. With stopped ones, the complete are a
    selection of the good, so all are compared at the highest epoch that enough of them came to.

    Args:
        records: all of a search.
        least: trials that there should be.
    """
    complete = [r for r in records if r.state is TrialState.COMPLETE and r.top1 is not None]
    stopped = [r for r in records if r.state is TrialState.STOPPED and r.curve]
    if not stopped:
        return _at_end(complete)
    wanted = max(least, _LEAST_SHARE * (len(complete) + len(stopped)))
    epochs = sorted({row.epoch for r in (*complete, *stopped) for row in r.curve}, reverse=True)
    for epoch in epochs:
        found = [(r, top1) for r in (*complete, *stopped) if (top1 := _after(r, epoch)) is not None]
        if len(found) >= wanted and any(not is_probe(r.config) for r, _ in found):
            found.sort(key=lambda pair: pair[0].number)
            return SameLength(
                records=tuple(r for r, _ in found), top1=tuple(t for _, t in found), epoch=epoch
            )
    return _at_end(complete)


def _at_end(complete: Sequence[TrialRecord]) -> SameLength:
    return SameLength(
        records=tuple(complete), top1=tuple(r.top1 or 0.0 for r in complete), epoch=None
    )


def _after(record: TrialRecord, epoch: int) -> float | None:
    if is_probe(record.config):
        return record.top1 if record.state is TrialState.COMPLETE else None
    return next((row.top1 for row in record.curve if row.epoch == epoch), None)
