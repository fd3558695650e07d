"""The demo's clips as training reads them: videos made and decoded once, in the cache."""

from __future__ import annotations

from vpetl_ray.data.clip_build import build_clip_store
from vpetl_ray.data.clip_store import ClipStore
from vpetl_ray.data.config import DataConfig, cache_root
from vpetl_ray.data.demo import make_task_videos
from vpetl_ray.data.folder import list_folder
from vpetl_ray.data.prepare_store import prepare_store
from vpetl_ray.data.stored_clips import StoredClips


def source_clips() -> tuple[StoredClips, StoredClips, StoredClips]:
    """Train, val and test of the task that the backbone is pretrained on."""
    videos = make_task_videos("source", cache_root() / "videos" / "demo_source", seed=0)
    data_set = list_folder("demo_source", videos, val_share=0.1, split_seed=0)
    spec = DataConfig(source="demo").clip_spec()
    return _splits(ClipStore.open(build_clip_store(data_set, spec, cache_root())))


def target_clips() -> tuple[StoredClips, StoredClips, StoredClips]:
    """Train, val and test of the task that searches run on, as a search reads them."""
    return _splits(prepare_store(DataConfig(source="demo"), num_processes=1).store)


def _splits(store: ClipStore) -> tuple[StoredClips, StoredClips, StoredClips]:
    view = DataConfig(source="demo").view_spec()
    return store.split("train", view), store.split("val", view), store.split("test", view)
