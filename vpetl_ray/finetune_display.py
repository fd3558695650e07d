"""What `finetune` shows: a line for each seed while it is trained, one table at the end."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from vpetl_ray.results.records import EpochRow, TrialRecord, TrialState
from vpetl_ray.results.seed_files import MEASURES, Spread, spread_of
from vpetl_ray.stage_display import StageDisplay, percent_label


class FinetuneDisplay(StageDisplay):
    """Watches the seeds (see `tuning.searcher.SearchObserver`).

    Args:
        console: where to write; a terminal gets a live block, anything else plain lines.
        name: of what is trained.
        num_seeds: how many there will be.
    """

    def __init__(self, console: Console, *, name: str, num_seeds: int) -> None:
        super().__init__(console, name=name)
        self._num_seeds = num_seeds
        self._num_epochs = 1
        self._num_views = 1
        self._epochs: dict[str, EpochRow | None] = {}
        self._records: dict[str, TrialRecord] = {}

    def begin(self, *, num_epochs: int, num_views: int) -> None:
        """Seeds can be trained from now on, each for so many epochs."""
        self._num_epochs, self._num_views = num_epochs, num_views

    def on_start(self, trial_id: str, trainable_params: int, name: str | None) -> None:
        """See `SearchObserver.on_start`."""
        self._epochs[trial_id] = None

    def on_epoch(self, trial_id: str, row: EpochRow) -> None:
        """See `SearchObserver.on_epoch`."""
        self._epochs[trial_id] = row
        if self._live is None:
            text = f"{_seed_label(trial_id)}: {self._epoch_label(row)}"
            self._line(text, is_minor=row.epoch < self._num_epochs)

    def on_record(self, record: TrialRecord) -> None:
        """See `SearchObserver.on_record`."""
        self._records[record.id] = record
        if self._live is None:
            done = f"[{len(self._records)}/{self._num_seeds}]"
            text = f"{done} {_seed_label(record.id)}: {self._result_label(record)}"
            self._line(text, is_minor=False)

    def _render(self) -> RenderableType:
        if not any(self._epochs.values()):
            return self._headline()
        rows = Table.grid(padding=(0, 2))
        for seed_id, row in self._epochs.items():
            record = self._records.get(seed_id)
            rows.add_row(
                _seed_label(seed_id),
                ProgressBar(total=self._num_epochs, completed=row.epoch if row else 0, width=24),
                self._result_label(record) if record else self._epoch_label(row),
            )
        return Group(self._title(), rows)

    def _epoch_label(self, row: EpochRow | None) -> str:
        if row is None:
            return "waits for its first epoch"
        result = f"epoch {row.epoch} of {self._num_epochs}, val {percent_label(row.top1)} %"
        return result + (", measuring test" if row.epoch == self._num_epochs else "")

    def _result_label(self, record: TrialRecord) -> str:
        if record.state is not TrialState.COMPLETE:
            return f"{record.state.value}: {record.reason}"
        result = f"val {percent_label(record.top1)} %, test {percent_label(record.test_top1)} %"
        if self._num_views > 1:
            views = percent_label(record.test_top1_multi_view)
            result += f", {self._num_views} views {views} %"
        return result


def seeds_table(records: Sequence[TrialRecord], *, num_views: int) -> Table:
    """Validation and test accuracy of each seed; their mean and deviation where there are two."""
    measures = [name for name in MEASURES if num_views > 1 or name != "test_top1_multi_view"]
    heads = {
        "val_top1": "val %",
        "test_top1": "test %",
        "test_top1_multi_view": f"test %, {num_views} views",
    }
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("seed")
    for name in measures:
        table.add_column(heads[name], justify="right")
    table.add_column("seconds", justify="right")
    for record in records:
        cells = [percent_label(getattr(record, MEASURES[name])) for name in measures]
        if record.state is not TrialState.COMPLETE:
            cells = [record.state.value, *[""] * (len(measures) - 1)]
        table.add_row(str(record.config["seed"]), *cells, f"{record.seconds:.1f}")
    if len(records) > 1:
        table.add_section()
        spreads = [_spread_label(spread_of(records, name)) for name in measures]
        table.add_row(Text("mean"), *spreads, "", style="bold")
    return table


def _spread_label(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    return f"{spread.mean:.1f}" + (f" ± {spread.sd:.1f}" if spread.sd is not None else "")


def _seed_label(seed_id: str) -> str:
    return seed_id.replace("seed", "seed ")
