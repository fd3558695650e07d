"""From the `data:` section of a spec to an open clip store: list, decode what is missing, check."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vpetl_ray.data.catalogue import open_data_set
from vpetl_ray.data.clip_build import build_clip_store, discard_damaged_store
from vpetl_ray.data.clip_store import ClipStore
from vpetl_ray.data.config import DataConfig, cache_root
from vpetl_ray.data.data_set import DataSet
from vpetl_ray.data.store_files import BuildProgress
from vpetl_ray.errors import DataError

log = logging.getLogger(__name__)

_VERIFIED_BYTES = 2 * 2**30
"""A store found ready is read through and checked up to this size, which takes a second or so.
Of a larger one each clip is checked when it is first read, as always."""


@dataclass(frozen=True, kw_only=True)
class PreparedStore:
    """An open clip store and how it came about."""

    store: ClipStore
    was_built: bool
    """False where a whole one was found."""
    seconds: float
    """What decoding took, or finding that it was done."""
    notes: tuple[str, ...]
    """Sentences for the user about choices that the data set's layout left open."""


def prepare_store(
    config: DataConfig,
    *,
    root: Path | None = None,
    num_processes: int | None = None,
    progress: Callable[[BuildProgress], None] | None = None,
) -> PreparedStore:
    """Open the clip store of a data set, decoding its videos first where that was not done yet.

    A store that is found damaged is built again.

    Args:
        config: the data set, what to store of it, and what may be skipped.
        root: the cache folder; by default `cache_root()`.
        num_processes: decoder processes; by default one for each core, 0 for this process alone.
        progress: called after every decoded video.

    Raises:
        DataError: the videos are not there, too many cannot be read, or the cache folder cannot
            be written.

    """
    spec = config.clip_spec()
    root = root or cache_root()
    cores = _num_cores() if num_processes is None else num_processes
    data_set = open_data_set(
        config.source,
        config.path,
        cache_root=root,
        val_share=config.val_share,
        split_seed=config.split_seed,
        num_processes=max(1, cores),
        split=config.split or 1,
        outside_paths=config.outside_paths,
    )
    num_decoded = 0

    def count(state: BuildProgress) -> None:
        nonlocal num_decoded
        num_decoded = state.num_done
        if progress:
            progress(state)

    def build() -> Path:
        return build_clip_store(
            data_set,
            spec,
            root,
            max_skipped_share=config.max_skipped_share,
            num_processes=_useful_processes(cores, data_set),
            progress=count,
        )

    start = time.monotonic()
    path = build()
    try:
        store = _open_checked(path)
    except DataError as error:
        log.warning("%s; it is built again", error)
        discard_damaged_store(path)
        store = _open_checked(build())
    return PreparedStore(
        store=store,
        was_built=num_decoded > 0,
        seconds=time.monotonic() - start,
        notes=data_set.notes,
    )


def _open_checked(path: Path) -> ClipStore:
    store = ClipStore.open(path)
    if store.num_bytes <= _VERIFIED_BYTES:
        store.verify()
    return store


def _useful_processes(cores: int, data_set: DataSet) -> int:
    # A decoder process takes seconds to start: fifty small videos keep one busy for less.
    return min(cores, 1 + data_set.num_videos // 50)


def _num_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
