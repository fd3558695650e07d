"""The data sets: where their videos lie, which classes they have, how they are split.

A data set is one function that lists its videos and one line in SOURCES.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vpetl_ray.data.csv_manifest import list_csv
from vpetl_ray.data.data_set import DataSet
from vpetl_ray.data.folder import list_folder
from vpetl_ray.data.hmdb51 import list_hmdb51
from vpetl_ray.data.inside import check_inside
from vpetl_ray.data.ssv2 import list_ssv2
from vpetl_ray.errors import DataError


@dataclass(frozen=True, kw_only=True)
class OpenOptions:
    """What a source may need to know to list its videos."""

    path: Path | None
    cache_root: Path
    val_share: float
    split_seed: int
    num_processes: int
    split: int = 1
    """Which of the official splits, where there are several."""
    outside_paths: bool = False
    """Whether videos may lie outside of the folder, by a link or by the list that names them."""

    @property
    def root(self) -> Path:
        """The path, of a source that needs one."""
        assert self.path is not None  # open_data_set has seen to it
        return self.path


@dataclass(frozen=True, kw_only=True)
class Source:
    """One kind of data set."""

    open: Callable[[OpenOptions], DataSet]
    needs_path: bool = True
    """Whether the user has to say where the videos are."""
    path_is: str = "the folder its videos are in"
    """What the path leads to."""
    num_classes: int | None = None
    """Of the set as it is published; None where the videos alone say it."""
    is_still: bool = False
    """Whether it has pictures, which have one moment only."""
    options: tuple[str, ...] = ()
    """Fields of `DataConfig` that only some sources know, and this one does."""
    names_paths: bool = False
    """Whether a list of the user's names each video: opening it looks where they lie, by line."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `ClipSpec` and `ViewSpec` that differ from their defaults for this source."""


_PICTURES = "the folder its files are in"
_ONE_FRAME = {"frames": 1, "stride": 1}


def _open_demo(options: OpenOptions) -> DataSet:
    # Imported here: drawing the demo takes scikit-learn, which no other data set needs.
    from vpetl_ray.data.demo import make_demo_videos  # noqa: PLC0415

    root = make_demo_videos(
        options.cache_root / "videos" / "demo", num_processes=options.num_processes
    )
    return list_folder("demo", root, val_share=options.val_share, split_seed=options.split_seed)


def _open_folder(options: OpenOptions) -> DataSet:
    return list_folder(
        "folder", options.root, val_share=options.val_share, split_seed=options.split_seed
    )


def _open_hmdb51(options: OpenOptions) -> DataSet:
    return list_hmdb51(
        options.root,
        split=options.split,
        val_share=options.val_share,
        split_seed=options.split_seed,
    )


def _open_ssv2(options: OpenOptions) -> DataSet:
    return list_ssv2(options.root, val_share=options.val_share, split_seed=options.split_seed)


def _open_csv(options: OpenOptions) -> DataSet:
    return list_csv(
        options.root,
        outside_paths=options.outside_paths,
        val_share=options.val_share,
        split_seed=options.split_seed,
    )


def _open_cifar100(options: OpenOptions) -> DataSet:
    from vpetl_ray.data.cifar100 import list_cifar100  # noqa: PLC0415

    return list_cifar100(options.root, val_share=options.val_share, split_seed=options.split_seed)


def _open_svhn(options: OpenOptions) -> DataSet:
    from vpetl_ray.data.svhn import list_svhn  # noqa: PLC0415

    return list_svhn(options.root, val_share=options.val_share, split_seed=options.split_seed)


def _open_food101(options: OpenOptions) -> DataSet:
    from vpetl_ray.data.food101 import list_food101  # noqa: PLC0415

    return list_food101(options.root, val_share=options.val_share, split_seed=options.split_seed)


SOURCES: Mapping[str, Source] = {
    "demo": Source(
        open=_open_demo,
        needs_path=False,
        # Its motions are told apart by their direction, and drawn at the size and for the length
        # at which they are used.
        defaults={"stride": 1, "size": 32, "train_crop": "centre", "flip": 0.0, "test_segments": 1},
    ),
    "folder": Source(open=_open_folder, options=("outside_paths",)),
    "csv": Source(
        open=_open_csv,
        path_is="the CSV file that lists its videos",
        options=("outside_paths",),
        names_paths=True,
    ),
    "hmdb51": Source(
        open=_open_hmdb51,
        num_classes=51,
        options=("split", "outside_paths"),
        defaults={"frames": 8, "stride": 2, "size": 224},
    ),
    "ssv2": Source(
        open=_open_ssv2,
        num_classes=174,
        options=("outside_paths",),
        # Mirrored, "from left to right" is another class; and the end of a video tells as much
        # as its middle, so frames are spread over all of it, as Video Swin takes them there.
        defaults={"sampling": "uniform", "flip": 0.0},
    ),
    "cifar100": Source(
        open=_open_cifar100,
        num_classes=100,
        is_still=True,
        path_is=_PICTURES,
        defaults=_ONE_FRAME,
    ),
    "svhn": Source(
        open=_open_svhn,
        num_classes=10,
        is_still=True,
        path_is=_PICTURES,
        defaults={**_ONE_FRAME, "flip": 0.0},  # a mirrored digit is none
    ),
    "food101": Source(
        open=_open_food101,
        num_classes=101,
        is_still=True,
        path_is=_PICTURES,
        defaults=_ONE_FRAME,
    ),
}


def get_source(name: str) -> Source:
    """Return the source of that name; a DataError naming the valid ones otherwise."""
    if name in SOURCES:
        return SOURCES[name]
    close = difflib.get_close_matches(name, SOURCES, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    raise DataError(f"data.source: must be one of {', '.join(SOURCES)}, got {name!r}{hint}")


def open_data_set(
    source: str,
    path: str | Path | None = None,
    *,
    cache_root: Path,
    val_share: float = 0.1,
    split_seed: int = 0,
    num_processes: int = 1,
    split: int = 1,
    outside_paths: bool = False,
) -> DataSet:
    """List the videos of a data set.

    Args:
        source: a name of SOURCES.
        path: the data set's root; the demo makes its own in the cache.
        cache_root: where the demo's videos are made.
        val_share: share of the training videos held out where the set has no validation split.
        split_seed: decides which ones are held out.
        num_processes: how many processes make the demo's videos.
        split: which of the official splits, where there are several.
        outside_paths: whether videos may lie outside of the folder.

    Raises:
        DataError: unknown source, missing path, a layout that is not the expected one, or a video
            that lies elsewhere.

    """
    entry = get_source(source)
    if entry.needs_path and not path:
        raise DataError(f"data.path: the source {source!r} needs {entry.path_is}")
    found = entry.open(
        OpenOptions(
            path=Path(path).expanduser().absolute() if path else None,
            cache_root=cache_root,
            val_share=val_share,
            split_seed=split_seed,
            num_processes=num_processes,
            split=split,
            outside_paths=outside_paths,
        )
    )
    if "outside_paths" in entry.options and not (outside_paths or entry.names_paths):
        check_inside(found)
    return found
