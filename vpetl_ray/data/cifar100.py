"""CIFAR-100 as it is published (the Python version), read by torchvision: 32 x 32, 100 classes.

root/cifar-100-python/{train,test,meta}
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vpetl_ray.data.data_set import DataSet, VideoItem
from vpetl_ray.data.pictures import data_set_of_pictures, find_published, read_published

_BASE = "cifar-100-python"
_EXPECTED = f"""expected
  {{root}}/{_BASE}/train
  {{root}}/{_BASE}/test
  {{root}}/{_BASE}/meta"""


def list_cifar100(root: Path, *, val_share: float, split_seed: int) -> DataSet:
    """List CIFAR-100.

    Raises:
        DataError: the files are not there, or are not the published ones.

    """
    from torchvision.datasets import CIFAR100  # noqa: PLC0415  (seconds, for one source alone)

    root = find_published(root, _BASE, ("train", "test", "meta"), _EXPECTED)

    def read() -> dict[str, Any]:
        return {split: CIFAR100(str(root), train=split == "train") for split in ("train", "test")}

    sets = read_published(root, "CIFAR-100", read)

    def items(split: str) -> Iterator[VideoItem]:
        path = str(root / _BASE / split)
        for index, label in enumerate(sets[split].targets):
            yield VideoItem(path=path, label=int(label), index=index)

    def picture(item: VideoItem) -> NDArray[np.uint8]:
        return np.asarray(sets[Path(item.path).name][item.index][0])

    return data_set_of_pictures(
        "cifar100",
        root,
        sets["train"].classes,
        {split: items(split) for split in sets},
        picture,
        val_share=val_share,
        split_seed=split_seed,
    )
