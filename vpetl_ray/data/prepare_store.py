"""From the `data:` section of a spec to an open clip store: list, decode what is missing, check."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vpetl_ray.data.clip_build import build_clip_store, discard_damaged_store
from vpetl_ray.data.clip_store import ClipStore
from vpetl_ray.data.config import DataConfig, cache_root
from vpetl_ray.data.data_set import DataSet
from vpetl_ray.data.decode_pool import usable_cores, useful_processes
from vpetl_ray.data.decoder import MakeDecoder
from vpetl_ray.data.manifest import fingerprint
from vpetl_ray.data.shared_store import fetched_once, shared_store
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
    progress: BuildProgress
    """The build's last word; nothing was done where a whole store was found."""
    notes: tuple[str, ...]
    """Sentences for the user about choices that the data set's layout left open."""


def prepare_store(
    config: DataConfig,
    *,
    data_set: DataSet | None = None,
    root: Path | None = None,
    num_processes: int | None = None,
    make_decoder: MakeDecoder | None = None,
    progress: Callable[[BuildProgress], None] | None = None,
) -> PreparedStore:
    """Open the clip store of a data set, decoding its videos first where that was not done yet.

    A store that is found damaged is built again.

    Args:
        config: the data set, what to store of it, and what may be skipped.
        data_set: what `config.list_videos` gives, where it was called already.
        root: the cache folder; by default `cache_root()`.
        num_processes: decoder processes; by default one for each core, 0 for this process alone.
        make_decoder: decodes videos in place of those processes; asked only if there are some to.
        progress: called after every decoded video.

    Raises:
        DataError: the videos are not there, too many cannot be read, or the cache folder cannot
            be written.

    """
    spec = config.clip_spec()
    root = root or cache_root()
    cores = usable_cores() if num_processes is None else num_processes
    videos = data_set or config.list_videos(root=root, num_processes=max(1, cores))
    last = BuildProgress(num_videos=videos.num_videos)

    def note(state: BuildProgress) -> None:
        nonlocal last
        last = state
        if progress:
            progress(state)

    def build() -> Path:
        """Build it, or get what another node has built."""
        store = shared_store()
        name = f"{videos.name}-{fingerprint(videos, spec)[:16]}"
        place = root / "clips" / name
        if store is None:
            return decode()
        place.parent.mkdir(parents=True, exist_ok=True)
        if fetched_once(f"clips/{name}", place, store) and store.has(f"clips/{name}"):
            return place
        with store.claim(f"clips/{name}") as is_mine:
            if is_mine:
                store.push(f"clips/{name}", decode())
        fetched_once(f"clips/{name}", place, store)
        return place

    def decode() -> Path:
        return build_clip_store(
            videos,
            spec,
            root,
            max_skipped_share=config.max_skipped_share,
            num_processes=min(cores, useful_processes(videos.num_videos)),
            make_decoder=make_decoder,
            progress=note,
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
        was_built=last.num_done > 0,
        seconds=time.monotonic() - start,
        progress=last,
        notes=videos.notes,
    )


def _open_checked(path: Path) -> ClipStore:
    store = ClipStore.open(path)
    if store.num_bytes <= _VERIFIED_BYTES:
        store.verify()
    return store
