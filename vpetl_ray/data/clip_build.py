"""Building a clip store, so that nobody ever sees half of one and nobody builds it twice.

A store is built in a hidden folder beside its place and renamed into it when the last byte is on
the disk, so what stands under its name is whole. Whoever builds holds a lock; others who want the
same store wait and then find it. A build that was killed or broken off is gone on with by the next
one (see `partial_build`). A store whose data set or clip spec changes is another store.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from vpetl_ray.data.clip_store import ClipStore
from vpetl_ray.data.config import ClipSpec
from vpetl_ray.data.data_set import DataSet, VideoItem
from vpetl_ray.data.decode_pool import DecodePool
from vpetl_ray.data.decoder import Decoder, MakeDecoder, Outcome
from vpetl_ray.data.file_lock import file_lock
from vpetl_ray.data.manifest import (
    Manifest,
    decoder_of,
    fingerprint,
    read_manifest,
    write_manifest,
)
from vpetl_ray.data.partial_build import PartialBuild, discard_stale
from vpetl_ray.data.pictures import picture_clips
from vpetl_ray.data.store_files import BuildProgress, StoreFiles, check_skipped
from vpetl_ray.errors import DataError


def build_clip_store(
    data_set: DataSet,
    spec: ClipSpec,
    root: Path,
    *,
    max_skipped_share: float = 0.05,
    num_processes: int = 1,
    make_decoder: MakeDecoder | None = None,
    progress: Callable[[BuildProgress], None] | None = None,
) -> Path:
    """Decode a data set into a clip store, unless there is a whole one of it already.

    Args:
        data_set: the videos.
        spec: what to keep of each.
        root: the cache folder; the store's own folder is made below it.
        max_skipped_share: share of the videos that may be unreadable. They are skipped by name.
        num_processes: decoder processes; 0 decodes in this one (a crash is then a crash).
        make_decoder: decodes videos in place of those processes. Pictures are always read here.
        progress: called after every video.

    Returns:
        The store's folder.

    Raises:
        DataError: too many unreadable videos, a split with none left, or a folder that cannot be
            written. What was decoded is kept, out of sight, for the next build of this store.

    """
    mark = fingerprint(data_set, spec)
    final = root / "clips" / f"{data_set.name}-{mark[:16]}"
    if make_decoder is None or data_set.pictures:
        make_decoder = _local_decoder(num_processes)
    if not _is_whole(final):
        with _explained(root), file_lock(final.parent / f".{final.name}.lock"):
            if not _is_whole(final):  # by now another process may have built it
                shutil.rmtree(final, ignore_errors=True)
                discard_stale(final.parent)
                with (
                    PartialBuild(final, mark, spec) as partial,
                    make_decoder(spec, data_set.num_videos) as decoder,
                ):
                    files = StoreFiles(
                        data_set,
                        spec,
                        partial,
                        _decode_with(decoder, data_set, spec, num_processes),
                        max_skipped_share=max_skipped_share,
                        progress=progress,
                        place=lambda: decoder.place,
                    )
                    _write(data_set, spec, mark, partial, files)
                    partial.finish()
    manifest = read_manifest(final)
    check_skipped(manifest.skipped, manifest.num_videos, max_skipped_share)
    return final


def discard_damaged_store(path: Path) -> None:
    """Delete a store that was found damaged, unless another process has built it again by now.

    Processes that have the old one mapped keep their pages.
    """
    with _explained(path), file_lock(path.parent / f".{path.name}.lock"):
        try:
            ClipStore.open(path).verify()
        except DataError:
            shutil.rmtree(path, ignore_errors=True)


def _local_decoder(num_processes: int) -> MakeDecoder:
    return lambda spec, _: DecodePool(spec, num_processes)


def _decode_with(
    decoder: Decoder, data_set: DataSet, spec: ClipSpec, num_threads: int
) -> Callable[[Sequence[VideoItem], int], Generator[Outcome, None, None]]:
    """Say how the items of this data set become clips."""
    reader = data_set.pictures
    if reader is not None:
        return lambda items, _: picture_clips(reader, items, spec, num_threads)
    return lambda items, num_segments: decoder.decode(
        [item.path for item in items], num_segments=num_segments
    )


def _write(
    data_set: DataSet, spec: ClipSpec, mark: str, partial: PartialBuild, files: StoreFiles
) -> None:
    seals = files.write()
    manifest = Manifest(
        fingerprint=mark,
        data_set=data_set.name,
        classes=data_set.classes,
        clip_spec=spec,
        files=seals,
        skipped=tuple(files.skipped),
        decoder=decoder_of(data_set),
    )
    write_manifest(partial.folder, manifest)


def _is_whole(folder: Path) -> bool:
    try:
        read_manifest(folder)
    except DataError:
        return False
    return True


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"cannot write the clip store under {folder}: {error.strerror or error}; "
            "VPETL_CACHE names another folder for it"
        ) from error
