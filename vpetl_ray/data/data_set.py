"""A data set as a list of files: classes, and the videos of each split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class VideoItem:
    """One video file and the index of its class."""

    path: str
    label: int


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

    @property
    def num_videos(self) -> int:
        """Videos of all splits together."""
        return sum(len(items) for items in self.splits.values())
