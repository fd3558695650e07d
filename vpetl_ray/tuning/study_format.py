"""Whether a study's file can be read by this version of the code, before anything touches it.

What a search is continued from is the study, the spec beside it and the checkpoints of trials at a
rung. They are of one format, whose number stands in the study. It is raised when a version that
reads the one before would go wrong on the new one; `tests/faults/formats` has a search of each
released version, and a test that goes on with it.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from pathlib import Path

from vpetl_ray.errors import SearchError

FORMAT = 1
"""0: what was written before there was a number."""
FORMAT_ATTRIBUTE = "format"
_FIRST_TABLES = {"studies", "version_info", "alembic_version"}
"""Optuna's, of which one is there before all others."""


def check_study(path: Path) -> None:
    """Check that the file is whole and of a format that is known here.

    Raises:
        SearchError: it is not.
    """
    try:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            found = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
            stored = _format_of(connection)
    except (sqlite3.Error, ValueError, TypeError, OverflowError, RecursionError) as error:
        found = str(error)
    if found != "ok":
        raise SearchError(
            f"{path}: the study is damaged ({' '.join(found.split())}); put a copy of it in its "
            "place, or search anew into another folder"
        )
    if stored > FORMAT:
        raise SearchError(
            f"{path}: was written by a newer version of vpetl_ray (format {stored}; this one reads "
            f"formats up to {FORMAT}); go on with that version, or search anew into another folder"
        )


def _format_of(connection: sqlite3.Connection) -> int:
    """Read the number; a file that was cut off before its tables were made has none yet.

    Raises:
        ValueError: the file is another program's.
    """
    query = "SELECT value_json FROM study_user_attributes WHERE key = ?"
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    if tables and not tables & _FIRST_TABLES:
        raise ValueError(f"it is a database of something else, with {min(tables)[:40]!r}")
    try:
        row = connection.execute(query, (FORMAT_ATTRIBUTE,)).fetchone()
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            return 0
        raise
    return int(json.loads(row[0])) if row else 0
