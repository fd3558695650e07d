"""Features of a frozen prefix on the disk: computed once by all who need them, mapped by all.

    <cache>/features/<key>/{facts.json, features.bin, chunks.bin, lock}

Clips are computed in chunks, and a chunk counts once its checksum stands in `chunks.bin`, which is
written after its bytes. Whoever needs the features (groups, the workers of one group, other
searches) computes the next chunk that nobody else is at and waits only for the last ones; a
process that dies loses its locks, so that its chunk is done by another. Opening checks every
checksum: a chunk whose bytes do not match is computed again like one that was never there.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import math
import os
import secrets
import shutil
import struct
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Self

import torch
from torch import Tensor

from vpetl_ray.data.file_lock import file_lock

log = logging.getLogger(__name__)

DEFAULT_DISK_BYTES: Final = 20 * 10**9
"""What all features of a cache folder may take on the disk."""
STALL_SECONDS: Final = 120.0
"""How long nothing may come of those who compute the missing chunks before we go on without."""

_FREE_SHARE = 0.8
"""Of what is free on the disk, so much may be taken."""
_POLL_SECONDS = 0.02
_MARK = struct.Struct("<II")
_DONE = 0x46454154
_ROOT_LOCK = ".lock"
_FACTS, _DATA, _CHUNKS, _LOCK = "facts.json", "features.bin", "chunks.bin", "lock"
_SHARED = "shared"
"""Stands in a folder that other nodes can have, or that came from one."""

Compute = Callable[[int, int], Tensor]
"""Features of the clips from one index to another, (stop - start, ...)."""


class FeatureStore:
    """A folder of features, the least recently used of which go when its limit is reached.

    Args:
        root: the folder; made when something is kept.
        max_bytes: of all features together; what does not fit is not kept.
        stall_seconds: see `STALL_SECONDS`.
        fetch: gets a folder by name that another node has made; False: there is none.
        push: gives a whole folder to the others, by name.

    """

    def __init__(
        self,
        root: Path | str,
        max_bytes: int = DEFAULT_DISK_BYTES,
        *,
        stall_seconds: float = STALL_SECONDS,
        fetch: Callable[[str, Path], bool] | None = None,
        push: Callable[[str, Path], None] | None = None,
    ) -> None:
        self.root = Path(root)
        self.max_bytes = max_bytes
        self._stall_seconds = stall_seconds
        self._fetch = fetch
        self._push = push

    def get(
        self, facts: Mapping[str, Any], *, num_clips: int, chunk: int, compute: Compute
    ) -> StoredFeatures | None:
        """Map the features that these facts describe, computing what is missing.

        Args:
            facts: all that decides their bits, JSON-able.
            num_clips: rows.
            chunk: clips that are computed at once.
            compute: gives rows; called for what is missing here.

        Returns:
            None where they cannot be kept: no room, no permission, or others that do not go on.

        """
        folder = self.root / _key({**facts, "num_clips": num_clips, "chunk": chunk})
        try:
            layout = _Layout.read(folder)
            if layout is None and self._get_from_others(folder):
                layout = _Layout.read(folder)
            if layout is None:
                layout = _Layout.of(compute(0, 1), num_clips=num_clips, chunk=chunk)
                if not self._make(folder, layout, facts):
                    return None
            with suppress(OSError):
                os.utime(folder / _FACTS)  # what was used last goes last
            with _Filling(folder, layout) as filling:
                if not filling.fill(compute, stall_seconds=self._stall_seconds):
                    log.warning("%s: others compute it and do not go on: not waited for", folder)
                    return None
            self._give_to_others(folder)
            return StoredFeatures(folder, layout.map(folder))
        except OSError as error:
            log.warning("features are not kept in %s: %s", self.root, error)
            return None

    def _get_from_others(self, folder: Path) -> bool:
        if self._fetch is None:
            return False
        self.root.mkdir(parents=True, exist_ok=True)
        if not self._fetch(folder.name, folder):
            return False
        (folder / _LOCK).touch()
        (folder / _SHARED).touch()
        return True

    def _give_to_others(self, folder: Path) -> None:
        """Once a node; a second node that has computed the same sends the same bytes."""
        if self._push is None or (folder / _SHARED).exists():
            return
        with file_lock(self.root / f".{folder.name}.push"):
            if not (folder / _SHARED).exists():
                self._push(folder.name, folder)
                (folder / _SHARED).touch()

    def num_bytes(self) -> int:
        """Count the bytes of all features."""
        return sum(_size(folder) for folder in self._folders())

    def _folders(self) -> list[Path]:
        """Oldest use first."""
        with_age = []
        for facts in self.root.glob(f"*/{_FACTS}"):
            with suppress(OSError):
                with_age.append((facts.stat().st_mtime, facts.parent))
        return [folder for _, folder in sorted(with_age)]

    def _make(self, folder: Path, layout: _Layout, facts: Mapping[str, Any]) -> bool:
        """Make an empty file of the right size, if there is room, or can be."""
        self.root.mkdir(parents=True, exist_ok=True)
        with file_lock(self.root / _ROOT_LOCK):
            if _Layout.read(folder) is not None:  # somebody was faster
                return True
            shutil.rmtree(folder, ignore_errors=True)
            if not self._make_room(layout.num_bytes):
                log.info("no room for %d bytes of features in %s", layout.num_bytes, self.root)
                return False
            temporary = self.root / f".{folder.name}.{secrets.token_hex(4)}"
            temporary.mkdir()
            for name, size in ((_DATA, layout.num_bytes), (_CHUNKS, layout.num_chunks * 8)):
                with open(temporary / name, "wb") as file:
                    file.truncate(size)
            (temporary / _LOCK).touch()
            text = json.dumps({"layout": layout.to_dict(), "of": dict(facts)}, indent=2)
            (temporary / _FACTS).write_text(text + "\n", encoding="utf-8")
            temporary.rename(folder)
        return True

    def _make_room(self, num_bytes: int) -> bool:
        for stale in self.root.glob(".?*.????????"):  # of a process that died while making it
            shutil.rmtree(stale, ignore_errors=True)
        folders = self._folders()
        used = sum(map(_size, folders))
        free = shutil.disk_usage(self.root).free
        limit = min(self.max_bytes, used + int(_FREE_SHARE * free))
        if num_bytes > limit:
            return False
        while used + num_bytes > limit:
            oldest = folders.pop(0)
            used -= _size(oldest)
            shutil.rmtree(oldest, ignore_errors=True)  # who has it mapped keeps it
        return True


@dataclass(frozen=True)
class StoredFeatures:
    """Features that are all there."""

    folder: Path
    tensor: Tensor
    """(N, ...), on the CPU, mapped: never to be written to."""

    @property
    def is_kept(self) -> bool:
        """Whether it still stands on the disk; if not, holding on to it holds the room."""
        return self.folder.exists()


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """How the features lie in their file."""

    shape: tuple[int, ...]
    """(N, ...)."""
    dtype: str
    chunk: int

    @classmethod
    def of(cls, example: Tensor, *, num_clips: int, chunk: int) -> Self:
        name = str(example.dtype).removeprefix("torch.")
        return cls(shape=(num_clips, *example.shape[1:]), dtype=name, chunk=chunk)

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Read it; None where there is nothing, or nothing whole."""
        try:
            values = json.loads((folder / _FACTS).read_text(encoding="utf-8"))["layout"]
            layout = cls(**{**values, "shape": tuple(values["shape"])})
            sizes = [(folder / name).stat().st_size for name in (_DATA, _CHUNKS)]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return layout if sizes == [layout.num_bytes, 8 * layout.num_chunks] else None

    def to_dict(self) -> dict[str, Any]:
        return {"shape": list(self.shape), "dtype": self.dtype, "chunk": self.chunk}

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * self.torch_dtype.itemsize

    @property
    def num_bytes(self) -> int:
        return self.shape[0] * self.row_bytes

    @property
    def num_chunks(self) -> int:
        return -(-self.shape[0] // self.chunk)

    @property
    def torch_dtype(self) -> torch.dtype:
        dtype = getattr(torch, self.dtype)
        assert isinstance(dtype, torch.dtype)
        return dtype

    def rows(self, number: int) -> tuple[int, int]:
        """First clip of a chunk, and the one behind its last."""
        start = number * self.chunk
        return start, min(start + self.chunk, self.shape[0])

    def map(self, folder: Path) -> Tensor:
        """Map the file; privately, so that a stray write would never reach it."""
        size = math.prod(self.shape)
        flat = torch.from_file(str(folder / _DATA), size=size, dtype=self.torch_dtype)
        return flat.view(self.shape)


class _Filling:
    """Computes what is missing of one file, beside others that do the same."""

    def __init__(self, folder: Path, layout: _Layout) -> None:
        self._layout = layout
        self._files: list[IO[bytes]] = []
        try:
            for name in (_DATA, _CHUNKS, _LOCK):
                self._files.append(open(folder / name, "r+b", buffering=0))  # noqa: SIM115
        except OSError:
            self.__exit__()
            raise
        self._data, self._chunks, self._lock = (file.fileno() for file in self._files)
        self._good: set[int] = set()
        self._damaged: set[int] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            file.close()

    def fill(self, compute: Compute, *, stall_seconds: float) -> bool:
        """Return when every chunk is there; False where those who are at the rest stand still."""
        num_missing, deadline = self._layout.num_chunks, 0.0
        while missing := [n for n in range(self._layout.num_chunks) if not self._is_good(n)]:
            if len(missing) < num_missing or not deadline:
                num_missing, deadline = len(missing), time.monotonic() + stall_seconds
            if sum(self._try(number, compute) for number in missing):
                continue
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_SECONDS)
        return True

    def _try(self, number: int, compute: Compute) -> bool:
        """Do a chunk, unless somebody else is at it; say whether it is there now."""
        with self._claimed(number) as is_mine:
            if not is_mine:
                return False
            if self._is_good(number):
                return True
            start, stop = self._layout.rows(number)
            features = compute(start, stop).cpu().contiguous()
            content = features.reshape(-1).view(torch.uint8).numpy().data
            _write_at(self._data, content, start * self._layout.row_bytes)
            mark = _MARK.pack(_DONE, zlib.crc32(content))
            _write_at(self._chunks, memoryview(mark), number * _MARK.size)
            self._good.add(number)
            return True

    @contextmanager
    def _claimed(self, number: int) -> Iterator[bool]:
        """Lock one byte of the lock file: the kernel lets go of it for a process that dies."""
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except (BlockingIOError, PermissionError):
            yield False
            return
        try:
            yield True
        finally:
            fcntl.lockf(self._lock, fcntl.LOCK_UN, 1, number)

    def _is_good(self, number: int) -> bool:
        """Whether the chunk is there, its bytes as they were written; read once a process."""
        if number not in self._good:
            mark = os.pread(self._chunks, _MARK.size, number * _MARK.size)
            done, expected = _MARK.unpack(mark) if len(mark) == _MARK.size else (0, 0)
            if done != _DONE:
                return False
            start, stop = self._layout.rows(number)
            size = self._layout.row_bytes
            content = os.pread(self._data, (stop - start) * size, start * size)
            if zlib.crc32(content) != expected:
                if number not in self._damaged:
                    self._damaged.add(number)
                    log.warning("%s is damaged: a part is computed again", self._files[0].name)
                return False
            self._good.add(number)
        return True


def _write_at(file: int, content: memoryview, offset: int) -> None:
    content = content.cast("B")
    while content:
        written = os.pwrite(file, content, offset)
        content, offset = content[written:], offset + written


def _key(facts: Mapping[str, Any]) -> str:
    text = json.dumps(facts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def _size(folder: Path) -> int:
    try:
        return (folder / _DATA).stat().st_size
    except OSError:
        return 0
