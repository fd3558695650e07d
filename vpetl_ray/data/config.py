"""What a user says about the data: where it is, what of a video is stored, what a model sees."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from vpetl_ray.data.catalogue import SOURCES, get_source, open_data_set
from vpetl_ray.data.data_set import DataSet
from vpetl_ray.errors import DataError

Sampling = Literal["dense", "uniform"]
TrainCrop = Literal["random", "centre"]

FREE = "free"
"""The word for a new view in every epoch."""
DEFAULT_VIEWS = 4
"""Views of a clip in training, where there is augmentation: few enough to keep their features."""
FINAL_SEGMENTS = 4
"""Times the 3 crops of `ViewSpec`, these are the 12 views of Video Swin's figures."""


def cache_root() -> Path:
    """Where made videos and clip stores live: VPETL_CACHE, else the user's cache folder."""
    if own := os.environ.get("VPETL_CACHE"):
        return Path(own).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).expanduser().absolute() / "vpetl_ray"


@dataclass(frozen=True, kw_only=True)
class ClipSpec:
    """Everything that decides which bytes of a video are stored. Stored clips are (T, H, W, 3)."""

    frames: int = 8
    """Frames in a clip."""
    stride: int = 2
    """Distance between two frames of a clip in the video, in frames (dense sampling only)."""
    short_side: int = 256
    """The stored clip's shorter side, in pixels; the longer one keeps the video's proportions."""
    sampling: Sampling = "dense"
    """dense: a run of frames x stride from the video's centre. uniform: spread over all of it."""
    test_segments: int = 1
    """Clips along a test video, for multi-view figures. 1: the one that every split has; more are
    stored besides that one."""

    def __post_init__(self) -> None:
        _require("frames", self.frames, 1, 512)
        _require("stride", self.stride, 1, 512)
        _require("short_side", self.short_side, 8, 2048)
        _require_one_of("sampling", self.sampling, ("dense", "uniform"))
        _require("test_segments", self.test_segments, 1, 32)

    def segments(self, split: str) -> int:
        """How many clips along a video there are to see of this split."""
        return self.test_segments if split == "test" else 1

    def stored_frames(self, split: str) -> int:
        """Frames in a row of this split's file: the clip itself, then those of its segments."""
        segments = self.segments(split)
        return self.frames * (1 + segments if segments > 1 else 1)

    def identity(self) -> dict[str, Any]:
        """Return what goes into a store's fingerprint."""
        values = asdict(self)
        if self.test_segments == 1:  # the bytes are those of before there were segments
            del values["test_segments"]
        return values


