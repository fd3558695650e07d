"""The state of a run on object storage: a list, and the objects that it names.

    results/.whole.json             the list, written last: which object holds which file
    results/front.png, ...          files, each replaced whole
    results/study.db.5e1f0c...      a database as it was at one moment, under a name of its own

Whoever reads it in the middle of a copy, or after one that was cut off, has the last whole state:
what the list names of a database is never written again. Databases are copied through SQLite,
since a file that is being written to is no database. The other files are made anew from the study
by who goes on, or have checksums, so that they may be newer than the list.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vpetl_ray.data.shared_store import WHOLE, SharedStore, place_within
from vpetl_ray.errors import DataError

_NAME = "results"
_DATABASE = ".db"
_NOT_KEPT = ("-wal", "-shm", "-journal")
"""Beside a database: what is in them is in its copy."""


@dataclass(frozen=True, kw_only=True)
class StoredState:
    """What a list says."""

    push: str
    """Differs from one copy to the next."""
    objects: Mapping[str, str] = field(default_factory=dict)
    """Relative path of each file: the object that holds it, under `results`."""


class ResultsStore:
    """Results under one address.

    Args:
        url: like `s3://bucket/runs/name`.
        named: what the user gave it by, for a message.

    Raises:
        DataError: there is no such kind of storage.
    """

    def __init__(self, url: str, *, named: str) -> None:
        self._store = SharedStore(url, named=named)
        self._sent: dict[str, tuple[int, int]] = {}
        self._before: frozenset[str] = frozenset()

    @property
    def url(self) -> str:
        """The address."""
        return self._store.url

    def state(self) -> StoredState | None:
        """Read the list; None where there are no results.

        Raises:
            DataError: the storage does not answer, or the list is damaged.
        """
        content = self._store.read(f"{_NAME}/{WHOLE}")
        if content is None:
            return None
        try:
            listed = json.loads(content)
            if "push" not in listed:  # of an earlier version: sizes by path
                mark = hashlib.sha256(content).hexdigest()[:16]
                return StoredState(push=mark, objects={path: path for path in listed})
            return StoredState(push=str(listed["push"]), objects=dict(listed["objects"]))
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"{self.url}: its list of files is damaged: {error!r}") from error

    def fetch(self, state: StoredState, target: Path) -> None:
        """Copy a state to a folder, which takes the place of one that is there.

        Raises:
            DataError: the storage does not answer, or lacks a file.
        """
        temporary = target.parent / f".{target.name}.{secrets.token_hex(4)}"
        try:
            temporary.mkdir(parents=True)
            for relative, name in state.objects.items():
                place = place_within(temporary, relative, self.url)
                place.parent.mkdir(parents=True, exist_ok=True)
                self._store.get_file(f"{_NAME}/{name}", place)
            shutil.rmtree(target, ignore_errors=True)
            temporary.rename(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def push(self, source: Path, before: StoredState | None, *, push: str) -> StoredState:
        """Copy what has changed in a folder since the last push, then the list.

        Args:
            source: the folder.
            push: its name, in the list.
            before: what is there; its databases stay for who is reading them, until the next push.

        Raises:
            DataError: the storage does not take it. What `before` names is still whole.
            OSError, sqlite3.Error: a file cannot be read here.
        """
        objects = {}
        paths = sorted(source.rglob("*"), key=lambda path: (path.suffix != _DATABASE, path))
        for path in paths:  # databases first: what they tell of is there, then, and is copied, too
            relative = path.relative_to(source).as_posix()
            if not path.is_file() or path.name.startswith(".") or path.name.endswith(_NOT_KEPT):
                continue
            is_database = path.suffix == _DATABASE
            name = self._push_database(path, relative) if is_database else relative
            if is_database or self._push_file(path, relative):
                objects[relative] = name
        state = StoredState(push=push, objects=objects)
        self._store.write(f"{_NAME}/{WHOLE}", json.dumps(vars(state)).encode())
        self._remove_databases(before, state)
        return state

    def _push_file(self, path: Path, name: str) -> bool:
        """Copy a file unless it is there; False: it is gone meanwhile."""
        try:
            seen = (path.stat().st_mtime_ns, path.stat().st_size)
            if self._sent.get(name) != seen:
                self._store.push_file(f"{_NAME}/{name}", path)
        except FileNotFoundError:
            return False
        self._sent[name] = seen
        return True

    def _push_database(self, path: Path, relative: str) -> str:
        with _snapshot(path) as copy:
            name = f"{relative}.{hashlib.sha256(copy.read_bytes()).hexdigest()[:16]}"
            self._push_file_once(copy, name)
        return name

    def _push_file_once(self, path: Path, name: str) -> None:
        if name not in self._sent:
            self._store.push_file(f"{_NAME}/{name}", path)
            self._sent[name] = (0, 0)

    def _remove_databases(self, before: StoredState | None, now: StoredState) -> None:
        """Remove those that neither this list nor the one before names."""
        named = frozenset(name for path, name in now.objects.items() if name != path)
        if before is not None:
            named |= {name for path, name in before.objects.items() if name != path}
        for name in self._before - named:
            with contextlib.suppress(DataError):
                self._store.delete(f"{_NAME}/{name}")
            self._sent.pop(name, None)
        self._before = named


@contextlib.contextmanager
def _snapshot(path: Path) -> Iterator[Path]:
    """Yield a copy of a database as it is between two of its transactions."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        with (
            contextlib.closing(sqlite3.connect(path, timeout=30.0)) as original,
            contextlib.closing(sqlite3.connect(copy)) as target,
        ):
            original.backup(target)
        yield copy
