"""Videos listed in a CSV file: `path,label` or `path,label,split`, relative to the file's folder.

    path,label,split
    clips/0001.mp4,jump,train
    clips/0002.mp4,sit,test

Splits are train, val (or validation) and test; what the column leaves out is split off train.
A listed video lies in the manifest's folder, also where it is a link: a list from elsewhere must
not make this program read other files, unless the user says so (`data.outside_paths`).
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vpetl_ray.data.data_set import DataSet, Split
from vpetl_ray.data.inside import ALLOWED_BY, InsideCheck
from vpetl_ray.data.splits import ByClass, complete_splits, data_set_of_videos, no_videos
from vpetl_ray.errors import DataError

_SPLITS = {"train": "train", "val": "val", "validation": "val", "test": "test"}
MAX_LABEL_LENGTH = 1_000
_EXPECTED = """expected a CSV file
  path,label,split        (without the column split: validation and test are split off)
  clips/0001.mp4,jump,train
  clips/0002.mp4,sit,test"""


@dataclass(frozen=True, kw_only=True)
class _Row:
    line: int
    path: str
    label: str
    split: str


def list_csv(path: Path, *, outside_paths: bool, val_share: float, split_seed: int) -> DataSet:
    """List the videos of a CSV manifest.

    Args:
        path: the CSV file.
        outside_paths: whether videos may lie outside of its folder.
        val_share: share of the training videos of each class that is held out.
        split_seed: decides which ones.

    Raises:
        DataError: there is no such file, or a line of it is wrong; the message names the line.

    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise DataError(f"data.path: {path} {what}; {_EXPECTED}")
    given = _by_split(path, outside_paths)
    if "train" not in given:
        raise DataError(f"data.path: {path} lists no training videos; {_EXPECTED}")
    splits, notes = complete_splits(given, val_share, split_seed, part="split", whole="manifest")
    classes = tuple(sorted(given["train"], key=_order))
    _check(path, classes, splits, given)
    return data_set_of_videos("csv", path.parent, classes, splits, notes)


def _by_split(path: Path, outside_paths: bool) -> dict[str, ByClass[str]]:
    is_inside = InsideCheck(path.parent)
    given: dict[str, ByClass[str]] = {}
    lines: dict[str, int] = {}
    for row in _rows(path):
        where = f"data.path: {path}, line {row.line}"
        video = os.path.normpath(path.parent / row.path)
        if not outside_paths and not is_inside(video):
            raise DataError(f"{where}: {row.path} lies outside of {path.parent}; {ALLOWED_BY}")
        if video in lines:
            raise DataError(f"{where}: {row.path} is listed already, in line {lines[video]}")
        lines[video] = row.line
        given.setdefault(row.split, {}).setdefault(row.label, []).append(video)
    return given


def _rows(path: Path) -> Iterator[_Row]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, skipinitialspace=True, strict=True)
            columns = [name.strip() for name in reader.fieldnames or ()]
            if not {"path", "label"} <= set(columns):
                got = ",".join(columns)[:80] or "nothing"
                raise DataError(
                    f"data.path: {path}: the first line must name the columns path and label, "
                    f"got {got}; {_EXPECTED}"
                )
            if twice := {name for name in ("path", "label", "split") if columns.count(name) > 1}:
                raise DataError(f"data.path: {path}: the first line names {min(twice)} twice")
            reader.fieldnames = columns
            for values in reader:
                yield _row(values, f"data.path: {path}, line {reader.line_num}", reader.line_num)
    except csv.Error as error:  # such as a quote that is never closed
        where = f"data.path: {path}, line {reader.line_num + 1}"  # of the last whole row, and one
        raise DataError(f"{where}: cannot be read as CSV: {error}") from error
    except (OSError, ValueError) as error:
        raise DataError(f"data.path: {path} cannot be read as CSV: {error}") from error


def _row(values: dict[str | None, Any], where: str, line: int) -> _Row:
    if None in values:  # where DictReader puts what no column is named for
        raise DataError(f"{where}: has more fields than the first line names")
    path, label = ((values[name] or "").strip() for name in ("path", "label"))
    if not path or not label or "\0" in path:
        raise DataError(f"{where}: must have a path and a label")
    if not label.isprintable() or len(label) > MAX_LABEL_LENGTH:
        raise DataError(
            f"{where}: the label must be at most {MAX_LABEL_LENGTH} characters, none of them a "
            f"line break or control character, got {label[:40]!r}"
        )
    split = (values["split"] or "").strip() if "split" in values else "train"
    if split not in _SPLITS:
        raise DataError(f"{where}: the split must be one of {', '.join(_SPLITS)}, got {split!r}")
    return _Row(line=line, path=path, label=label, split=_SPLITS[split])


def _check(
    path: Path,
    classes: tuple[str, ...],
    splits: Mapping[Split, ByClass[str]],
    given: Mapping[str, ByClass[str]],
) -> None:
    if len(classes) < 2:
        raise DataError(f"data.path: {path} has only one class, {classes[0]!r}; {_EXPECTED}")
    for split, videos in splits.items():
        if not videos:
            raise DataError(f"data.path: {path}: {no_videos(split, given)}")
        if unknown := sorted(set(videos) - set(classes)):
            raise DataError(
                f"data.path: {path}: {split} has classes that train has no videos of: "
                f"{', '.join(unknown[:10])}"
            )
    every = [video for videos in splits.values() for paths in videos.values() for video in paths]
    if not any(map(os.path.exists, every)):
        raise DataError(f"data.path: {path}: none of its {len(every)} videos exists: {every[0]}")


def _order(label: str) -> tuple[bool, int, str]:
    """Order numbers as numbers, and before words."""
    is_number = label.isdecimal()
    return (not is_number, int(label) if is_number else 0, label)
