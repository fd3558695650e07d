"""Tells MLflow about a search without the search ever waiting for it.

The caller's side only puts messages into a queue. A writer thread imports MLflow (seconds), keeps
what is still to be told, and tells it; what fails is tried again after a pause, from what MLflow
then says it has, so nothing is doubled. A tracking server that stays away costs one warning, and
the search's own files miss nothing.
"""

import dataclasses
import logging
import os
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vpetl_ray.addresses import redact
from vpetl_ray.results.records import TrialRecord, TrialState
from vpetl_ray.results.registration import Registration
from vpetl_ray.results.tracking_info import RunStatus, TrackingInfo
from vpetl_ray.results.tracking_uri import ui_address, ui_command
from vpetl_ray.results.waiting_records import WaitingRecords

if TYPE_CHECKING:
    from vpetl_ray.results.mlflow_writer import MlflowWriter

__all__ = ["RunStatus", "Tracker", "TrackingInfo", "TrackingReport"]

_LOG = logging.getLogger(__name__)

# MLflow's own are 7 tries of 120 s each: minutes before a dead server is known to be dead.
_CLIENT_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
_CHATTY = ("mlflow", "alembic", "urllib3.connectionpool")
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 30.0
_LONGEST_PAUSE_AT_END = 2.0
PATIENCE_SECONDS = 20.0
"""How long the end waits for a server that only fails: what waits is kept, and `sync` tells it."""
# Errors that a second try does not change: the record is given up, the others go on.
_NO_REGISTRY = {"ENDPOINT_NOT_FOUND", "NOT_IMPLEMENTED", "PERMISSION_DENIED", "FEATURE_DISABLED"}
_PERMANENT = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrackingReport:
    """What MLflow has, at the end."""

    delivered: int
    """Trials whose whole record MLflow has."""
    undelivered: int
    """Trials that it has not; their records are in ``trials.parquet``."""
    is_complete: bool
    """Everything is there: trials, front, artifacts, the search's own end."""
    parent_run_id: str | None
    ui_command: str
    ui_page: str | None
    """Address of the search's run, to open in a browser once the UI runs."""
    problem: str | None
    """The last error, in one line, without credentials."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Summary:
    """The latest about the whole. Of several that wait, only the last is written."""

    front: tuple[str, ...] = ()
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    files: tuple[Path, ...] = ()
    note: str = ""


def set_client_defaults() -> None:
    """Let MLflow's client give up on a dead server within seconds; call it before the import."""
    for name, value in _CLIENT_DEFAULTS.items():
        os.environ.setdefault(name, value)


def quiet_client() -> None:
    """Keep MLflow off the screen; call it after the import, which sets the levels."""
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.CRITICAL)


