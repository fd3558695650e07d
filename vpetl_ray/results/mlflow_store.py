"""A SQLite store for MLflow that is there whole or not at all.

MLflow makes its tables in some seventy steps. Cut off between two of them it leaves a file that it
can neither use nor go on with. So they are made in memory, which takes two thirds of the time, and
the file gets its name when it is whole.

Importing this module imports MLflow.
"""

from __future__ import annotations

import contextlib
import glob
import logging
import os
import secrets
import sqlite3
import time
from pathlib import Path

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.tracking import DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from vpetl_ray.addresses import redact

log = logging.getLogger(__name__)

_SECONDS_AT_REST = 5.0
"""Without a change, after which nobody is at work on a half-made store."""
_FILLED_BY_ITSELF = {"alembic_version", "workspaces"}
"""Tables that have rows before anybody has written anything."""


def open_store(uri: str, *, is_own: bool) -> MlflowClient:
    """Open a store; one in a SQLite file is made first where there is none.

    Args:
        uri: MLflow's tracking URI, of any kind.
        is_own: it belongs to one search: what an earlier version left half-made is made anew.

    Raises:
        ValueError: MLflow was cut off while it made this store.
        Exception: what MLflow raises.
    """
    path = _file_of(uri)
    if path is None:
        return MlflowClient(tracking_uri=uri)
    _make(path)
    changed = path.stat().st_mtime if path.exists() else time.time()
    try:
        return MlflowClient(tracking_uri=uri)
    except Exception as error:
        if not _holds_nothing(path) or time.time() - changed < _SECONDS_AT_REST:
            raise
        if not is_own:
            raise ValueError(
                f"{redact(uri, uri)}: MLflow was cut off while it made this store, which holds "
                f"nothing: remove {path}, and the next search makes it anew"
            ) from error
    _make_over(path)
    return MlflowClient(tracking_uri=uri)


def _file_of(uri: str) -> Path | None:
    """Tell which file a URI names; None if it is not one of SQLite."""
    try:
        url = make_url(uri)
    except (ArgumentError, ValueError):
        return None
    name = url.database or ":memory:"
    is_file = url.get_backend_name() == "sqlite" and not name.startswith((":", "file:"))
    return Path(name) if is_file else None


def _make(path: Path) -> None:
    """Make a store, unless there is one; of several processes at once, the first one's stays."""
    if path.exists() or (content := _new_store()) is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.making")
    for left in path.parent.glob(
        f".{glob.escape(path.name)}.*.making"
    ):  # by one that was killed while it wrote
        with contextlib.suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > _SECONDS_AT_REST:
                left.unlink()
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        _name_unless_taken(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _name_unless_taken(temporary: Path, path: Path) -> None:
    try:
        os.link(temporary, path)
    except FileExistsError:
        log.info("another process was faster to make %s", path)
    except OSError:  # a file system without links
        if not path.exists():
            temporary.rename(path)


def _new_store() -> bytes | None:
    """Give the content of a store without experiments; None where MLflow has to make it in place.

    That is so with settings of its connection pool in the environment, which fit servers alone.
    """
    try:
        store = SqlAlchemyStore(  # type: ignore[no-untyped-call]
            "sqlite:///:memory:", DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH
        )
    except (MlflowException, SQLAlchemyError, TypeError) as error:
        log.info("MLflow cannot make a store in memory: %s", error)
        return None
    try:
        with contextlib.closing(store.engine.raw_connection()) as connection:
            database = connection.driver_connection
            assert isinstance(database, sqlite3.Connection)
            return database.serialize()
    finally:
        store.engine.dispose()


def _make_over(path: Path) -> None:
    """Put a new store in the place of one, in one transaction; who has it open sees the new one."""
    content = _new_store()
    if content is None:
        return
    with (
        contextlib.closing(sqlite3.connect(":memory:")) as new,
        contextlib.closing(sqlite3.connect(path)) as old,
    ):
        new.deserialize(content)
        new.backup(old)


def _holds_nothing(path: Path) -> bool:
    """Whether a database can be read and has no row that anybody has written."""
    address = f"{path.absolute().as_uri()}?mode=ro"
    try:
        with contextlib.closing(sqlite3.connect(address, uri=True)) as database:
            named = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            tables = [name for (name,) in named if name not in _FILLED_BY_ITSELF]
            queries = [f'SELECT 1 FROM "{name}" LIMIT 1' for name in tables]  # noqa: S608  # nosec B608
            rows = [database.execute(query).fetchone() for query in queries]
    except sqlite3.Error:
        return False
    return not any(rows)
