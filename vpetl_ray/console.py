"""What a search shows while it runs: a calm live table in a terminal, plain lines in a log."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence

from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from vpetl_ray.front_table import front_table
from vpetl_ray.results.front import front_of
from vpetl_ray.results.labels import cost_label, trial_label
from vpetl_ray.results.records import EpochRow, TrialRecord, TrialState
from vpetl_ray.stage_display import StageDisplay, clock_label, percent_label

MAX_FRONT_ROWS = 8
"""The front is cut to this many rows while the search runs, so that the table keeps its height."""


class SearchDisplay(StageDisplay):
    """Watches a search (see `tuning.searcher.SearchObserver`) and shows where it is.

    Args:
        console: where to write; a terminal gets a live table, anything else plain lines.
        name: of the search.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        console: Console,
        *,
        name: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(console, name=name, clock=clock)
        self._num_trials = self._num_groups = 0
        self._records: list[TrialRecord] = []
        self._num_before = 0
        self._first_start: float | None = None
        self._running: dict[str, EpochRow | None] = {}

    def begin(self, records: Sequence[TrialRecord], num_groups: int, num_trials: int) -> None:
        """Trials can be run from now on, so many; `records` are those of an earlier run."""
        self._num_trials = num_trials
        self._records = list(records)
        self._num_before = self._num_trained()
        self._num_groups = num_groups

    def on_start(self, trial_id: str, trainable_params: int, name: str | None) -> None:
        """See `SearchObserver.on_start`."""
        if self._first_start is None:
            self._first_start = self._clock()
        self._running[trial_id] = None

    def on_epoch(self, trial_id: str, row: EpochRow) -> None:
        """See `SearchObserver.on_epoch`."""
        self._running[trial_id] = row

    def on_record(self, record: TrialRecord) -> None:
        """See `SearchObserver.on_record`."""
        self._running.pop(record.id, None)
        self._records.append(record)
        if self._live is None:
            self._print_line(record)

    def _print_line(self, record: TrialRecord) -> None:
        has_result = record.top1 is not None
        result = f"top-1 {percent_label(record.top1)} %" if has_result else record.reason
        costs = [f"{name} {cost_label(name, value)}" for name, value in record.costs.items()]
        parts = [trial_label(record), f"{record.trainable_params:,} parameters", *costs]
        self._line(
            f"[{self._num_trained()}/{self._num_trials}] {record.id} {record.state.value}: "
            + ", ".join([*parts, str(result)]),
            is_minor=record.state is TrialState.INFEASIBLE,
        )

    def _num_trained(self) -> int:
        return sum(record.state is not TrialState.INFEASIBLE for record in self._records)

    def _render(self) -> RenderableType:
        front = front_of(self._records)
        parts: list[RenderableType] = [self._headline()]
        if self._first_start is not None:
            parts += [self._bar(), self._states()]
        if front:
            shown = front[-MAX_FRONT_ROWS:]
            hidden = len(front) - len(shown)
            title = "front so far" + (f" ({hidden} cheaper ones not shown)" if hidden else "")
            width = self._console.width
            parts += [Text(), front_table(shown, title=title, width=width, is_calm=True)]
        return Group(*parts)

    def _headline(self) -> Text:
        if not self._running:
            return super()._headline()
        text = self._title()
        pace = self._trials_per_minute()
        if pace:
            left = (self._num_trials - self._num_trained()) / pace * 60.0
            text.append(f", about {clock_label(left)} left, {pace:.1f} trials/min", "not bold")
        return text

    def _trials_per_minute(self) -> float | None:
        done = self._num_trained() - self._num_before
        if not done or self._first_start is None:
            return None
        return done / max(1e-9, self._clock() - self._first_start) * 60.0

    def _bar(self) -> RenderableType:
        row = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=self._num_trials, completed=self._num_trained(), width=40)
        row.add_row(bar, f"{self._num_trained()} of {self._num_trials} trials")
        return row

    def _states(self) -> Text:
        counts = Counter(record.state.value for record in self._records)
        words = [f"{min(len(self._running), self._num_groups)} running"]
        words += [f"{counts[state.value]} {state.value}" for state in TrialState]
        best = max((r.top1 for r in front_of(self._records) if r.top1 is not None), default=None)
        if best is not None:
            words.append(f"best {best:.1f} %")
        return Text(", ".join(words), no_wrap=True, overflow="ellipsis")
