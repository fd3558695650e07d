"""When a trial ended, counted in what the search had spent by then: seconds and epochs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from vpetl_ray.results.records import TrialRecord


class SearchClock:
    """Goes on where the records of an earlier run end, so a pause between two runs costs nothing.

    What an earlier run had spent after its last record is not known any more, and not counted.

    Args:
        records: of an earlier run of the search.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        records: Iterable[TrialRecord] = (),
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        trained = [record for record in records if record.epochs]
        seconds = [record.at_seconds for record in trained if record.at_seconds is not None]
        stamps = [record.at_epochs for record in trained if record.at_epochs is not None]
        self._clock = clock
        self._began_at = clock() - max(seconds, default=0.0)
        # Of records without a stamp, from an older version, what they say themselves.
        self._num_epochs = max(stamps, default=sum(record.epochs for record in trained))

    def count_epoch(self, *, is_probe: bool, epoch: int) -> None:
        """Count an epoch that a trial has trained now: of a probe the first alone."""
        if not is_probe or epoch == 1:
            self._num_epochs += 1

    def stamped(self, record: TrialRecord) -> TrialRecord:
        """Return the record of a trial that has ended now, with the time on it."""
        return replace(
            record, at_seconds=self._clock() - self._began_at, at_epochs=self._num_epochs
        )
