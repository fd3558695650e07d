"""Food-101 as it is published, read by torchvision: 101 classes of 750 train and 250 test photos.

root/food-101/images/apple_pie/1005649.jpg
root/food-101/meta/{train,test}.json
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vpetl_ray.data.data_set import DataSet, VideoItem
from vpetl_ray.data.pictures import data_set_of_pictures, find_published, read_published
from vpetl_ray.errors import DataError

_BASE = "food-101"
_EXPECTED = f"""expected
  {{root}}/{_BASE}/images/<class>/<photo>.jpg
  {{root}}/{_BASE}/meta/train.json
  {{root}}/{_BASE}/meta/test.json"""


def list_food101(root: Path, *, val_share: float, split_seed: int) -> DataSet:
    """List Food-101.

    Raises:
        DataError: the files are not there, or are not what they should be.

    """
    from torchvision.datasets import Food101  # noqa: PLC0415  (seconds, for one source alone)
    from torchvision.datasets.folder import default_loader  # noqa: PLC0415

    files = ("images", "meta/train.json", "meta/test.json")
    root = find_published(root, _BASE, files, _EXPECTED)

    def read() -> dict[str, Any]:
        # Its own loader would open every photo; here `loader` leaves the path as it is.
        return {split: Food101(str(root), split, loader=str) for split in ("train", "test")}

    sets = read_published(root, "Food-101", read)
    classes = sets["train"].classes
    if sets["test"].classes != classes:
        raise DataError(f"data.path: {root}: train.json and test.json list different classes")

    def items(split: str) -> Iterator[VideoItem]:
        for i in range(len(sets[split])):
            path, label = sets[split][i]
            yield VideoItem(path=path, label=label)

    def picture(item: VideoItem) -> NDArray[np.uint8]:
        return np.asarray(default_loader(item.path))

    return data_set_of_pictures(
        "food101",
        root,
        classes,
        {split: items(split) for split in sets},
        picture,
        val_share=val_share,
        split_seed=split_seed,
    )
