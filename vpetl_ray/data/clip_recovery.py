"""Going on with a clip file whose writer was killed: what is whole in it stays where it is.

A clip file is a stream of record batches with an index at its end. One that was never finished is
read as the stream that it is, batch by batch, up to the first that is not whole. Its clips go
through a writer once more, which finds their bytes on the disk already and only compares them: so
nothing is held twice, in memory or on the disk, and the finished file is, byte for byte, the one
that a single run would have written.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from vpetl_ray.data.clip_format import CLIP_SCHEMA
from vpetl_ray.data.decoded import Clip

_MAGIC_BYTES = 8
"""What an Arrow file has before its stream begins."""


class Row(NamedTuple):
    """One clip; a view of the mapped file."""

    video: str
    label: int
    clip: Clip


class ChangedBytesError(Exception):
    """Writing a file once more gives other bytes than it holds (another version of Arrow)."""


def whole_batches(path: Path, frames: int) -> Iterator[list[Row]]:
    """Yield the batches of a clip file, finished or not, up to the first that is not whole.

    A batch is whole when every clip of it matches its checksum.

    Args:
        path: of the file; without one, nothing is yielded.
        frames: in each clip.

    """
    try:
        source = pa.memory_map(str(path), "r")
        source.seek(_MAGIC_BYTES)
        if pa.ipc.read_schema(source) != CLIP_SCHEMA:
            return
        while True:
            batch = pa.ipc.read_record_batch(pa.ipc.read_message(source), CLIP_SCHEMA)
            batch.validate(full=True)
            yield [_checked(Row(*row), crc) for *row, crc in _values(batch, frames)]
    except (OSError, EOFError, ValueError, pa.ArrowException):
        return


def _values(batch: pa.RecordBatch, frames: int) -> Iterator[tuple[Any, ...]]:
    columns = {name: batch.column(name).to_pylist() for name in CLIP_SCHEMA.names[:-1]}
    clips = (value.as_buffer() for value in batch.column("clip"))
    shapes = zip(columns["height"], columns["width"], strict=True)
    for video, label, (height, width), clip, crc in zip(
        columns["video"], columns["label"], shapes, clips, columns["crc"], strict=True
    ):
        content = np.frombuffer(clip, np.uint8)
        yield video, label, content.reshape(frames, height, width, 3), crc


def _checked(row: Row, crc: int) -> Row:
    if zlib.crc32(row.clip.data) != crc:
        raise ValueError(f"the clip of {row.video} does not match its checksum")
    return row


class ContinuedFile(io.RawIOBase):
    """A file that is written once more: what it holds is compared, until `go_on` is called."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = open(path, "r+b")  # noqa: SIM115  (closed by close)
        self._is_comparing = True

    def go_on(self) -> None:
        """From here on, write, over whatever the file holds."""
        self._is_comparing = False

    def writable(self) -> bool:
        """Say yes: Arrow asks."""
        return True

    def write(self, data: Any, /) -> int:
        """Write bytes, or compare them; a ChangedBytesError where they differ."""
        view = memoryview(data).cast("B")
        if not self._is_comparing:
            return self._file.write(view)
        if self._file.read(len(view)) != view:
            raise ChangedBytesError
        return len(view)

    def end_here(self) -> None:
        """Drop whatever the file holds behind what was written."""
        self._file.truncate()

    def tell(self) -> int:
        """Return the position."""
        return self._file.tell()

    def flush(self) -> None:
        """Hand what was written to the system."""
        if not self._file.closed:
            self._file.flush()

    def fileno(self) -> int:
        """Return the file's number."""
        return self._file.fileno()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()
