"""What `confirm` shows: the runs under way, and at the end the front with its means."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table

from vpetl_ray.results.confirmed import Confirmation, Member, optimism, spread_label
from vpetl_ray.results.front_facts import UNIT
from vpetl_ray.results.labels import config_label, count_label
from vpetl_ray.results.records import EpochRow, TrialRecord, TrialState
from vpetl_ray.results.standings import Standing, Verdict
from vpetl_ray.stage_display import StageDisplay, percent_label
from vpetl_ray.tuning.seed_runs import PlannedRun


class ConfirmDisplay(StageDisplay):
    """Watches the runs (see `tuning.searcher.SearchObserver`).

    Args:
        console: where to write; a terminal gets a live block, anything else plain lines.
        name: of the search.
        num_runs: how many there will be.
    """

    def __init__(self, console: Console, *, name: str, num_runs: int) -> None:
        super().__init__(console, name=name)
        self._num_runs = num_runs
        self._num_done = 0
        self._num_epochs: dict[str, int] = {}
        self._running: dict[str, EpochRow | None] = {}

    def begin(self, runs: Sequence[PlannedRun]) -> None:
        """Runs can be trained from now on."""
        self._num_epochs = {run.record.id: _num_epochs(run) for run in runs}

    def on_start(self, trial_id: str, trainable_params: int, name: str | None) -> None:
        """See `SearchObserver.on_start`."""
        self._running[trial_id] = None

    def on_epoch(self, trial_id: str, row: EpochRow) -> None:
        """See `SearchObserver.on_epoch`."""
        self._running[trial_id] = row

    def on_record(self, record: TrialRecord) -> None:
        """See `SearchObserver.on_record`."""
        self._running.pop(record.id, None)
        self._num_done += 1
        if self._live is None:
            result = f"{record.state.value}: {record.reason}"
            if record.state is TrialState.COMPLETE:
                val, test = percent_label(record.top1), percent_label(record.test_top1)
                result = f"val {val} %, test {test} %"
            text = f"[{self._num_done}/{self._num_runs}] {_run_label(record.id)}: {result}"
            self._line(text, is_minor=False)

    def _render(self) -> RenderableType:
        if not self._running:
            return self._headline()
        rows = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=self._num_runs, completed=self._num_done, width=24)
        rows.add_row("all", bar, f"{self._num_done} of {self._num_runs} runs")
        for run, row in self._running.items():
            epochs = self._num_epochs.get(run, 1)
            what = f"epoch {row.epoch} of {epochs}" if row else "waits for its first epoch"
            done = row.epoch if row else 0
            rows.add_row(_run_label(run), ProgressBar(total=epochs, completed=done, width=24), what)
        return Group(self._title(), rows)


def _num_epochs(run: PlannedRun) -> int:
    recipe = run.config.recipe
    return recipe.probe_epochs if run.config.is_probe else recipe.epochs


def _run_label(run: str) -> str:
    return run.replace("-seed", ", seed ")


def confirmed_table(known: Confirmation) -> Table:
    """Each member, cheapest first: what the search said, means over the seeds, where it stands."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("trial", no_wrap=True)
    table.add_column("config", overflow="fold", max_width=30)
    for head in ("parameters", "search %", "val %", "test %"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("")
    verdicts = known.verdicts
    for member in known.members:
        table.add_row(
            member.id,
            member.name or config_label(member.config),
            f"{member.trainable_params:,}",
            percent_label(member.search_top1),
            spread_label(member.spread("val_top1")),
            spread_label(member.spread("test_top1")),
            mark(member, verdicts.get(member.id)),
        )
    return table


def mark(member: Member, verdict: Verdict | None) -> str:
    """Say in a few words where a member stands; nothing where it stands as the search said."""
    if verdict is None:
        failed = [r for r in member.seeds.values() if r.state is not TrialState.COMPLETE]
        return f"failed: {failed[0].reason}" if failed else "not trained"
    if verdict.standing is Standing.CONFIRMED:
        return ""
    word = "behind" if verdict.standing is Standing.BEHIND else "level with"
    return f"{word} {verdict.beaten_by}"


def _seeds_label(counts: Sequence[int]) -> str:
    words = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])
    return f"{words} seed" + ("" if words == "1" else "s")


def closing_lines(known: Confirmation) -> list[str]:
    """Say what the marks mean, what the front is worth now, and how lucky the search was."""
    noise = known.noise
    counts = sorted({len(member.done) for member in known.members if member.done})
    lines = [f"search: validation with the search's seed; the others over {_seeds_label(counts)}"]
    if noise.sd is None:
        lines.append("one seed has no spread: give two or more, and what falls behind is marked")
    else:
        lines.append(
            f"behind: beaten on test by a member as cheap, beyond the noise of seeds (standard "
            f"deviation {noise.sd:.2f} points, pooled; one-sided t-test at 5%, Bonferroni)"
        )
    lines.append(
        f"hypervolume {known.hypervolume:.1f} {UNIT} (mean test top-1, up to "
        f"{count_label(known.max_params)} parameters, down to 0%); the search's own, on "
        f"validation: {known.search_hypervolume:.1f}"
    )
    luck = optimism(known.members)
    if luck is not None:
        lines.append(
            f"the search's validation accuracies lie {luck:+.1f} points off the seeds' means"
        )
    return lines