class Tracker:
    """One search's line to MLflow. Start it, tell it, finish it; no call waits but the last.

    To go on with an interrupted search, start a tracker with the same ``search_id`` and tell it
    every record again: what MLflow has is recognised, the rest is delivered.
    """

    def __init__(
        self,
        info: TrackingInfo,
        *,
        warn: Callable[[str], None] | None = None,
        directory: Path | None = None,
    ) -> None:
        """Take what does not change.

        Args:
            info: about the whole.
            warn: takes the one sentence said when MLflow fails first; default: the log.
            directory: keeps what waits, see `waiting_records`; None keeps it in memory alone.
        """
        self._info = info
        self._waiting = None if directory is None else WaitingRecords(directory, info)
        self._warn = warn or _LOG.warning
        self._messages: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._wake = threading.Event()
        self._abandoned = threading.Event()
        self._thread = threading.Thread(target=self._write, name="mlflow-writer", daemon=True)
        self._told: dict[str, TrialRecord] = {}
        # From here on: the writer thread's own.
        self._writer: MlflowWriter | None = None
        self._pending: dict[str, TrialRecord] = {}
        self._delivered: dict[str, TrialRecord] = {}
        self._adapters: dict[str, Path] = {}
        self._states: dict[str, TrialState] = {}
        self._summary = _Summary()
        self._registration: Registration | None = None
        self._progress_is_due = False
        self._status: RunStatus | None = None
        self._closed = False
        self._parent_run_id: str | None = None
        self._page: str | None = None
        self._problem: str | None = None
        self._failing_since: float | None = None
        """Since when no trial got through."""

    @property
    def parent_run_id(self) -> str | None:
        """The search's run in MLflow, once it is made."""
        return self._parent_run_id

    @property
    def ui_command(self) -> str:
        """What to type or open to see the search."""
        return ui_command(self._info.uri)

    def start(self) -> None:
        """Start the writer. Returns at once."""
        set_client_defaults()
        self._thread.start()

    def log_trial(self, record: TrialRecord, adapter_path: Path | None = None) -> None:
        """Tell of a trial that has ended, or that is now known better (its test accuracy).

        Args:
            record: replaces what was told under its id before.
            adapter_path: its trained weights; read when the trial is on the front, so the file
                stays where it is until `finish`.
        """
        if record.state is not TrialState.INFEASIBLE or self._info.infeasible_runs:
            self._told[record.id] = record
        if self._waiting is not None:
            self._waiting.trial(record, adapter_path)

        def take() -> None:
            self._states[record.id] = record.state
            self._progress_is_due = True
            if record.state is not TrialState.INFEASIBLE or self._info.infeasible_runs:
                self._pending[record.id] = record
            if adapter_path is not None:
                self._adapters[record.id] = adapter_path

        self._messages.put(take)

    def update_front(
        self,
        front: Sequence[TrialRecord],
        *,
        metrics: Mapping[str, float] | None = None,
        files: Sequence[Path] = (),
        note: str = "",
    ) -> None:
        """Tell who is on the front now. Of several updates that wait, only the last is written.

        Args:
            front: from `front_of`.
            metrics: more of the search's run than the front's size and best accuracy.
            files: figure and tables, uploaded to the search's run as they are at that moment.
            note: Markdown that becomes the description of the search's run.
        """
        accuracies = [record.top1 for record in front if record.top1 is not None]
        told = {"front_size": float(len(front)), **(metrics or {})}
        if accuracies:
            told["best_top1"] = max(accuracies)
        self.update(tuple(record.id for record in front), told, tuple(files), note)

    def update_result(
        self, metrics: Mapping[str, float], *, files: Sequence[Path] = (), note: str = ""
    ) -> None:
        """Tell what a config trained by itself came to so far, over its seeds.

        Args:
            metrics: of the first run.
            files: uploaded to it as they are at that moment.
            note: Markdown that becomes its description.
        """
        self.update((), dict(metrics), tuple(files), note)

    def register(self, registration: Registration) -> None:
        """Make the front a registered model, once its trials are told.

        Args:
            registration: its files stay where they are until `finish`.
        """
        if self._waiting is not None:
            self._waiting.registration(registration)

        def take() -> None:
            self._registration = registration

        self._messages.put(take)

    def update(
        self,
        front: tuple[str, ...],
        metrics: Mapping[str, float],
        files: tuple[Path, ...],
        note: str,
    ) -> None:
        """Tell the latest about the whole, as the two above make it; the front by its ids."""
        summary = _Summary(front=front, metrics=metrics, files=files, note=note)
        if self._waiting is not None:
            self._waiting.summary(**vars(summary))

        def take() -> None:
            self._summary, self._progress_is_due = summary, True

        self._messages.put(take)

    def finish(
        self, status: RunStatus, *, timeout: float = 60.0, patience: float = PATIENCE_SECONDS
    ) -> TrackingReport:
        """End the search's run and wait until everything is told.

        Args:
            status: how it ended.
            timeout: seconds after which the rest is left untold.
            patience: the same, of a server that has only failed for so long.
        """
        if self._waiting is not None:
            self._waiting.status(status)

        def take() -> None:
            self._status = status

        self._messages.put(take)
        self._wake.set()
        if self._thread.ident is not None:
            self._wait(time.monotonic() + timeout, patience)
        self._abandoned.set()
        self._wake.set()
        delivered = sum(self._delivered.get(id_) is record for id_, record in self._told.items())
        undelivered = len(self._told) - delivered
        is_complete = self._closed and undelivered == 0
        if self._waiting is not None:
            self._waiting.close(is_delivered=is_complete)
        return TrackingReport(
            delivered=delivered,
            undelivered=undelivered,
            is_complete=is_complete,
            parent_run_id=self._parent_run_id,
            ui_command=self.ui_command,
            ui_page=self._page,
            problem=self._problem,
        )

    def _wait(self, deadline: float, patience: float) -> None:
        started = time.monotonic()
        while self._thread.is_alive() and time.monotonic() < deadline:
            failing = self._failing_since
            if failing is not None and time.monotonic() - max(failing, started) > patience:
                return
            self._thread.join(0.1)

    def _write(self) -> None:
        pause = 0.0
        while not self._abandoned.is_set() and not self._closed:
            self._take_messages(wait=pause == 0.0)
            try:
                self._deliver()
                pause, self._failing_since = 0.0, None
            except Exception as error:  # noqa: BLE001 - tracking must never end a search
                self._note(error)
                if self._failing_since is None:
                    self._failing_since = time.monotonic()
                self._writer = None  # the next try asks MLflow what has arrived
                pause = min(max(2 * pause, _FIRST_PAUSE), self._longest_pause)
                self._wake.wait(pause)
                self._wake.clear()

    @property
    def _longest_pause(self) -> float:
        return _LONGEST_PAUSE if self._status is None else _LONGEST_PAUSE_AT_END

    def _take_messages(self, *, wait: bool) -> None:
        if wait and self._writer is not None:
            self._messages.get()()
        while True:
            try:
                self._messages.get_nowait()()
            except queue.Empty:
                return

    def _deliver(self) -> None:
        """Everything that is still to be told, in the order in which it makes sense to a reader."""
        writer = self._connected()
        for trial_id in list(self._pending):
            if self._abandoned.is_set():
                return
            self._deliver_trial(writer, trial_id)
        is_search = self._info.kind == "search"
        if is_search:
            writer.write_pareto(self._summary.front)
        for trial_id in self._summary.front if is_search else list(self._adapters):
            self._deliver_adapter(writer, trial_id)
        if self._progress_is_due:
            self._deliver_progress(writer)
        if self._registration is not None:
            self._deliver_registration(writer, self._registration)
        if self._status is not None:
            writer.close(self._status)
            self._closed = True

    def _connected(self) -> "MlflowWriter":
        if self._writer is None:
            from vpetl_ray.results import mlflow_writer  # noqa: PLC0415 - takes seconds

            quiet_client()
            self._writer = mlflow_writer.MlflowWriter(self._info)
            self._parent_run_id = self._writer.parent_run_id
            self._page = f"{ui_address(self._info.uri)}/{self._writer.page}"
        return self._writer

    def _deliver_trial(self, writer: "MlflowWriter", trial_id: str) -> None:
        record = self._pending[trial_id]
        try:
            writer.write_trial(record, pareto=trial_id in self._summary.front)
        except Exception as error:
            if getattr(error, "error_code", None) not in _PERMANENT:
                raise
            self._note(error)
        else:
            self._delivered[trial_id] = record
            self._failing_since = None
        del self._pending[trial_id]

    def _deliver_adapter(self, writer: "MlflowWriter", trial_id: str) -> None:
        path = self._adapters.get(trial_id)
        if path is None:
            return
        if path.is_file():
            writer.write_adapter(trial_id, path)
        else:
            del self._adapters[trial_id]
            self._note(FileNotFoundError(f"the adapter file of {trial_id} is gone: {path}"))

    def _deliver_progress(self, writer: "MlflowWriter") -> None:
        metrics = dict(self._summary.metrics)
        if self._info.kind == "search":
            counts = Counter(self._states.values())
            metrics |= {f"trials_{state}": counts[state] for state in TrialState}
            metrics.setdefault("front_size", 0.0)
        writer.write_progress(
            metrics,
            step=len(self._states),
            note=self._summary.note,
            files=[path for path in self._summary.files if path.exists()],
        )
        self._progress_is_due = False

    def _deliver_registration(self, writer: "MlflowWriter", registration: Registration) -> None:
        try:
            writer.write_registration(registration)
        except Exception as error:
            if getattr(error, "error_code", None) not in _PERMANENT | _NO_REGISTRY:
                raise
            self._note(error)
        self._registration = None

    def _note(self, error: Exception) -> None:
        said_before = self._problem is not None
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        self._problem = redact(reason, self._info.uri)
        if not said_before:
            where = redact(self._info.uri, self._info.uri)
            self._warn(
                f"MLflow at {where} cannot be written to: {self._problem} "
                f"The {self._info.kind} goes on, its own files miss nothing, and delivery is "
                "tried again."
            )
