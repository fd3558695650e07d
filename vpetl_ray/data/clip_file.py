"""The decoded clips of one split in one Arrow file, mapped into memory and read without a copy.

A row is a clip: its video, label, height, width, the CRC-32 of its bytes, and the bytes, uint8 of
shape (T, H, W, 3). H and W may differ from row to row. All processes of a machine that open the
file share its pages; a torch tensor made here points into them and must never be written to.

What is checked when: opening checks the file's length and one checksum over everything but the
clips' bytes (labels, sizes, offsets, names). A clip's own bytes are checked the first time that a
process reads it, or all at once by `verify`.
"""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from vpetl_ray.data.clip_format import CLIP_SCHEMA
from vpetl_ray.data.clip_recovery import ContinuedFile
from vpetl_ray.data.decoded import Clip
from vpetl_ray.errors import DataError

_BATCH_BYTES = 16 * 2**20


@dataclass(frozen=True, kw_only=True)
class FileSeal:
    """What the store's manifest keeps of a clip file, to know it again."""

    num_clips: int
    num_bytes: int
    index_crc: int


class ClipWriter:
    """Write clips one by one; a context manager. The file is whole only after `seal`.

    Args:
        path: of the file.
        is_continued: whether the file is there, from a writer that was killed: the clips of its
            whole batches are added first, as if they were new, and then comes `go_on`.

    """

    def __init__(self, path: Path, *, is_continued: bool = False) -> None:
        self._path = path
        self._sink: IO[bytes] | ContinuedFile  # closed by seal or __exit__
        self._sink = ContinuedFile(path) if is_continued else open(path, "wb")  # noqa: SIM115
        self._writer = pa.ipc.new_file(self._sink, CLIP_SCHEMA)
        self._rows: list[tuple[str, int, Clip]] = []
        self._waiting = 0
        self.num_bytes = 0
        self.num_clips = 0

    def __enter__(self) -> ClipWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._sink.close()

    def add(self, video: str, label: int, clip: Clip) -> None:
        """Append a clip of shape (T, H, W, 3)."""
        self._rows.append((video, label, clip))
        self._waiting += clip.nbytes
        self.num_bytes += clip.nbytes
        self.num_clips += 1
        if self._waiting >= _BATCH_BYTES:
            self._flush()

    def go_on(self) -> None:
        """Take what is added from here on as new."""
        if isinstance(self._sink, ContinuedFile):
            self._sink.go_on()

    def seal(self, frames: int) -> FileSeal:
        """Finish the file, put it on the disk, and read its index back from there."""
        if self._rows:
            self._flush()
        self._writer.close()
        self._sink.flush()
        if isinstance(self._sink, ContinuedFile):
            self._sink.end_here()
        os.fsync(self._sink.fileno())
        self._sink.close()
        return ClipFile(self._path, frames=frames).seal

    def _flush(self) -> None:
        videos, labels, clips = zip(*self._rows, strict=True)
        flat = [clip.reshape(-1) for clip in clips]
        ends = np.cumsum([0, *(clip.nbytes for clip in clips)], dtype=np.int64)
        values = [pa.py_buffer(ends), pa.py_buffer(np.concatenate(flat))]
        columns = [
            pa.array(videos, pa.string()),
            pa.array(labels, pa.int32()),
            pa.array([clip.shape[1] for clip in clips], pa.int32()),
            pa.array([clip.shape[2] for clip in clips], pa.int32()),
            pa.array([zlib.crc32(clip) for clip in flat], pa.uint32()),
            pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(clips), [None, *values]),
        ]
        self._writer.write_batch(pa.record_batch(columns, schema=CLIP_SCHEMA))
        self._sink.flush()  # what is with the system outlives this process
        self._rows, self._waiting = [], 0


