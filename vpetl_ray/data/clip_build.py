"""Building a clip store, so that nobody ever sees half of one and nobody builds it twice.

A store is built in a hidden folder beside its place and renamed into it when the last byte is on
the disk, so what stands under its name is whole. Whoever builds holds a lock; others who want the
same store wait and then find it. A store whose data set or clip spec changes is another store.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from vpetl_ray.data.clip_file import ClipWriter, FileSeal
from vpetl_ray.data.clip_store import ClipStore
from vpetl_ray.data.config import ClipSpec
from vpetl_ray.data.data_set import DataSet, Split, VideoItem
from vpetl_ray.data.decode_pool import DecodePool, Outcome
from vpetl_ray.data.decoded import UnreadableVideoError
from vpetl_ray.data.file_lock import file_lock
from vpetl_ray.data.manifest import (
    Manifest,
    Skipped,
    decoder_of,
    fingerprint,
    read_manifest,
    write_manifest,
)
from vpetl_ray.data.pictures import picture_clips
from vpetl_ray.errors import DataError

_MANY_SKIPPED = 100
"""A build with too many unreadable videos is broken off when there are as many as this."""


@dataclass(frozen=True, kw_only=True)
class BuildProgress:
    """How far a build is; told after every video."""

    num_done: int
    num_videos: int
    num_skipped: int
    num_bytes: int


def build_clip_store(
    data_set: DataSet,
    spec: ClipSpec,
    root: Path,
    *,
    max_skipped_share: float = 0.05,
    num_processes: int = 1,
    progress: Callable[[BuildProgress], None] | None = None,
) -> Path:
    """Decode a data set into a clip store, unless there is a whole one of it already.

    Args:
        data_set: the videos.
        spec: what to keep of each.
        root: the cache folder; the store's own folder is made below it.
        max_skipped_share: share of the videos that may be unreadable. They are skipped by name.
        num_processes: decoder processes; 0 decodes in this one (a crash is then a crash).
        progress: called after every video.

    Returns:
        The store's folder.

    Raises:
        DataError: too many unreadable videos, a split with none left, or a folder that cannot be
            written. Nothing is left behind.

    """
    mark = fingerprint(data_set, spec)
    final = root / "clips" / f"{data_set.name}-{mark[:16]}"
    if not _is_whole(final):
        with _explained(root), file_lock(final.parent / f".{final.name}.lock"):
            if not _is_whole(final):  # by now another process may have built it
                _discard(final)
                with _partial_folder(final) as partial, DecodePool(spec, num_processes) as pool:
                    build = _Build(data_set, pool, max_skipped_share, progress)
                    files = build.write(partial)
                    write_manifest(
                        partial,
                        Manifest(
                            fingerprint=mark,
                            data_set=data_set.name,
                            classes=data_set.classes,
                            clip_spec=spec,
                            files=files,
                            skipped=tuple(build.skipped),
                            decoder=decoder_of(data_set),
                        ),
                    )
    manifest = read_manifest(final)
    _check_skipped(manifest.skipped, manifest.num_videos, max_skipped_share)
    return final


def discard_damaged_store(path: Path) -> None:
    """Delete a store that was found damaged, unless another process has built it again by now.

    Processes that have the old one mapped keep their pages.
    """
    with _explained(path), file_lock(path.parent / f".{path.name}.lock"):
        try:
            ClipStore.open(path).verify()
        except DataError:
            _discard(path)


class _Build:
    """One build: decodes split after split, keeps count of what was skipped."""

    def __init__(
        self,
        data_set: DataSet,
        pool: DecodePool,
        max_skipped_share: float,
        progress: Callable[[BuildProgress], None] | None,
    ) -> None:
        self._data_set = data_set
        self._pool = pool
        self._max_skipped_share = max_skipped_share
        self._progress = progress
        self._num_done = 0
        self._num_bytes = 0
        self.skipped: list[Skipped] = []

    def write(self, folder: Path) -> dict[str, FileSeal]:
        """Write a file for every split; returns what the manifest keeps of each."""
        files: dict[str, FileSeal] = {}
        for split in self._data_set.splits:
            with ClipWriter(folder / f"{split}.arrow") as writer:
                self._write_split(split, writer)
                files[split] = writer.seal(self._pool.spec.stored_frames(split))
        _check_skipped(self.skipped, self._data_set.num_videos, self._max_skipped_share)
        if empty := [split for split, seal in files.items() if not seal.num_clips]:
            raise DataError(f"none of the {empty[0]} videos can be read:{_listing(self.skipped)}")
        return files

    def _write_split(self, split: Split, writer: ClipWriter) -> None:
        items = self._data_set.splits[split]
        with closing(self._decode(split, items)) as outcomes:
            for item, outcome in zip(items, outcomes, strict=True):
                video = self._data_set.name_of(item)
                if isinstance(outcome, UnreadableVideoError):
                    self._skip(video, str(outcome))
                else:
                    writer.add(video, item.label, outcome)
                    self._num_bytes += outcome.nbytes
                self._tell()

    def _decode(self, split: Split, items: Sequence[VideoItem]) -> Generator[Outcome, None, None]:
        reader, spec = self._data_set.pictures, self._pool.spec
        if reader is not None:
            return picture_clips(reader, items, spec, self._pool.num_processes)
        return self._pool.decode((item.path for item in items), num_segments=spec.segments(split))

    def _skip(self, video: str, reason: str) -> None:
        self.skipped.append(Skipped(path=video, reason=reason))
        if len(self.skipped) >= _MANY_SKIPPED:
            _check_skipped(self.skipped, self._data_set.num_videos, self._max_skipped_share)

    def _tell(self) -> None:
        self._num_done += 1
        if self._progress:
            self._progress(
                BuildProgress(
                    num_done=self._num_done,
                    num_videos=self._data_set.num_videos,
                    num_skipped=len(self.skipped),
                    num_bytes=self._num_bytes,
                )
            )


def _check_skipped(skipped: Sequence[Skipped], num_videos: int, max_share: float) -> None:
    if len(skipped) <= max_share * num_videos:
        return
    raise DataError(
        f"{len(skipped)} of {num_videos} videos cannot be read, "
        f"data.max_skipped_share allows {max_share:.0%}:{_listing(skipped)}"
    )


def _listing(skipped: Sequence[Skipped], limit: int = 20) -> str:
    # A name may hold anything, a line break too: quoted, it stays one line.
    lines = [f"\n  {_shown(entry.path)}: {entry.reason}" for entry in skipped[:limit]]
    if len(skipped) > limit:
        lines.append(f"\n  and {len(skipped) - limit} more")
    return "".join(lines)


def _shown(name: str) -> str:
    return name if name.isprintable() else repr(name)


def _is_whole(folder: Path) -> bool:
    try:
        read_manifest(folder)
    except DataError:
        return False
    return True


def _discard(final: Path) -> None:
    """Delete a store and what builders that were killed left of it. Hold the lock."""
    for folder in [final, *final.parent.glob(f".{final.name}.partial-*")]:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _partial_folder(final: Path) -> Iterator[Path]:
    """Give a hidden folder that becomes `final` at the end, or vanishes on any exception."""
    partial = Path(tempfile.mkdtemp(prefix=f".{final.name}.partial-", dir=final.parent))
    try:
        partial.chmod(0o755)  # mkdtemp's folder is the owner's alone; a store is for the machine
        yield partial
        partial.rename(final)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"cannot write the clip store under {folder}: {error.strerror or error}; "
            "VPETL_CACHE names another folder for it"
        ) from error
