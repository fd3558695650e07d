"""A folder of results that is kept on object storage: written here, copied there as it changes."""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
import shutil
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from vpetl_ray.data.config import cache_root
from vpetl_ray.data.results_store import ResultsStore, StoredState
from vpetl_ray.errors import DataError

log = logging.getLogger(__name__)

SECONDS_BETWEEN_COPIES = 10.0
_FAILURES = (DataError, OSError, sqlite3.Error)
_MARK = "pushed.json"


def download_results(url: str) -> tuple[Path, tempfile.TemporaryDirectory[str]]:
    """Copy what a run left under `url` to a folder of its own, to be read.

    Not to the folder that a search writes here: one may be at work on the same address.

    Returns:
        The folder, and what removes it.

    Raises:
        DataError: it cannot be read, or holds no results.
    """
    store = ResultsStore(url, named="results")
    state = store.state()
    if state is None:
        raise DataError(f"{url}: there are no results there")
    keep = tempfile.TemporaryDirectory(prefix="vpetl_results_")
    folder = Path(keep.name) / store.url.rpartition("/")[2]
    store.fetch(state, folder)
    return folder, keep


class Mirror:
    """A local folder and its copy under `url`.

    Args:
        url: where the results belong, like `s3://bucket/runs/name`.
        warn: takes a sentence when copies begin to fail, and when they succeed again.

    Attributes:
        folder: what to write to; what the store had is there after `fetch`.
    """

    def __init__(self, url: str, *, warn: Callable[[str], None] = log.warning) -> None:
        self.url = url.rstrip("/")
        self._store = ResultsStore(self.url, named="--out")
        self._state: StoredState | None = None
        self._warn = warn
        mark = hashlib.sha256(self.url.encode()).hexdigest()[:16]
        self.folder = cache_root() / "mirrors" / mark / self.url.rpartition("/")[2]
        self._sent: dict[str, tuple[int, int]] = {}
        self._is_over = threading.Event()
        self._has_failed = False
        self._thread: threading.Thread | None = None

    def fetch(self) -> bool:
        """Get what an earlier run has left; False: nothing.

        What is in `folder` stays if nobody has written to the store since this machine did: a run
        that was cut off here, or whose last copies failed, is further than its copy.

        Raises:
            DataError: the store cannot be read.
        """
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        self._state = self._store.state()
        there = self._state.push if self._state else None
        if there in self._pushes() and any(self.folder.glob("*.db")):
            return True
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._state is not None:
            self._store.fetch(self._state, self.folder)
        self._note_pushes(there)
        return self._state is not None

    def start(self) -> None:
        """Copy what changes, from now on, every few seconds."""
        self._thread = threading.Thread(target=self._run, name="results-mirror", daemon=True)
        self._thread.start()

    def finish(self, patience: float, *, at_most: float | None = None) -> None:
        """Copy the last changes.

        Args:
            patience: seconds for which it is tried again. The last try may end later: one that is
                at work is not cut off, and storage that hangs is known to within a minute.
            at_most: seconds after which it is given up, whatever it is at; None: never.

        Raises:
            DataError: they could not be copied; they are in `folder`, from where the same command
                with `--resume` copies them.
        """
        self._is_over.set()
        problems: list[Exception] = []
        last = threading.Thread(
            target=self._copy_last, args=(patience, problems), name="results-last", daemon=True
        )
        last.start()
        last.join(at_most)
        if last.is_alive():
            problems.append(TimeoutError(f"they were not copied in {at_most:.0f} seconds"))
        if problems:
            raise DataError(
                f"the last results are not at {self.url}: {problems[-1]}; they are in "
                f"{self.folder}, and copied by going on on this machine"
            ) from problems[-1]

    def _copy_last(self, patience: float, problems: list[Exception]) -> None:
        """Try until it succeeds; what went wrong at last goes to `problems`."""
        if self._thread is not None:
            self._thread.join()
        deadline, pause = time.monotonic() + patience, 1.0
        while self.folder.exists():
            try:
                return self._push()
            except _FAILURES as error:
                if time.monotonic() + pause > deadline:
                    return problems.append(error)
            time.sleep(pause)
            pause = min(2 * pause, 10.0)
        return None

    def _run(self) -> None:
        while not self._is_over.wait(SECONDS_BETWEEN_COPIES):
            try:
                self._copy()
            except _FAILURES as error:
                self._sent = {}
                if not self._has_failed:
                    self._warn(
                        f"results are not copied to {self.url} now: {error}; it is tried again"
                    )
                self._has_failed = True
            else:
                if self._has_failed:
                    self._warn(f"results are copied to {self.url} again")
                self._has_failed = False

    def _copy(self) -> None:
        if self.folder.exists() and self._changed():
            self._push()

    def _push(self) -> None:
        """Copy, with what is about to be there noted before: a kill may come at any line."""
        before = self._state.push if self._state else None
        push = secrets.token_hex(8)
        self._note_pushes(before, push)
        self._state = self._store.push(self.folder, self._state, push=push)
        self._note_pushes(push)

    def _pushes(self) -> Sequence[str | None]:
        """What the store's list may say if this machine was the last to write to it."""
        try:
            mark = json.loads((self.folder.parent / _MARK).read_bytes())
            return list(mark["pushes"]) if "pushes" in mark else [mark["push"]]  # before 2026-11-28
        except (OSError, ValueError, KeyError, TypeError):
            return []

    def _note_pushes(self, *pushes: str | None) -> None:
        mark = self.folder.parent / _MARK
        half = mark.with_suffix(".tmp")
        half.write_text(json.dumps({"pushes": pushes}))
        half.replace(mark)

    def _changed(self) -> bool:
        try:
            seen = {
                str(path): (path.stat().st_mtime_ns, path.stat().st_size)
                for path in self.folder.rglob("*")
                if path.is_file()
            }
        except FileNotFoundError:  # one was removed between two looks
            return True
        is_new, self._sent = seen != self._sent, seen
        return is_new
