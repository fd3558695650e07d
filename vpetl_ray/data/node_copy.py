"""Where a node reads its clips: from the shared cache itself, or from a copy on its own disk.

`VPETL_LOCAL` names a folder on the node's disk: the clip store is copied there once, by the first
worker that opens it, and features are computed and kept there. Without it, what `VPETL_CACHE` holds
is read in place if it is there, and else fetched from `VPETL_STORE`.
"""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path

from vpetl_ray.data.config import cache_root
from vpetl_ray.data.file_lock import file_lock
from vpetl_ray.data.manifest import read_manifest
from vpetl_ray.data.shared_store import fetched_once, shared_store
from vpetl_ray.errors import DataError

LOCAL_VARIABLE = "VPETL_LOCAL"


def local_clips(path: str | Path) -> Path:
    """Give the folder from which this node reads a clip store.

    Args:
        path: where the driver has it.

    Raises:
        DataError: this node has no way to it.
    """
    path = Path(path)
    local = os.environ.get(LOCAL_VARIABLE)
    if local is None and _is_whole(path):
        return path
    target = Path(local or cache_root()) / "clips" / path.name
    if _is_whole(target):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    store = shared_store()
    if _is_whole(path):
        _copy_once(path, target)
    elif store is None or not fetched_once(f"clips/{path.name}", target, store):
        raise DataError(
            f"the node {os.uname().nodename} does not see {path}: VPETL_CACHE must be a folder "
            "that all nodes share, or VPETL_STORE name a storage that they reach"
        )
    return target


def local_features(path: str | None) -> str | None:
    """Give the folder in which this node keeps features; `path` is the driver's."""
    local = os.environ.get(LOCAL_VARIABLE)
    if path is None:
        return None
    if local is not None:
        return str(Path(local) / "features")
    return path if Path(path).parent.exists() else str(cache_root() / "features")


def _copy_once(source: Path, target: Path) -> None:
    with file_lock(target.parent / f".{target.name}.lock"):
        if _is_whole(target):
            return
        temporary = target.parent / f".{target.name}.{secrets.token_hex(4)}"
        shutil.copytree(source, temporary)
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)


def _is_whole(folder: Path) -> bool:
    try:
        read_manifest(folder)
    except DataError:
        return False
    return True
