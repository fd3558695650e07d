"""What MLflow is still to be told, in a file of its own: `mlflow_waiting.jsonl`.

Everything that a `Tracker` is told is a line, written before it is delivered. The file goes away
once MLflow has it all, so whatever became of the process or the server, what is left is what
`python -m vpetl_ray.sync` has to deliver. What MLflow has already is recognised there and not
doubled; so a line too many does no harm, and the last line of a process that was killed, cut off
in the middle, is passed over.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import IO, Any, get_args

from vpetl_ray.addresses import HIDDEN, has_secret, redact, without_secrets
from vpetl_ray.errors import SearchError
from vpetl_ray.results.records import TrialRecord
from vpetl_ray.results.registration import Candidate, Registration
from vpetl_ray.results.tracking_info import RunStatus, TrackingInfo
from vpetl_ray.results.tracking_uri import store_in

WAITING_FILE = "mlflow_waiting.jsonl"
FORMAT = 1


class WaitingRecords:
    """Writes the file. A disk that is full never ends a search: `problem` says it then.

    Args:
        directory: the results folder; it exists.
        info: whom it is for.
    """

    def __init__(self, directory: Path, info: TrackingInfo) -> None:
        self._directory = directory
        self._uri = info.uri
        self._path = directory / WAITING_FILE
        self.problem: str | None = None
        self._file: IO[str] | None = None
        try:
            self._file = _open_after_whole_lines(self._path)
        except OSError as error:
            self.problem = f"{self._path}: {error.strerror}"
        self._write({"format": FORMAT, "info": _info_to_dict(info, directory)})

    def trial(self, record: TrialRecord, adapter: Path | None) -> None:
        """Keep a trial."""
        self._write({"trial": record.to_dict(), "adapter": self._relative(adapter)})

    def summary(
        self,
        front: tuple[str, ...],
        metrics: Mapping[str, float],
        files: tuple[Path, ...],
        note: str,
    ) -> None:
        """Keep the latest about the whole."""
        paths = [self._relative(path) for path in files]
        self._write(
            {"summary": {"front": front, "metrics": dict(metrics), "files": paths, "note": note}}
        )

    def registration(self, registration: Registration) -> None:
        """Keep what the registry is to be told."""
        members = [
            {**dataclasses.asdict(member), "adapter": self._relative(member.adapter)}
            for member in registration.members
        ]
        told = {"name": registration.name, "aliases": dict(registration.aliases)}
        self._write({"registration": {**told, "members": members}})

    def status(self, status: RunStatus) -> None:
        """Keep how it ended."""
        self._write({"status": status})

    def close(self, *, is_delivered: bool) -> None:
        """End; a file of which MLflow has everything goes away."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # closing tries once more what did not fit before
                self._file.close()
            self._file = None
        if is_delivered:
            self._path.unlink(missing_ok=True)

    def _relative(self, path: Path | None) -> str | None:
        return None if path is None else os.path.relpath(path, self._directory)

    def _write(self, line: Mapping[str, Any]) -> None:
        if self._file is None:
            return
        try:
            self._file.write(
                redact(json.dumps(line, ensure_ascii=False, default=_plain), self._uri) + "\n"
            )
        except OSError as error:
            self.problem = f"{self._path}: {error.strerror}"
            self.close(is_delivered=False)


def _plain(value: object) -> object:
    return dict(value) if isinstance(value, Mapping) else str(value)


@dataclasses.dataclass(kw_only=True)
class Waiting:
    """What the file of a folder holds."""

    info: TrackingInfo
    trials: dict[str, tuple[TrialRecord, Path | None]] = dataclasses.field(default_factory=dict)
    """The latest of each, with its adapter."""
    summary: Mapping[str, Any] | None = None
    registration: Registration | None = None
    status: RunStatus = "KILLED"
    """Of a process that could not say how it ended."""


def read_waiting(directory: Path, uri: str | None = None) -> Waiting | None:
    """Read it; None where nothing waits.

    Args:
        directory: the results folder.
        uri: of the tracking server, instead of the one that the file names.

    Raises:
        SearchError: it cannot be read, or a newer version has written it, or no server is named.
    """
    path = directory / WAITING_FILE
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise SearchError(f"{path}: cannot be read: {error}") from error
    whole = text[: text.rfind("\n") + 1]  # the last line may be of a process that was killed
    if not whole:
        return None
    try:
        lines = [json.loads(line) for line in whole.split("\n")[:-1]]
        for line in lines:
            _check_line(line)
        heads = [line for line in lines if "format" in line]  # one for each time it went on
        if heads[-1]["format"] != FORMAT:
            raise SearchError(f"{path}: written by another version (format {heads[-1]['format']})")
        waiting = Waiting(info=_info_from_dict(heads[-1]["info"], directory, uri))
        for line in lines:
            _take(waiting, line, directory)
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise SearchError(
            f"{path}: is damaged ({error!r}); delete it, and go on with the search by --resume: "
            "everything is told again"
        ) from error
    return waiting


