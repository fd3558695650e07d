"""What a model sees of a stored clip, as Video Swin is trained and tested.

Training takes mmaction2's random resized crop (8% to 100% of the area, proportions 3:4 to 4:3)
and a mirror image for some; evaluation the centre crop. One draw holds for all frames of a clip,
and comes from a generator of its own, made of (seed, epoch, index): it does not depend on the
batch, the worker, or the trial.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch

from vpetl_ray.data.config import ViewSpec

_AREA = (0.08, 1.0)
_LOG_ASPECT = (math.log(3 / 4), math.log(4 / 3))
_ATTEMPTS = 10


class Crop(NamedTuple):
    """A rectangle of a frame, in pixels."""

    top: int
    left: int
    height: int
    width: int


def draw_generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """Make the generator that one clip's augmentation in one epoch is drawn from."""
    return np.random.default_rng([seed, epoch, index])


def train_view(clip_THWC: torch.Tensor, view: ViewSpec, rng: np.random.Generator) -> torch.Tensor:
    """Return an augmented (T, size, size, 3) view of a stored clip."""
    height, width = clip_THWC.shape[1:3]
    if view.train_crop == "random":
        crop = random_crop(height, width, rng)
    else:
        crop = centre_crop(height, width, view.size)
    seen_THWC = cut(clip_THWC, crop, view.size)
    return seen_THWC.flip(2) if rng.random() < view.flip else seen_THWC


def eval_view(clip_THWC: torch.Tensor, view: ViewSpec) -> torch.Tensor:
    """Return the centre (T, size, size, 3) of a stored clip."""
    height, width = clip_THWC.shape[1:3]
    return cut(clip_THWC, centre_crop(height, width, view.size), view.size)


def crop_view(clip_THWC: torch.Tensor, view: ViewSpec, number: int, num_crops: int) -> torch.Tensor:
    """Return crop `number` of `num_crops` that lie evenly along the longer side, end to end."""
    height, width = clip_THWC.shape[1:3]
    crop = centre_crop(height, width, view.size)
    if num_crops > 1:
        room = max(height, width) - view.size
        start = room * number // (num_crops - 1)
        crop = crop._replace(left=start) if width >= height else crop._replace(top=start)
    return cut(clip_THWC, crop, view.size)


def centre_crop(height: int, width: int, size: int) -> Crop:
    """Give the middle square of that size."""
    return Crop((height - size) // 2, (width - size) // 2, size, size)


def random_crop(height: int, width: int, rng: np.random.Generator) -> Crop:
    """Draw a rectangle as mmaction2's `RandomResizedCrop` does; the middle if none fits."""
    for _ in range(_ATTEMPTS):
        area = height * width * rng.uniform(*_AREA)
        aspect = math.exp(rng.uniform(*_LOG_ASPECT))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top = int(rng.integers(height - h + 1))
            return Crop(top, int(rng.integers(width - w + 1)), h, w)
    return centre_crop(height, width, min(height, width))


def cut(clip_THWC: torch.Tensor, crop: Crop, size: int) -> torch.Tensor:
    """Cut a rectangle out of every frame and scale it to a square; a view where none is needed."""
    top, left, height, width = crop
    cut_THWC = clip_THWC[:, top : top + height, left : left + width]
    if (height, width) == (size, size):
        return cut_THWC
    # Imported here: a process that only reads fixed views does without torchvision.
    from torchvision.transforms.v2 import functional  # noqa: PLC0415

    cut_TCHW = cut_THWC.permute(0, 3, 1, 2)
    scaled_TCHW: torch.Tensor = functional.resize(cut_TCHW, [size, size], antialias=True)
    return scaled_TCHW.permute(0, 2, 3, 1)
