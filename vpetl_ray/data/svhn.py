"""Street View House Numbers as published (cropped digits), read by torchvision: 32 x 32, 0 to 9.

    root/{train,test}_32x32.mat

The extra training set is not used.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vpetl_ray.data.data_set import DataSet, VideoItem
from vpetl_ray.data.pictures import data_set_of_pictures, find_published, read_published

_FILE = "{}_32x32.mat"
_EXPECTED = """expected the cropped digits (format 2)
  {root}/train_32x32.mat
  {root}/test_32x32.mat"""


def list_svhn(root: Path, *, val_share: float, split_seed: int) -> DataSet:
    """List SVHN.

    Raises:
        DataError: the files are not there, or are not the published ones.

    """
    from torchvision.datasets import SVHN  # noqa: PLC0415  (seconds, for one source alone)

    names = {split: _FILE.format(split) for split in ("train", "test")}
    find_published(root, "", tuple(names.values()), _EXPECTED)

    def read() -> dict[str, Any]:
        return {name: SVHN(str(root), split=split) for split, name in names.items()}

    sets = read_published(root, "SVHN", read)

    def items(name: str) -> Iterator[VideoItem]:
        path = str(root / name)
        for index, label in enumerate(sets[name].labels):
            yield VideoItem(path=path, label=int(label), index=index)

    def picture(item: VideoItem) -> NDArray[np.uint8]:
        return np.asarray(sets[Path(item.path).name][item.index][0])

    return data_set_of_pictures(
        "svhn",
        root,
        [str(digit) for digit in range(10)],
        {split: items(name) for split, name in names.items()},
        picture,
        val_share=val_share,
        split_seed=split_seed,
    )