class ClipFile:
    """A finished clip file, mapped into memory.

    Raises:
        DataError: it cannot be opened, or is not the file that `seal` describes.

    """

    def __init__(self, path: Path, *, frames: int, seal: FileSeal | None = None) -> None:
        self.path = path
        self.frames = frames
        try:
            if seal and path.stat().st_size != seal.num_bytes:
                raise self._damage(f"it has {path.stat().st_size} bytes, not {seal.num_bytes}")
            reader = pa.ipc.open_file(pa.memory_map(str(path), "r"))
            batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        except (OSError, pa.ArrowException) as error:
            raise self._damage(str(error)) from error
        if reader.schema != CLIP_SCHEMA:
            raise self._damage("its columns are not those of a clip file")
        self.seal = FileSeal(
            num_clips=sum(batch.num_rows for batch in batches),
            num_bytes=path.stat().st_size,
            index_crc=_index_crc(batches),
        )
        if seal and seal != self.seal:
            raise self._damage("its index does not match its checksum")
        self._batches = batches
        self._data_by_batch = [_as_tensor(batch.column("clip").buffers()[2]) for batch in batches]
        self._batch_of = np.repeat(np.arange(len(batches)), [b.num_rows for b in batches])
        self._starts = _concat([_offsets(batch)[:-1] for batch in batches])
        self.heights = _concat([_column(batch, "height") for batch in batches])
        self.widths = _concat([_column(batch, "width") for batch in batches])
        self._crcs = _concat([_column(batch, "crc") for batch in batches])
        self._is_checked = bytearray(len(self))
        labels = _concat([_column(batch, "label") for batch in batches])
        self.labels = torch.from_numpy(labels.astype(np.int64))

    def __len__(self) -> int:
        return self.seal.num_clips

    def clip(self, index: int) -> torch.Tensor:
        """Return clip `index`, (T, H, W, 3) uint8, as a read-only view of the mapped file.

        Raises:
            DataError: its bytes do not match their checksum.

        """
        height, width = int(self.heights[index]), int(self.widths[index])
        start = int(self._starts[index])
        data = self._data_by_batch[self._batch_of[index]]
        flat: torch.Tensor = data[start : start + self.frames * height * width * 3]
        if not self._is_checked[index]:
            if zlib.crc32(flat.numpy().data) != self._crcs[index]:
                raise self._damage(f"the bytes of {self.video(index)} do not match their checksum")
            self._is_checked[index] = 1
        return flat.view(self.frames, height, width, 3)

    def video(self, index: int) -> str:
        """Return the path, relative to the data set's root, that clip `index` was decoded from."""
        batch = int(self._batch_of[index])
        first = int(np.searchsorted(self._batch_of, batch))
        return str(self._batches[batch].column("video")[index - first].as_py())

    def verify(self) -> None:
        """Check the bytes of every clip now; a DataError names the first that is damaged."""
        for index in range(len(self)):
            self.clip(index)

    def _damage(self, problem: str) -> DataError:
        return DataError(f"the clip store's file {self.path} is damaged: {problem}")


def _index_crc(batches: list[pa.RecordBatch]) -> int:
    crc = 0
    for batch in batches:
        for name in batch.schema.names:
            buffers = batch.column(name).buffers()
            for buffer in buffers[:2] if name == "clip" else buffers:
                crc = zlib.crc32(buffer, crc) if buffer else crc
    return crc


def _as_tensor(buffer: pa.Buffer) -> torch.Tensor:
    # Through DLPack, because torch warns of read-only numpy arrays, and rightly has no wish to
    # know that nobody writes here.
    tensor: torch.Tensor = torch.utils.dlpack.from_dlpack(
        pa.Array.from_buffers(pa.uint8(), buffer.size, [None, buffer])
    )
    return tensor


def _offsets(batch: pa.RecordBatch) -> NDArray[np.int64]:
    return np.frombuffer(batch.column("clip").buffers()[1], dtype=np.int64)[: batch.num_rows + 1]


def _column(batch: pa.RecordBatch, name: str) -> NDArray[np.int64]:
    values: NDArray[np.int64] = batch.column(name).to_numpy().astype(np.int64)
    return values


def _concat(parts: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
