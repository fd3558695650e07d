"""What a search leaves in its directory, kept up to date while it runs.

A thread writes: a table of thousands of rows and a picture take longer than a trial should wait.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vpetl_ray.errors import SearchError
from vpetl_ray.models.arch import get_arch
from vpetl_ray.results.atomic import replacing
from vpetl_ray.results.front import front_of, write_front
from vpetl_ray.results.front_facts import FrontFacts, front_facts
from vpetl_ray.results.heap import trim_heap
from vpetl_ray.results.labels import path_label
from vpetl_ray.results.model_card import CardFacts
from vpetl_ray.results.objectives import ALWAYS
from vpetl_ray.results.paper_points import paper_points
from vpetl_ray.results.records import Columns, EpochRow, TrialRecord, write_trials
from vpetl_ray.results.registration import Registration, roles_of
from vpetl_ray.results.report import Report, write_report
from vpetl_ray.results.search_page import PageFacts, write_search_page
from vpetl_ray.results.summary import search_markdown
from vpetl_ray.results.tracking import Tracker

SECONDS_BETWEEN_WRITES = 1.0
SECONDS_BETWEEN_PAGES = 10.0
"""A page is 5 MB, most of it plotly's."""
LARGEST_SHARE = 0.1
"""Of the time, for writing: files grow with the search, and what hands out trials is not to wait
longer for the interpreter's lock at its end than at its start."""
OBJECTIVES_FIGURE = "objectives.png"
"""Only where there are more than two."""
FRONT_FILES = ("front.png", "front.json", "front.parquet")


@dataclass(frozen=True, kw_only=True)
class SearchFacts:
    """What the files say about the search itself."""

    name: str
    backbone: str
    backbone_params: int
    budget: int | None
    """Most trainable parameters of a trial; None is no limit."""
    intro: str
    """One paragraph for people: data, backbone, what is searched."""
    references: Mapping[str, float] = field(default_factory=dict)
    """Objectives beside top-1 and parameters, by name: where the hypervolume ends on each axis."""
    data: str = ""
    """The kind of data set."""
    card: CardFacts | None = None
    """For the model cards of the front, which is then registered in MLflow."""


