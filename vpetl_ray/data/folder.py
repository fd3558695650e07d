"""Videos in one folder a class, with or without folders for the splits (the Kinetics style).

    root/{train,val,test}/class/video.mp4     the splits as they are
    root/{train,test}/class/video.mp4         validation is split off train
    root/class/video.mp4                      validation and test are split off

What is held out is drawn class by class, see `splits`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from vpetl_ray.data.data_set import DataSet, Split
from vpetl_ray.data.layout import need_folder, wrong_layout
from vpetl_ray.data.splits import ByClass, complete_splits, data_set_of_videos, no_videos
from vpetl_ray.errors import DataError

VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".3gp", ".avi", ".webm", ".mkv", ".mpg", ".mpeg"),
    *(".ts", ".mts", ".m2ts", ".wmv", ".asf", ".flv", ".ogv", ".gif"),
)
"""What counts as a video by its name; other files (lists, thumbnails) are passed over."""

_EXPECTED = """expected one of
  {root}/{{train,val,test}}/<class>/<video>.mp4
  {root}/{{train,test}}/<class>/<video>.mp4    (validation is split off train)
  {root}/<class>/<video>.mp4                 (validation and test are split off)"""

_Videos = ByClass[str]


def list_folder(name: str, root: Path, *, val_share: float, split_seed: int) -> DataSet:
    """List a folder of videos; `val_share` is the share of each class held out.

    Raises:
        DataError: the layout is another one; the message shows what was expected and found.

    """
    need_folder(root, _EXPECTED)
    split_folders = [split for split in ("train", "val", "test") if (root / split).is_dir()]
    if split_folders and "train" not in split_folders:
        raise wrong_layout(root, "there is no train folder", _EXPECTED)
    if split_folders:
        given = {split: _videos_by_class(root / split) for split in split_folders}
    else:
        given = {"train": _videos_by_class(root)}
    splits, notes = complete_splits(given, val_share, split_seed)
    classes = tuple(sorted(splits["train"]))
    _check(root, classes, splits, given)
    notes += _passed_over(root, split_folders)
    return data_set_of_videos(name, root, classes, splits, notes)


def _videos_by_class(folder: Path) -> _Videos:
    """Class folders with at least one video in them, both in sorted order."""
    videos: _Videos = {}
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_dir() and not entry.name.startswith("."):
            paths = sorted(file.path for file in os.scandir(entry.path) if _is_video(file))
            if paths:
                videos[entry.name] = paths
    return videos


def _is_video(entry: os.DirEntry[str]) -> bool:
    suffix = os.path.splitext(entry.name)[1].lower()
    return suffix in VIDEO_SUFFIXES and not entry.name.startswith(".") and entry.is_file()


def _passed_over(root: Path, split_folders: list[str]) -> tuple[str, ...]:
    """Name the folders beside the splits: one of them may be a split with another name."""
    if not split_folders:
        return ()
    folders = (entry.name for entry in root.iterdir() if entry.is_dir())
    others = sorted(name for name in folders if name not in split_folders and name[0] != ".")
    return (f"only train, val and test are read, not {', '.join(others[:5])}",) if others else ()


def _check(
    root: Path,
    classes: tuple[str, ...],
    splits: Mapping[Split, _Videos],
    given: Mapping[str, _Videos],
) -> None:
    if not classes:
        raise wrong_layout(root, "no class folder with a video in it was found", _EXPECTED)
    if len(classes) < 2:
        raise wrong_layout(root, f"there is only one class, {classes[0]!r}", _EXPECTED)
    for split, videos in splits.items():
        if not videos:
            raise wrong_layout(root, no_videos(split, given), _EXPECTED)
        if unknown := sorted(set(videos) - set(classes)):
            raise DataError(
                f"data.path: {root}: {split} has classes that train has no videos of: "
                f"{', '.join(unknown[:10])}"
            )
