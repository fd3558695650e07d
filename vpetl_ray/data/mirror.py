"""A folder of results that is kept on object storage: written here, copied there as it changes."""

from __future__ import annotations

import hashlib
import logging
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from vpetl_ray.data.config import cache_root
from vpetl_ray.data.shared_store import SharedStore
from vpetl_ray.errors import DataError

log = logging.getLogger(__name__)

SECONDS_BETWEEN_COPIES = 10.0
_NAME = "results"


def download_results(url: str) -> tuple[Path, tempfile.TemporaryDirectory[str]]:
    """Copy what a run left under `url` to a folder of its own, to be read.

    Not to the folder that a search writes here: one may be at work on the same address.

    Returns:
        The folder, and what removes it.

    Raises:
        DataError: it cannot be read, or holds no results.
    """
    store = SharedStore(url, named="results")
    keep = tempfile.TemporaryDirectory(prefix="vpetl_results_")
    folder = Path(keep.name) / store.url.rpartition("/")[2]
    if not store.fetch(_NAME, folder):
        raise DataError(f"{url}: there are no results there")
    return folder, keep


class Mirror:
    """A local folder and its copy under `url`.

    Args:
        url: where the results belong, like `s3://bucket/runs/name`.
        warn: takes a sentence when a copy fails first.

    Attributes:
        folder: what to write to; what the store had is there after `fetch`.
    """

    def __init__(self, url: str, *, warn: Callable[[str], None] = log.warning) -> None:
        self.url = url.rstrip("/")
        self._store = SharedStore(self.url, named="--out")
        self._warn = warn
        mark = hashlib.sha256(self.url.encode()).hexdigest()[:16]
        self.folder = cache_root() / "mirrors" / mark / self.url.rpartition("/")[2]
        self._sent: dict[str, tuple[int, int]] = {}
        self._is_over = threading.Event()
        self._has_failed = False
        self._thread: threading.Thread | None = None

    def fetch(self) -> bool:
        """Get what an earlier run has left there; False: nothing."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        return self._store.fetch(_NAME, self.folder)

    def start(self) -> None:
        """Copy what changes, from now on, every few seconds."""
        self._thread = threading.Thread(target=self._run, name="results-mirror", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Copy the last changes.

        Raises:
            DataError: they could not be copied; they are in `folder`.
        """
        self._is_over.set()
        if self._thread is not None:
            self._thread.join()
        if self.folder.exists():
            self._store.push(_NAME, self.folder)

    def _run(self) -> None:
        while not self._is_over.wait(SECONDS_BETWEEN_COPIES):
            try:
                self._copy()
            except (DataError, OSError) as error:
                if not self._has_failed:
                    self._warn(f"results are not copied to {self.url} now: {error}")
                self._has_failed = True

    def _copy(self) -> None:
        if self.folder.exists() and self._changed():
            # The list of files comes last, so that what is fetched is a whole state of the search.
            self._store.push(_NAME, self.folder)

    def _changed(self) -> bool:
        seen = {
            str(path): (path.stat().st_mtime_ns, path.stat().st_size)
            for path in self.folder.rglob("*")
            if path.is_file()
        }
        is_new, self._sent = seen != self._sent, seen
        return is_new
