"""The checkpoints of trials that have come to a rung, on disk: what a search that goes on needs."""

import logging
import struct
import zlib
from pathlib import Path

from vpetl_ray.results.atomic import replacing

log = logging.getLogger(__name__)

_MARK = b"VPETLCK1"
_SEAL = struct.Struct("<8sI")
"""Before the state: what it is, and the state's CRC-32."""
_UNSEALED = b"PK\x03\x04"
"""How a file of an earlier version begins, which had no checksum: torch's own."""


class RungCheckpoints:
    """A folder with one file a trial: trainable tensors, optimiser and epoch, a few MB at most.

    A damaged file is never used: its trial begins again.

    Args:
        folder: made when the first checkpoint is kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, trial: str, state: bytes) -> None:
        """Keep a trial's latest checkpoint.

        Raises:
            SearchError: it cannot be written.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        with replacing(self._path(trial)) as path:
            path.write_bytes(_SEAL.pack(_MARK, zlib.crc32(state)) + state)

    def read(self, trial: str) -> bytes | None:
        """Give what was kept of a trial, None if nothing was or it is damaged."""
        path = self._path(trial)
        if not path.is_file():
            return None
        content = path.read_bytes()
        state = content[_SEAL.size :]
        if content.startswith(_UNSEALED):
            return content
        if content[: _SEAL.size] == _SEAL.pack(_MARK, zlib.crc32(state)):
            return state
        log.warning("%s is damaged: trial %s begins again", path, trial)
        return None

    def discard(self, trial: str) -> None:
        """Delete what was kept of a trial that has ended."""
        self._path(trial).unlink(missing_ok=True)

    def _path(self, trial: str) -> Path:
        return self._folder / f"{trial}.pt"
