"""Is what was exported still the model? Its logits on real clips, and what it costs to run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
import yaml
from torch import Tensor

from vpetl_ray.data.config import DataConfig
from vpetl_ray.data.folder import VIDEO_SUFFIXES
from vpetl_ray.errors import DataError
from vpetl_ray.inference.export_formats import Run
from vpetl_ray.inference.video_model import VideoModel

TOLERANCE = 1e-4
"""How far a logit may be off."""
NUM_CLIPS = 32
_NUM_WARM_UP, _NUM_RUNS = 3, 25


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far an export is from the original."""

    num_clips: int
    max_difference: float
    """Of any logit."""
    same_labels: int
    """Clips whose class is the same."""

    @property
    def is_good(self) -> bool:
        """Whether it is the same model."""
        return self.max_difference <= TOLERANCE

    def __str__(self) -> str:
        return (
            f"on {self.num_clips} clips the logits differ by {self.max_difference:.1e} at most "
            f"({TOLERANCE:.0e} allowed), {self.same_labels} of {self.num_clips} labels agree"
        )


def compare(expected_NK: Tensor, exported: Run, clips_u8_NTHWC: Tensor) -> Agreement:
    """Compare an export's logits of clips with the original's, in batches of several sizes."""
    batches = torch.split(clips_u8_NTHWC, 5)
    found_NK = torch.cat([exported(batch) for batch in batches])
    return Agreement(
        num_clips=len(clips_u8_NTHWC),
        max_difference=(expected_NK - found_NK).abs().max().item(),
        same_labels=int((expected_NK.argmax(1) == found_NK.argmax(1)).sum()),
    )


def latencies_ms(runs: Sequence[Run], clip_u8_THWC: Tensor) -> list[float]:
    """Median milliseconds of one clip from bytes to logits, after warm-up.

    The runs take turns, so that whatever else the machine does meets all of them.
    """
    seconds: list[list[float]] = [[] for _ in runs]
    for _ in range(_NUM_WARM_UP + _NUM_RUNS):
        for run, own in zip(runs, seconds, strict=True):
            start = time.perf_counter()
            run(clip_u8_THWC[None])
            own.append(time.perf_counter() - start)
    return [1e3 * median(own[_NUM_WARM_UP:]) for own in seconds]


def real_clips(model: VideoModel, videos: Sequence[Path], number: int = NUM_CLIPS) -> Tensor:
    """Decode clips to compare on, spread over the videos: uint8 (N, T, H, W, 3).

    Args:
        model: says how they are read.
        videos: files and folders; none takes the videos that the model was validated on.
        number: at most so many.

    Raises:
        DataError: there are none that can be read.

    """
    files = _files(videos) if videos else _validation_videos(model)
    step = max(1, len(files) // number)
    clips, problems = [], []
    for file in files[::step][:number]:
        try:
            clips.append(model.clips.centre(file))
        except DataError as error:
            problems.append(error)
    if not clips:
        raise problems[0] if problems else DataError("--videos: there are none")
    return torch.stack(clips)


def _files(videos: Sequence[Path]) -> list[Path]:
    found: list[Path] = []
    for path in videos:
        inside = path.rglob("*") if path.is_dir() else [path]
        found += sorted(p for p in inside if p == path or p.suffix.lower() in VIDEO_SUFFIXES)
    return found


def _validation_videos(model: VideoModel) -> list[Path]:
    """Find the videos of the search that the model comes from."""
    folders = (model.adapter.parent, model.adapter.parent.parent)
    specs = [folder / "spec.yaml" for folder in folders if (folder / "spec.yaml").is_file()]
    section: dict[str, Any] = {"source": model.facts.data}
    if specs:
        section = dict(yaml.safe_load(specs[0].read_text(encoding="utf-8"))["data"])
        section.pop("num_classes", None)
    try:
        items = DataConfig(**section).list_videos().splits["val"]
    except DataError as error:
        raise DataError(
            f"--videos: give videos to compare the export on; those of the search are not found "
            f"({error})"
        ) from error
    return [Path(item.path) for item in items]
