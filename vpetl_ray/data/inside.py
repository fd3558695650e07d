"""Whether videos lie in the folder they are listed in, once every link on the way is followed.

A list, an archive or a folder from elsewhere must not make this program read other files, unless
the user says so (`data.outside_paths`).
"""

from __future__ import annotations

import functools
import os
from pathlib import Path

from vpetl_ray.data.data_set import DataSet
from vpetl_ray.errors import DataError

ALLOWED_BY = "data.outside_paths: true allows that"


class InsideCheck:
    """Asks it of paths; a link is looked for once a folder, not once a video.

    Args:
        root: the folder, which may be a link itself.
    """

    def __init__(self, root: Path) -> None:
        self._root = os.path.realpath(root)
        self._real_folder = functools.cache(os.path.realpath)
        self._links = functools.cache(_links_in)

    def __call__(self, path: str) -> bool:
        """Whether the file at ``path``, there or not, lies in the folder."""
        folder, name = os.path.split(path)
        is_link = name in self._links(folder)
        real = os.path.realpath(path) if is_link else os.path.join(self._real_folder(folder), name)
        return os.path.commonpath([self._root, real]) == self._root


def _links_in(folder: str) -> frozenset[str]:
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries if entry.is_symlink())
    except OSError:
        return frozenset()  # what is not there is found missing when it is read


def check_inside(data_set: DataSet) -> None:
    """Check every video of a data set.

    Raises:
        DataError: one lies elsewhere; the message names the first.
    """
    is_inside = InsideCheck(data_set.root)
    for items in data_set.splits.values():
        for item in items:
            if not is_inside(item.path):
                raise DataError(
                    f"data.path: {data_set.name_of(item)!r} is a link that leads out of "
                    f"{data_set.root}; {ALLOWED_BY}"
                )
