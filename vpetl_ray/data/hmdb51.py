"""HMDB51 as it is published: 51 folders of .avi files and the official lists of three splits.

    root/brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0.avi
    root/testTrainMulti_7030_splits/brush_hair_test_split1.txt

A line of a list is `<file> <0|1|2>`: 1 is train, 2 is test, 0 is not used by that split.

Validation is split off train by whole films: one film often gave several clips of a class, cut
seconds apart, and the official splits keep them on one side too. (H. Kuehne et al., HMDB: a large
video database for human motion recognition, ICCV 2011.)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from vpetl_ray.data.data_set import DataSet
from vpetl_ray.data.layout import need_folder, wrong_layout
from vpetl_ray.data.splits import ByClass, data_set_of_videos, hold_out
from vpetl_ray.errors import DataError

NUM_CLASSES = 51
_LISTS = "testTrainMulti_7030_splits"
_VIDEO_FOLDERS = (".", "videos", "hmdb51_org")
_USE = {"1": "train", "2": "test", "0": "unused"}
_SCENE = re.compile(r"_[a-z]_(?:cm|nm)_np\d+_[a-z]{2}_[a-z]+_\d+\.avi$")
"""What follows film and action in a name: body parts, camera, people, view, quality, number."""
_EXPECTED = f"""expected
  {{root}}/<class>/<video>.avi    (51 classes; also in {{root}}/videos or {{root}}/hmdb51_org)
  {{root}}/{_LISTS}/<class>_test_split<1|2|3>.txt"""


def list_hmdb51(root: Path, *, split: int, val_share: float, split_seed: int) -> DataSet:
    """List HMDB51.

    Args:
        root: the folder that holds the class folders and the folder of lists.
        split: which official split, 1 to 3.
        val_share: share of the training videos of each class that is held out.
        split_seed: decides which films are held out.

    Raises:
        DataError: the layout is another one; the message shows what was expected and found.

    """
    need_folder(root, _EXPECTED)
    lists = _lists(root, split)
    videos = _video_folder(root, tuple(lists))
    given: dict[str, ByClass[str]] = {"train": {}, "test": {}, "unused": {}}
    for label, path in lists.items():
        for name, use in _read_list(path).items():
            given[use].setdefault(label, []).append(str(videos / label / name))
    for use in ("train", "test"):
        if missing := sorted(set(lists) - set(given[use])):
            raise DataError(f"data.path: {lists[missing[0]]} lists no {use} videos")
    train, val = hold_out(given["train"], val_share, f"{split_seed}/val", group=_film)
    if not val:
        raise DataError(f"data.path: {root}: too few training videos to hold some out")
    return data_set_of_videos(
        f"hmdb51-split{split}",
        root,
        sorted(lists),
        {"train": train, "val": val, "test": given["test"]},
        _notes(len(lists)),
    )


def _lists(root: Path, split: int) -> Mapping[str, Path]:
    """Find the list of each class."""
    ending = f"_test_split{split}.txt"
    folder = root / _LISTS
    if not folder.is_dir():
        raise wrong_layout(root, f"there is no folder {_LISTS}", _EXPECTED)
    lists = {
        path.name.removesuffix(ending): path
        for path in sorted(folder.iterdir())
        if path.name.endswith(ending)
    }
    if len(lists) < 2:
        raise wrong_layout(root, f"{_LISTS} has no lists <class>{ending}", _EXPECTED)
    return lists


def _video_folder(root: Path, classes: tuple[str, ...]) -> Path:
    """Find the folder that the class folders are in."""
    places = [root / name for name in _VIDEO_FOLDERS]
    folder = max(places, key=lambda place: sum((place / name).is_dir() for name in classes))
    missing = [name for name in classes if not (folder / name).is_dir()]
    if len(missing) == len(classes):
        raise wrong_layout(root, "there are no class folders", _EXPECTED)
    if missing:
        named = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if missing[5:] else "")
        raise wrong_layout(root, f"there is no folder for {named}", _EXPECTED)
    return folder


def _read_list(path: Path) -> Mapping[str, str]:
    """Read a list: train, test or unused by file name."""
    uses: dict[str, str] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"data.path: {path} cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        words = line.rsplit(maxsplit=1)
        if not words:
            continue
        name = words[0].strip()
        if len(words) != 2 or words[1] not in _USE or Path(name).name != name:
            raise DataError(
                f"data.path: {path}, line {number}: must be <file> <0|1|2>, got {line.strip()!r}"
            )
        uses[name] = _USE[words[1]]
    return uses


def _film(path: str) -> str:
    return _SCENE.sub("", Path(path).name)


def _notes(num_classes: int) -> tuple[str, ...]:
    """Say it when this is only a part of the data set."""
    if num_classes == NUM_CLASSES:
        return ()
    return (f"only {num_classes} of HMDB51's {NUM_CLASSES} classes are here",)