class SearchFiles:
    """Watches a search (see `tuning.searcher.SearchObserver`) and writes what is known so far.

    Files: `trials.parquet`, `front.json`, `front.parquet`, `front.png`, with more than two
    objectives `objectives.png`, `report.html`, and the trained tensors of the front in `adapters/`;
    once no more trials come, model cards beside these, `history.parquet`, `history.png` and what
    `report` finds out about the choices.
    Each is whole at any moment. MLflow is told from here as well, so that it never shows a front
    whose files are not there.

    Args:
        directory: exists.
        columns: config paths, for the tables.
        facts: about the search.
        tracker: MLflow's side; started.
        records: of an earlier run that is continued.
        keeps_all: keep the trained tensors of every complete trial until it has been tested.
        warn: takes the one sentence said when a file cannot be written.
    """

    def __init__(
        self,
        directory: Path,
        *,
        columns: Columns,
        facts: SearchFacts,
        tracker: Tracker,
        records: Sequence[TrialRecord] = (),
        keeps_all: bool = False,
        warn: Callable[[str], None],
    ) -> None:
        self._directory = directory
        self._columns = columns
        self._facts = facts
        self._tracker = tracker
        self._keeps_all = keeps_all
        self._warn = warn
        self._lock = threading.Lock()
        self._records = {record.number: record for record in records}
        self._untold = list(records)
        self._drawn: list[TrialRecord] | None = None
        self._is_dirty = threading.Event()
        self._is_closing = threading.Event()
        self._is_brief = False
        self._error: SearchError | None = None
        self._report: Report | None = None
        self._next_page = 0.0
        self._is_dirty.set()
        (directory / "adapters").mkdir(exist_ok=True)
        self._thread = threading.Thread(target=self._run, name="search-files", daemon=True)
        self._thread.start()

    @property
    def findings(self) -> tuple[str, ...]:
        """What mattered, in a few lines; nothing before it is closed."""
        return self._report.lines if self._report else ()

    def front_facts(self, front: Sequence[TrialRecord]) -> FrontFacts:
        """Measure a front of this search."""
        facts = self._facts
        return front_facts(
            front, backbone_params=facts.backbone_params, references=facts.references
        )

    def adapter_path(self, trial_id: str) -> Path:
        """Where a front member's trained tensors are."""
        return self._directory / "adapters" / f"{trial_id}.safetensors"

    def keep_tensors(self, record: TrialRecord, tensors: bytes) -> None:
        """Keep the tensors of a trial that is on the front now; no other can come back to it."""
        with self._lock:
            front = front_of([*self._records.values(), record])
        if self._keeps_all or record in front:
            with replacing(self.adapter_path(record.id)) as path:
                path.write_bytes(tensors)

    def read_tensors(self, record: TrialRecord) -> bytes:
        """What `keep_tensors` kept.

        Raises:
            SearchError: the file is gone.
        """
        try:
            return self.adapter_path(record.id).read_bytes()
        except OSError as error:
            raise SearchError(f"the tensors of {record.id} cannot be read: {error}") from error

    def on_start(self, trial_id: str, trainable_params: int, name: str | None) -> None:
        """Nothing is written about a trial that has not ended."""

    def on_epoch(self, trial_id: str, row: EpochRow) -> None:
        """See `on_start`."""

    def on_record(self, record: TrialRecord) -> None:
        """Take a new record, or a better known one, and have it written soon."""
        with self._lock:
            self._records[record.number] = record
            self._untold.append(record)
        self._is_dirty.set()

    def close(self, *, brief: bool = False) -> None:
        """Write what is left.

        Args:
            brief: without the report and the cards, which take seconds with thousands of trials.

        Raises:
            SearchError: the last state could not be written.
        """
        self._is_brief = brief
        self._is_closing.set()
        self._is_dirty.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def discard_dominated(self) -> None:
        """Remove the tensors of trials that the front has left behind; call it at the very end.

        With `keeps_all`, those that an interrupted search has still to test are left.
        """
        records = self._records.values()
        needed = [r for r in records if self._keeps_all and r.test_top1 is None]
        kept = {self.adapter_path(record.id) for record in (*front_of(records), *needed)}
        for path in (self._directory / "adapters").glob("*.safetensors"):
            if path not in kept:
                path.unlink()
                path.with_suffix(".md").unlink(missing_ok=True)

    def _run(self) -> None:
        while True:
            self._is_dirty.wait()
            is_last = self._is_closing.is_set()
            self._is_dirty.clear()
            begun = time.thread_time()  # a slow disk keeps nobody from the interpreter
            try:
                self._write(is_last=is_last)
                self._error = None
            except SearchError as error:
                if self._error is None:
                    self._warn(f"{error}; it is tried again with the next trial")
                self._error = error
            if is_last:
                return
            rest = (time.thread_time() - begun) / LARGEST_SHARE
            self._is_closing.wait(max(SECONDS_BETWEEN_WRITES, rest))

    def _write(self, *, is_last: bool) -> None:
        with self._lock:
            records = [self._records[number] for number in sorted(self._records)]
            untold, self._untold = self._untold, []
        for record in untold:
            path = self.adapter_path(record.id)
            self._tracker.log_trial(record, path if path.exists() else None)
        write_trials(
            self._directory / "trials.parquet",
            records,
            self._columns,
            costs=tuple(self._facts.references),
        )
        front = front_of(records)
        is_drawn = is_last or front != self._drawn
        if is_drawn:
            self._write_front(records, front, is_last=is_last)
            self._drawn = front
        if not is_last and time.monotonic() >= self._next_page:
            self._write_page(records, is_running=True)
            self._next_page = time.monotonic() + SECONDS_BETWEEN_PAGES
            is_drawn = True
        if is_drawn:
            trim_heap()

    def _write_front(
        self, records: Sequence[TrialRecord], front: Sequence[TrialRecord], *, is_last: bool
    ) -> None:
        from vpetl_ray.results.figures import plot_front  # noqa: PLC0415 - matplotlib takes a second

        facts = self._facts
        known = self.front_facts(front)
        write_front(
            self._directory,
            front,
            columns=self._columns,
            costs=tuple(facts.references),
            extra=self._extra(known),
        )
        plot_front(
            records,
            self._directory / "front.png",
            title=facts.name,
            subtitle=f"{facts.backbone}, frozen",
            budget=facts.budget,
            paper=paper_points(facts.backbone, facts.data),
        )
        files = [self._directory / name for name in FRONT_FILES]
        if facts.references:
            files.append(self._directory / OBJECTIVES_FIGURE)
            self._plot_objectives(records)
        if is_last:
            if not self._is_brief:  # before the page, which shows what is in it
                self._report = self._write_report(records)
                files += self._report.files
            files.append(self._write_page(records, is_running=False))
            if not self._is_brief:
                self._register(front)
        self._tracker.update_front(
            front,
            metrics=known.metrics,
            files=files,
            note=search_markdown(
                facts.intro,
                records,
                front,
                name=facts.name,
                budget=facts.budget,
                facts=known,
                findings=self._report.markdown if self._report else "",
            ),
        )

    def _write_page(self, records: Sequence[TrialRecord], *, is_running: bool) -> Path:
        facts = self._facts
        page = PageFacts(
            name=facts.name,
            folder=path_label(self._directory),
            backbone=facts.backbone,
            backbone_params=facts.backbone_params,
            data=facts.data,
            budget=facts.budget,
            references=facts.references,
        )
        return write_search_page(self._directory, page, records, is_running=is_running)

    def _register(self, front: Sequence[TrialRecord]) -> None:
        """Write a card for each member, and make them versions of a registered model."""
        if self._facts.card is None:
            return
        from vpetl_ray.results.card_files import write_cards  # noqa: PLC0415 - torch, as above

        members = write_cards(self._directory, self._facts.card, front)
        if members:
            self._tracker.register(
                Registration(
                    name=self._facts.name,
                    members=members,
                    aliases=roles_of(front),
                )
            )

    def _plot_objectives(self, records: Sequence[TrialRecord]) -> None:
        from vpetl_ray.results.objective_figure import plot_objectives  # noqa: PLC0415 - as above

        path = self._directory / OBJECTIVES_FIGURE
        plot_objectives(records, tuple(self._facts.references), path, title=self._facts.name)

    def _write_report(self, records: Sequence[TrialRecord]) -> Report:
        facts = self._facts
        return write_report(
            self._directory,
            records,
            name=facts.name,
            arch=get_arch(facts.backbone),
            max_params=facts.backbone_params,
            references=facts.references,
        )

    def _extra(self, known: FrontFacts) -> dict[str, object]:
        facts = self._facts
        return {
            "name": facts.name,
            "backbone": facts.backbone,
            "budget": facts.budget,
            **({"objectives": [*ALWAYS, *facts.references]} if facts.references else {}),
            **known.to_dict(),
        }
