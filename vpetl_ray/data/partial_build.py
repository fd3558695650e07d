"""What a build of a clip store has done so far, so that one that was broken off can go on.

    <cache>/clips/.<store>.partial/{train,val,test}.arrow, build.jsonl

The clip files grow in place, a record batch at a time; `clip_recovery` says what of them counts.
`build.jsonl` has the store's fingerprint in its first line, and then a line for each video that
could not be read. The folder becomes the store when all is done. Only who holds the store's lock
comes near it.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from vpetl_ray.data.clip_recovery import whole_batches
from vpetl_ray.data.config import ClipSpec
from vpetl_ray.data.file_lock import LockHeldError, file_lock
from vpetl_ray.data.manifest import Skipped

STALE_SECONDS = 7 * 24 * 3600.0
"""A build that was broken off and not gone on with for so long is cleaned away by the next one."""

_JOURNAL = "build.jsonl"
_PARTIAL = ".partial"


class PartialBuild:
    """The hidden folder of one build; a context manager.

    Left by an exception, it is kept if there are decoded clips in it. Hold the store's lock.
    """

    def __init__(self, final: Path, mark: str, spec: ClipSpec) -> None:
        self.folder = final.parent / f".{final.name}{_PARTIAL}"
        self._final = final
        self._spec = spec
        lines = _read_journal(self.folder / _JOURNAL, mark)
        if lines is None:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir()
        self._journal = open(self.folder / _JOURNAL, "w", encoding="utf-8")  # noqa: SIM115
        self._skipped: dict[tuple[str, int], Skipped] = {}
        self._write({"fingerprint": mark})
        for line in lines or ():
            self.note_skipped(line["split"], line["number"], Skipped(**line["skipped"]))

    def __enter__(self) -> PartialBuild:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._journal.close()
        if kind is not None and not self._has_clips():
            shutil.rmtree(self.folder, ignore_errors=True)

    def file(self, split: str) -> Path:
        """Return the clip file of a split, where it is or will be."""
        return self.folder / f"{split}.arrow"

    def skipped(self, split: str) -> Mapping[int, Skipped]:
        """Return the videos of a split that are known to be unreadable, by number."""
        return {number: entry for (own, number), entry in self._skipped.items() if own == split}

    def note_skipped(self, split: str, number: int, entry: Skipped) -> None:
        """Keep in mind that a video cannot be read."""
        if (split, number) not in self._skipped:
            self._skipped[split, number] = entry
            self._write({"split": split, "number": number, "skipped": asdict(entry)})

    def finish(self) -> None:
        """Become the store."""
        self._journal.close()
        (self.folder / _JOURNAL).unlink()
        self.folder.rename(self._final)

    def _write(self, line: Mapping[str, Any]) -> None:
        self._journal.write(json.dumps(line) + "\n")
        self._journal.flush()  # out of this process, which may be killed at any time

    def _has_clips(self) -> bool:
        return any(
            next(whole_batches(path, self._spec.stored_frames(path.stem)), None)
            for path in self.folder.glob("*.arrow")
        )


def discard_stale(folder: Path) -> None:
    """Delete what builders that are gone left in this folder of stores a week ago or earlier."""
    for partial in folder.glob(f".*{_PARTIAL}*"):
        store = partial.name[1 : partial.name.rindex(_PARTIAL)]
        try:
            touched = max(path.stat().st_mtime for path in (partial, *partial.iterdir()))
            if time.time() - touched > STALE_SECONDS:
                with file_lock(folder / f".{store}.lock", wait=False):
                    shutil.rmtree(partial, ignore_errors=True)
        except (OSError, LockHeldError):
            continue  # somebody is building it, or has just finished


def _read_journal(path: Path, mark: str) -> list[dict[str, Any]] | None:
    """Return the skipped videos of a build of this store; None where there is no such build."""
    try:
        first, *rest = path.read_text(encoding="utf-8").splitlines()
        if json.loads(first) != {"fingerprint": mark}:
            return None
    except (OSError, ValueError):
        return None
    lines = []
    for line in rest:
        try:
            lines.append(json.loads(line))
        except ValueError:  # the machine went down while it was written
            break
    return lines
