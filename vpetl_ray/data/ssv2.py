"""Something-Something v2 as it is published: .webm files by number, and lists of them in JSON.

    root/20bn-something-something-v2/78687.webm
    root/something-something-v2-{train,validation,labels}.json    as TwentyBN named them
    root/labels/{train,validation,labels}.json                    as Qualcomm names them now

An entry of a list has an `id` and a `template`, "Holding [something] next to [something]"; without
its brackets the template is a key of the labels, whose value is the number of the class.

The labels of the official test videos were kept back for years, so figures are published on
validation: it is used as test here, and what configs are chosen by is split off train. (R. Goyal
et al., The "something something" video database, ICCV 2017.)
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vpetl_ray.data.data_set import DataSet, Split
from vpetl_ray.data.layout import need_folder, wrong_layout
from vpetl_ray.data.splits import ByClass, data_set_of_videos, hold_out
from vpetl_ray.errors import DataError

_VIDEO_FOLDERS = ("20bn-something-something-v2", "videos")
_LIST_NAMES = ("something-something-v2-{}.json", "labels/{}.json", "{}.json")
_EXPECTED = """expected
  {root}/20bn-something-something-v2/<id>.webm
  {root}/something-something-v2-{{train,validation,labels}}.json
      (or {root}/labels/{{train,validation,labels}}.json)"""


def list_ssv2(root: Path, *, val_share: float, split_seed: int) -> DataSet:
    """List Something-Something v2; the official validation videos are its test split.

    Args:
        root: the folder that holds the folder of videos and the lists.
        val_share: share of the training videos of each class that is held out.
        split_seed: decides which ones.

    Raises:
        DataError: the layout is another one; the message shows what was expected and found.

    """
    need_folder(root, _EXPECTED)
    paths = {name: _find_list(root, name) for name in ("labels", "train", "validation")}
    classes = _classes(paths["labels"])
    folder = next((root / name for name in _VIDEO_FOLDERS if (root / name).is_dir()), None)
    if folder is None:
        raise wrong_layout(root, f"there is no folder {_VIDEO_FOLDERS[0]}", _EXPECTED)
    known = frozenset(classes)
    labelled = _videos(paths["train"], folder, known)
    test = _videos(paths["validation"], folder, known)
    _check_some_exist(root, folder, labelled)
    train, val = hold_out(labelled, val_share, f"{split_seed}/val")
    for name, videos in (("train", train), ("train", val), ("validation", test)):
        if not videos:
            raise DataError(f"data.path: {paths[name]} lists too few videos")
    note = (
        "the official validation videos are kept for the final figures, and "
        f"{val_share:.0%} of train is used to choose by"
    )
    splits: dict[Split, ByClass[str]] = {"train": train, "val": val, "test": test}
    return data_set_of_videos("ssv2", root, classes, splits, (note,))


def _find_list(root: Path, name: str) -> Path:
    places = [root / pattern.format(name) for pattern in _LIST_NAMES]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise wrong_layout(root, f"there is no {places[0].name}", _EXPECTED)
    return found


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"data.path: {path} cannot be read as JSON: {error}") from error


def _classes(path: Path) -> tuple[str, ...]:
    """Read the class names in the order of their numbers."""
    content = _read_json(path)
    try:
        numbers = {str(name): int(number) for name, number in content.items()}
    except (AttributeError, TypeError, ValueError):
        numbers = {}
    if len(numbers) < 2 or sorted(numbers.values()) != list(range(len(numbers))):
        raise DataError(f"data.path: {path} must map class names to the numbers from 0")
    return tuple(sorted(numbers, key=numbers.__getitem__))


def _videos(path: Path, folder: Path, classes: frozenset[str]) -> ByClass[str]:
    """Read a list: the paths of its videos by class."""
    entries = _read_json(path)
    if not isinstance(entries, list):
        raise DataError(f"data.path: {path} must be a list of videos")
    videos: dict[str, list[str]] = {}
    for number, entry in enumerate(entries, 1):
        video, label = _video(entry, f"data.path: {path}, entry {number}")
        if label not in classes:
            raise DataError(
                f"data.path: {path}, entry {number}: the labels have no class {label!r}"
            )
        videos.setdefault(label, []).append(str(folder / f"{video}.webm"))
    return videos


def _video(entry: object, where: str) -> tuple[str, str]:
    """Return an entry's number and class."""
    match entry:
        case {"id": str() | int() as video, "template": str() as template}:
            if str(video).isalnum():
                return str(video), template.replace("[", "").replace("]", "")
            raise DataError(f"{where}: the id must be a number, got {video!r}")
        case Mapping():
            raise DataError(f"{where}: must have an id and a template, has {', '.join(entry)}")
        case _:
            raise DataError(f"{where}: must have an id and a template")


def _check_some_exist(root: Path, folder: Path, videos: ByClass[str]) -> None:
    """Find a folder of something else now; single videos that are missing are skipped by name."""
    names = {entry.name for entry in os.scandir(folder)}
    if not any(os.path.basename(path) in names for paths in videos.values() for path in paths):
        raise wrong_layout(root, f"{folder.name} has none of the training videos", _EXPECTED)
