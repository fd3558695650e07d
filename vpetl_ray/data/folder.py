"""Videos in one folder a class, with or without folders for the splits (the Kinetics style).

    root/{train,val,test}/class/video.mp4     the splits as they are
    root/{train,test}/class/video.mp4         validation is split off train
    root/class/video.mp4                      validation and test are split off

Splits are drawn class by class from a seed, so they do not depend on the order of the files.
"""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from pathlib import Path

from vpetl_ray.data.data_set import DataSet, Split, VideoItem
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

_Videos = dict[str, list[str]]  # class name -> sorted paths


def list_folder(name: str, root: Path, *, val_share: float, split_seed: int) -> DataSet:
    """List a folder of videos; `val_share` is the share of each class held out.

    Raises:
        DataError: the layout is another one; the message shows what was expected and found.

    """
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise DataError(f"data.path: {root} {what}; {_EXPECTED.format(root=root)}")
    split_folders = [split for split in ("train", "val", "test") if (root / split).is_dir()]
    if "train" in split_folders:
        given = {split: _videos_by_class(root / split) for split in split_folders}
        splits, notes = _complete_splits(given, val_share, split_seed)
    elif split_folders:
        raise _wrong_layout(root, "there is no train folder")
    else:
        splits, notes = _split_three_ways(_videos_by_class(root), val_share, split_seed)
    classes = tuple(sorted(splits["train"]))
    _check(root, classes, splits)
    labels = {label: index for index, label in enumerate(classes)}
    return DataSet(
        name=name,
        root=root,
        classes=classes,
        splits={
            split: tuple(
                VideoItem(path=path, label=labels[label])
                for label in sorted(videos)
                for path in videos[label]
            )
            for split, videos in splits.items()
        },
        notes=notes,
    )


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


def _complete_splits(
    given: Mapping[str, _Videos], val_share: float, seed: int
) -> tuple[dict[Split, _Videos], tuple[str, ...]]:
    train = given["train"]
    if "val" in given and "test" in given:
        return {"train": train, "val": given["val"], "test": given["test"]}, ()
    rest, val = _hold_out(train, val_share, f"{seed}/val")
    if "test" in given:
        return {"train": rest, "val": val, "test": given["test"]}, ()
    if "val" in given:
        # Kinetics publishes figures on `val`. Choosing configs on it would spoil them.
        note = (
            f"there is no test folder: val is kept for the final figures, and "
            f"{val_share:.0%} of train is used to choose by"
        )
        return {"train": rest, "val": val, "test": given["val"]}, (note,)
    return _split_three_ways(train, val_share, seed)


def _split_three_ways(
    videos: _Videos, share: float, seed: int
) -> tuple[dict[Split, _Videos], tuple[str, ...]]:
    rest, test = _hold_out(videos, share, f"{seed}/test")
    train, val = _hold_out(rest, share, f"{seed}/val")
    note = f"the folder brings no splits: {share:.0%} each of every class for validation and test"
    return {"train": train, "val": val, "test": test}, (note,)


def _hold_out(videos: _Videos, share: float, seed: str) -> tuple[_Videos, _Videos]:
    """Take at least one video of each class that has two; a class's only video stays."""
    rest: _Videos = {}
    held: _Videos = {}
    for label, paths in videos.items():
        count = max(1, round(share * len(paths))) if len(paths) > 1 else 0
        chosen = set(random.Random(f"{seed}/{label}").sample(range(len(paths)), count))
        rest[label] = [path for i, path in enumerate(paths) if i not in chosen]
        if chosen:
            held[label] = [path for i, path in enumerate(paths) if i in chosen]
    return rest, held


def _check(root: Path, classes: tuple[str, ...], splits: Mapping[Split, _Videos]) -> None:
    if not classes:
        raise _wrong_layout(root, "no class folder with a video in it was found")
    if len(classes) < 2:
        raise _wrong_layout(root, f"there is only one class, {classes[0]!r}")
    for split, videos in splits.items():
        if not videos:
            raise _wrong_layout(root, f"the {split} split has no videos")
        if unknown := sorted(set(videos) - set(classes)):
            raise DataError(
                f"data.path: {root}: {split} has classes that train has no videos of: "
                f"{', '.join(unknown[:10])}"
            )


def _wrong_layout(root: Path, problem: str) -> DataError:
    return DataError(
        f"data.path: {root}: {problem}; {_EXPECTED.format(root=root)}\nfound\n{_tree(root)}"
    )


def _tree(root: Path, limit: int = 8) -> str:
    """Show the first entries of a folder and of its first sub-folders in an error message."""
    lines: list[str] = []

    def describe(folder: Path, depth: int) -> None:
        entries = sorted(folder.iterdir())
        indent = "  " * depth
        for entry in entries[:limit]:
            lines.append(f"{indent}{entry.name}{'/' if entry.is_dir() else ''}")
            if entry.is_dir() and depth < 3 and len(lines) < 3 * limit:
                describe(entry, depth + 1)
        if len(entries) > limit:
            lines.append(f"{indent}... {len(entries) - limit} more")

    describe(root, 1)
    return "\n".join(lines) or "  (nothing)"