@dataclass(frozen=True, kw_only=True)
class ViewSpec:
    """What a model sees of a stored clip: a square crop, with or without augmentation."""

    size: int = 224
    """Height and width of what is handed to the model, in pixels."""
    train_crop: TrainCrop = "random"
    """random: Video Swin's random resized crop, in training. centre: the crop of evaluation."""
    flip: float = 0.5
    """Probability of a mirrored clip in training."""
    views: int | None = None
    """How many views are drawn of a clip, one an epoch and then again from the first; None: every
    epoch draws a new one. Without augmentation there is one."""
    test_crops: int = 3
    """Crops along the longer side in multi-view figures; 1 is the centre alone."""

    def __post_init__(self) -> None:
        _require("size", self.size, 8, 2048)
        _require_one_of("train_crop", self.train_crop, ("random", "centre"))
        if not 0 <= self.flip <= 1:
            raise DataError(f"data.flip: must be a probability from 0 to 1, got {self.flip}")
        if self.views is not None:
            _require("views", self.views, 1, 1000)
        _require("test_crops", self.test_crops, 1, 16)

    @property
    def is_fixed(self) -> bool:
        """Whether training sees the same pixels of a clip in every epoch."""
        return self.train_crop == "centre" and self.flip == 0

    @property
    def num_train_views(self) -> int | None:
        """How many different views of a clip training sees; None where there is no end to them."""
        return 1 if self.is_fixed else self.views

    def without_augmentation(self) -> ViewSpec:
        """Return the view of evaluation, the centre crop."""
        return replace(self, train_crop="centre", flip=0.0)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The `data:` section of a search space file; None takes the source's own default."""

    source: str = "demo"
    """Which kind of data set: a name of `catalogue.SOURCES`."""
    path: str | None = None
    """The data set's root, a csv manifest itself; the demo makes its own."""
    split: int | None = None
    """Which of the official splits of hmdb51, 1 to 3. Default: 1."""
    outside_paths: bool = False
    """Whether videos may lie outside of the data set's folder: by a link in it or, of a csv
    manifest, by `..` or a full path."""
    frames: int | None = None
    """Frames in a clip. Default: 8."""
    stride: int | None = None
    """Distance between two frames of a clip in the video. Default: 2; the demo 1."""
    size: int | None = None
    """Height and width of the model's input, in pixels. Default: 224; the demo 32."""
    short_side: int | None = None
    """The stored shorter side, in pixels. Default: size x 256 / 224 where crops are random."""
    sampling: Sampling | None = None
    """dense or uniform; see `ClipSpec`. Default: dense."""
    train_crop: TrainCrop | None = None
    """random or centre; see `ViewSpec`. Default: random; the demo centre."""
    flip: float | bool | None = None
    """Probability of a mirrored clip in training; true is 0.5. Default: 0.5; the demo 0."""
    views: int | str = DEFAULT_VIEWS
    """How many views are drawn of a clip in training, or `free`; see `ViewSpec`."""
    test_segments: int | None = None
    """Clips along a test video, for multi-view figures. Default: 1; see `multi_view`.
    Pictures always have 1."""
    test_crops: int | None = None
    """Crops along the longer side in multi-view figures. Default: 3."""
    val_share: float = 0.1
    """Share of a set's own training videos held out, where it brings no validation split."""
    split_seed: int = 0
    """Which videos are held out; not the search's seed, so that all searches share one store."""
    max_skipped_share: float = 0.05
    """Share of the videos that may be unreadable (skipped by name) before it is an error."""

    def __post_init__(self) -> None:
        self._check_options()
        if isinstance(self.views, str) and self.views != FREE:
            raise DataError(f"data.views: must be a whole number or {FREE}, got {self.views!r}")
        if self.split is not None:
            _require("split", self.split, 1, 3)
        if not 0 < self.val_share < 0.5:
            raise DataError(f"data.val_share: must be between 0 and 0.5, got {self.val_share}")
        if not 0 <= self.max_skipped_share < 1:
            raise DataError(
                f"data.max_skipped_share: must be from 0 to below 1, got {self.max_skipped_share}"
            )

    def _check_options(self) -> None:
        known = get_source(self.source).options
        for name in sorted({name for source in SOURCES.values() for name in source.options}):
            if getattr(self, name) and name not in known:
                takers = ", ".join(s for s, source in SOURCES.items() if name in source.options)
                raise DataError(
                    f"data.{name}: is for {takers} alone, leave it out with {self.source!r}"
                )

    def list_videos(self, *, root: Path | None = None, num_processes: int = 1) -> DataSet:
        """Find the videos and their classes and splits; nothing is decoded.

        Args:
            root: the cache folder, where the demo's videos are made; by default `cache_root()`.
            num_processes: how many processes make them.

        Raises:
            DataError: they are not there, or lie otherwise than expected.

        """
        return open_data_set(
            self.source,
            self.path,
            cache_root=root or cache_root(),
            val_share=self.val_share,
            split_seed=self.split_seed,
            num_processes=num_processes,
            split=self.split or 1,
            outside_paths=self.outside_paths,
        )

    def clip_spec(self) -> ClipSpec:
        """Say what is stored of each video."""
        view = self.view_spec()
        room = 256 / 224 if view.train_crop == "random" else 1.0
        values = {"short_side": round(view.size * room), **self._values(ClipSpec)}
        if values["short_side"] < view.size:
            raise DataError(
                f"data.short_side: must be at least data.size ({view.size}), "
                f"got {values['short_side']}"
            )
        if get_source(self.source).is_still:
            values["test_segments"] = 1
        return ClipSpec(**values)

    def multi_view(self) -> DataConfig:
        """Return this with the segments of the usual final figures, 4, unless it says how many.

        Some sources have less to see: of a picture one moment, of the demo's videos one clip.
        """
        usual = get_source(self.source).defaults.get("test_segments", FINAL_SEGMENTS)
        return replace(self, test_segments=self.test_segments or usual)

    def view_spec(self) -> ViewSpec:
        """Say what the model sees of a stored clip."""
        views = None if self.views == FREE else self.views
        return ViewSpec(**{**self._values(ViewSpec), "views": views})

    def _values(self, kind: type[ClipSpec] | type[ViewSpec]) -> dict[str, Any]:
        names = [field.name for field in fields(kind)]
        values = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if isinstance(values.get("flip"), bool):
            values["flip"] = 0.5 if values["flip"] else 0.0
        defaults = get_source(self.source).defaults
        return {**{name: defaults[name] for name in names if name in defaults}, **values}


def _require(name: str, value: int, low: int, high: int) -> None:
    # A file's JSON comes here too, in which anything may stand.
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if not is_whole or not low <= value <= high:
        raise DataError(f"data.{name}: must be a whole number from {low} to {high}, got {value!r}")


def _require_one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise DataError(f"data.{name}: must be one of {', '.join(allowed)}, got {value!r}")