def _open_after_whole_lines(path: Path) -> IO[str]:
    """Open it to be written behind its last whole line: what waits of an earlier run stays."""
    if path.exists():
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with path.open("r+b") as file:
                file.truncate(whole)
    return path.open("a", encoding="utf-8", buffering=1)


def _check_line(line: Any) -> None:
    """Check that a line is of the shape that `WaitingRecords` writes.

    Raises:
        TypeError, ValueError: it is not.
    """
    _expect({"line": line}, line=dict)
    if "trial" in line:
        _expect(line, trial=dict, adapter=str | None)
    elif "summary" in line:
        _expect(line, summary=dict)
        summary = line["summary"]
        _expect(summary, front=list, metrics=dict, files=list, note=str)
        _expect(summary["metrics"], **dict.fromkeys(summary["metrics"], int | float))
        for name in (*summary["front"], *summary["files"]):
            _expect({"summary": name}, summary=str)
    elif "registration" in line:
        _expect(line, registration=dict)
        _expect(line["registration"], name=str, members=list, aliases=dict)
        for member in line["registration"]["members"]:
            _expect({"members": member}, members=dict)
            _expect(member, trial=str, adapter=str, card=str, tags=dict)
    elif "status" in line:
        if line["status"] not in get_args(RunStatus):
            raise ValueError(f"status: unknown, got {line['status']!r:.60}")
    elif "format" in line:
        _expect(line, info=dict)
        _expect(line["info"], uri=str | None, name=str, experiment=str, spec_text=str)


def _expect(values: Mapping[str, Any], **kinds: type | UnionType) -> None:
    for key, kind in kinds.items():
        if not isinstance(values.get(key), kind):
            name = getattr(kind, "__name__", kind)
            raise TypeError(f"{key}: must be {name}, got {values.get(key)!r:.60}")


def _take(waiting: Waiting, line: dict[str, Any], directory: Path) -> None:
    if "trial" in line:
        record = TrialRecord.from_dict(line["trial"])
        before = waiting.trials.get(record.id, (None, None))[1]
        adapter = _own(directory, line["adapter"]) if line["adapter"] else before
        waiting.trials[record.id] = (record, adapter)
    elif "summary" in line:
        files = [_own(directory, name) for name in line["summary"]["files"]]
        waiting.summary = {**line["summary"], "files": files}
    elif "registration" in line:
        told = line["registration"]
        members = [
            Candidate(**{**member, "adapter": _own(directory, member["adapter"])})
            for member in told["members"]
        ]
        waiting.registration = Registration(
            name=told["name"], members=members, aliases=told["aliases"]
        )
    elif "status" in line:
        waiting.status = line["status"]


def _own(directory: Path, name: str) -> Path:
    """Give a file of the folder, which may have come from elsewhere: what it names is uploaded.

    Raises:
        ValueError: it is no file of the folder.
    """
    path = directory / name
    if not path.resolve().is_relative_to(directory.resolve()):
        raise ValueError(f"{name} is outside the results folder")
    return path


def _info_to_dict(info: TrackingInfo, directory: Path) -> dict[str, Any]:
    """Without secrets, and without the folder's own place, so that it may be moved."""
    fields = {field.name: getattr(info, field.name) for field in dataclasses.fields(info)}
    if info.uri == store_in(directory)[0]:
        return {**fields, "uri": None, "artifact_location": None}
    uri = without_secrets(info.uri) if has_secret(info.uri) else info.uri
    return {**fields, "uri": uri}


def _info_from_dict(values: dict[str, Any], directory: Path, uri: str | None) -> TrackingInfo:
    stored = values["uri"]
    if uri is None and stored is None:
        own, artifacts = store_in(directory)
        return TrackingInfo(**{**values, "uri": own, "artifact_location": artifacts})
    if uri is None and HIDDEN in stored:
        uri = os.environ.get("MLFLOW_TRACKING_URI")
    uri = uri or stored
    if HIDDEN in uri:
        raise SearchError(
            f"the tracking server {uri} needs a password, which is not kept: "
            "set MLFLOW_TRACKING_URI, or give --tracking-uri"
        )
    return TrackingInfo(**{**values, "uri": uri, "artifact_location": None})
