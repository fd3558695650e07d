"""What a clip store says about itself: `manifest.json`, written last, with its own checksum."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vpetl_ray.data.clip_file import FileSeal
from vpetl_ray.data.config import ClipSpec
from vpetl_ray.data.data_set import DataSet
from vpetl_ray.data.decoded import DECODER
from vpetl_ray.errors import DataError

FORMAT_VERSION = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A video that could not be read."""

    path: str
    """Relative to the data set's root."""
    reason: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a store holds and what went into it."""

    fingerprint: str
    data_set: str
    classes: tuple[str, ...]
    clip_spec: ClipSpec
    files: Mapping[str, FileSeal]
    """By split; the file of a split is `<split>.arrow`."""
    skipped: tuple[Skipped, ...]
    decoder: str = DECODER
    format_version: int = FORMAT_VERSION

    @property
    def num_videos(self) -> int:
        """Videos that went in, the unreadable ones included."""
        return sum(seal.num_clips for seal in self.files.values()) + len(self.skipped)


def fingerprint(data_set: DataSet, spec: ClipSpec) -> str:
    """Hash everything that decides what a store of this data set holds, contents by their stamps.

    A video counts by its path under the root, label, split, size and time of change: reading
    every video to find out that nothing has changed would cost as much as decoding it.
    """
    digest = hashlib.sha256()

    def add(*values: object) -> None:
        digest.update(json.dumps(values).encode() + b"\n")

    add(FORMAT_VERSION, decoder_of(data_set), spec.identity(), data_set.name, data_set.classes)
    for split, items in data_set.splits.items():
        for item in items:
            add(split, data_set.name_of(item), item.label, *_stamp(item.path))
    return digest.hexdigest()


def decoder_of(data_set: DataSet) -> str:
    """Say what reads the items of a data set, with versions."""
    return data_set.pictures.version if data_set.pictures else DECODER


def _stamp(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return (-1, -1)  # gone, or a link to nowhere: it will be skipped by name
    return (status.st_size, status.st_mtime_ns)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json`, checksummed and on the disk when this returns."""
    content = asdict(manifest)
    with open(folder / MANIFEST, "w", encoding="utf-8") as file:
        json.dump({"sha256": _digest(content), **content}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def read_manifest(folder: Path) -> Manifest:
    """Read and check `manifest.json`.

    Raises:
        DataError: there is none (a store that was never finished), it is damaged, or it is of
            another version of the format.

    """
    path = folder / MANIFEST
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        digest, version = content.pop("sha256"), content["format_version"]
    except FileNotFoundError as error:
        raise DataError(f"{folder} is not a whole clip store: it has no {MANIFEST}") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"the clip store's {path} is damaged: {error}") from error
    if version != FORMAT_VERSION:
        raise DataError(
            f"the clip store {folder} has format {version}, this version reads {FORMAT_VERSION}"
        )
    if digest != _digest(content):
        raise DataError(f"the clip store's {path} is damaged: it does not match its checksum")
    return Manifest(
        **{
            **content,
            "classes": tuple(content["classes"]),
            "clip_spec": ClipSpec(**content["clip_spec"]),
            "files": {split: FileSeal(**seal) for split, seal in content["files"].items()},
            "skipped": tuple(Skipped(**entry) for entry in content["skipped"]),
        }
    )


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
