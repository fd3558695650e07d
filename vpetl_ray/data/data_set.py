"""A data set as a list of files: classes, and the videos of each split."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class VideoItem:
    """One video file, or a picture, and the index of its class."""

    path: str
    label: int
    index: int | None = None
    """Which picture, where the file holds many."""


@dataclass(frozen=True, kw_only=True)
class PictureReader:
    """How a set of pictures is read."""

    read: Callable[[VideoItem], NDArray[np.uint8]]
    """Gives RGB of shape (H, W, 3); raises an OSError or ValueError where it cannot."""
    version: str
    """Named in the clip store: other readers make another store."""


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """Classes and the videos of the three splits; nothing is opened yet."""

    name: str
    root: Path
    """Every video lies under it; paths relative to it identify them."""
    classes: tuple[str, ...]
    splits: Mapping[Split, tuple[VideoItem, ...]]
    notes: tuple[str, ...] = ()
    """Sentences for the user about choices that the layout left open."""

    pictures: PictureReader | None = field(default=None, compare=False, repr=False)
    """How the items are read where they are pictures; None: they are video files."""

    def name_of(self, item: VideoItem) -> str:
        """Return the item's path relative to the root, which identifies it."""
        path = os.path.relpath(item.path, self.root)
        return path if item.index is None else f"{path}#{item.index}"

    @property
    def num_videos(self) -> int:
        """Videos of all splits together."""
        return sum(len(items) for items in self.splits.values())
