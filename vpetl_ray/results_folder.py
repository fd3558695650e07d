"""The folder of one run: claimed by one process at a time, and never mistaken for another's."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vpetl_ray.errors import SearchError, SpecError
from vpetl_ray.results.atomic import replacing
from vpetl_ray.results.search_folder import LOCK_FILE
from vpetl_ray.spec.load import load_spec
from vpetl_ray.spec.search_spec import SearchSpec
from vpetl_ray.tuning.study_format import check_study

SPEC_FILE = "spec.yaml"
STUDY_FILE = "study.db"
CHECKPOINT_FOLDER = "paused"
"""Trials that wait at a rung; empty when the search is over."""


MAY_CHANGE = ("search.trials", "search.max_minutes", "resources", "tracking")
"""What a continued search may be told differently: how long, how wide and where it is logged."""


def default_runs() -> Path:
    """Where results go: `VPETL_RUNS`, else `runs` beside the user.

    In a submitted job the working directory is a copy that Ray throws away: there, it is the home
    folder of the user that Ray runs as.
    """
    chosen = os.environ.get("VPETL_RUNS")
    if chosen:
        return Path(chosen).expanduser()
    is_job = "working_dir_files" in Path.cwd().parts and "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    return Path.home() / "vpetl_runs" if is_job else Path("runs")


def results_url(name: str) -> str | None:
    """Where results go if `VPETL_RUNS` names object storage; else None."""
    runs = os.environ.get("VPETL_RUNS", "")
    return f"{runs.rstrip('/')}/{name}" if "://" in runs else None


def check_folder(directory: Path, spec: SearchSpec, *, resume: bool) -> None:
    """Check that a search can use `directory`; nothing is created.

    Raises:
        SpecError: it holds something already, or nothing to go on with, or another spec's search,
            or one that is damaged or of a newer version, or cannot be written.
    """
    has_study = (directory / STUDY_FILE).exists()
    if not has_study and _was_only_claimed(directory):
        _check_writable(directory)
        return
    if resume and not has_study:
        raise SpecError(f"--resume: there is no search in {directory}; leave --resume out")
    if resume:
        try:
            check_study(directory / STUDY_FILE)
        except SearchError as error:
            raise SpecError(str(error)) from error
        _check_same_spec(directory, spec)
    elif has_study and directory.is_dir():
        raise SpecError(
            f"--out: {directory} holds a search already; go on with it by --resume, "
            "or give another folder by --out"
        )
    else:
        check_new_folder(directory)
    _check_writable(directory)


def _was_only_claimed(directory: Path) -> bool:
    """Whether a search was killed here before it had a study: with and without --resume it begins.

    It has written its spec, and perhaps half a file beside it.
    """
    if not (directory / SPEC_FILE).is_file():
        return False
    names = {path.name for path in directory.iterdir()}
    return all(name in (SPEC_FILE, LOCK_FILE) or name.startswith(".spec.") for name in names)


def check_new_folder(directory: Path) -> None:
    """Check that `directory` is empty or can be made; nothing is created.

    Raises:
        SpecError: it is not.
    """
    if directory.exists() and not directory.is_dir():
        raise SpecError(f"--out: {directory} is a file, not a folder")
    if directory.exists() and any(directory.iterdir()):
        raise SpecError(f"--out: {directory} is not empty; give an empty or a new folder")
    _check_writable(directory)


def _check_writable(directory: Path) -> None:
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    if not existing.is_dir():
        raise SpecError(f"--out: {existing} is a file, not a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise SpecError(f"--out: no permission to write in {existing}")


@contextmanager
def claimed(directory: Path, spec: SearchSpec) -> Iterator[None]:
    """Make the folder, write the resolved spec, and keep other runs out while in the block.

    Raises:
        SpecError: it cannot be made, or another process is at work in it now.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpecError(f"--out: {directory} cannot be made: {error.strerror}") from error
    with locked(directory):
        with replacing(directory / SPEC_FILE) as path:
            path.write_text(spec.to_yaml(), encoding="utf-8")
        yield


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keep other runs out of a folder that exists, while in the block.

    Raises:
        SpecError: another process is at work in it now, or it cannot be locked.
    """
    path = directory / LOCK_FILE
    try:
        # A link in a folder that came from elsewhere would have any file made, or emptied.
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise SpecError(f"{path}: cannot be opened to lock the folder: {error.strerror}") from error
    with os.fdopen(lock, "r+") as lock_file:
        try:
            fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SpecError(f"--out: another run is at work in {directory} now") from None
        yield


def _check_same_spec(directory: Path, spec: SearchSpec) -> None:
    stored = load_spec(directory / SPEC_FILE)
    before, now = _flat(stored.to_dict()), _flat(spec.to_dict())
    changed = [
        f"{path}: was {before.get(path)}, is {now.get(path)}"
        for path in sorted({*before, *now})
        if before.get(path) != now.get(path) and not path.startswith(MAY_CHANGE)
    ]
    if changed:
        raise SpecError(
            f"--resume: {directory} holds a search of another spec ({'; '.join(changed[:3])}); "
            f"only {', '.join(MAY_CHANGE)} may differ"
        )


def _flat(values: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(values, dict) or not values:
        return {path: values}
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat.update(_flat(value, f"{path}.{key}" if path else str(key)))
    return flat
