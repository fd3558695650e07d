"""The checkpoints of trials that have come to a rung, on disk: what a search that goes on needs."""

from pathlib import Path

from vpetl_ray.results.atomic import replacing


class RungCheckpoints:
    """A folder with one file a trial: trainable tensors, optimiser and epoch, a few MB at most.

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
            path.write_bytes(state)

    def read(self, trial: str) -> bytes | None:
        """Give what was kept of a trial, None if nothing was."""
        path = self._path(trial)
        return path.read_bytes() if path.is_file() else None

    def discard(self, trial: str) -> None:
        """Delete what was kept of a trial that has ended."""
        self._path(trial).unlink(missing_ok=True)

    def _path(self, trial: str) -> Path:
        return self._folder / f"{trial}.pt"
