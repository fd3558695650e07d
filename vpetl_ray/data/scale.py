"""Frames to the size at which they are stored."""

from __future__ import annotations

import torch
from torch.nn import functional as F  # noqa: N812

from vpetl_ray.data.decoded import UnreadableVideoError

_MAX_PIXELS = 8192 * 8192
_MAX_ASPECT = 16


def check_frame_size(height: int, width: int) -> None:
    """Raise an UnreadableVideoError for frames that are too large or only a strip."""
    if not 0 < height * width <= _MAX_PIXELS:
        raise UnreadableVideoError(f"its frames have {width} x {height} pixels")
    if max(height, width) > _MAX_ASPECT * min(height, width):
        raise UnreadableVideoError(f"its frames of {width} x {height} pixels are only a strip")


def scale_short_side(frames_THWC: torch.Tensor, short_side: int) -> torch.Tensor:
    """Scale uint8 frames so that the shorter side has that length, keeping the proportions."""
    height, width = frames_THWC.shape[1:3]
    ratio = short_side / min(height, width)
    # Rounded half up, as mmcv rescales; the shorter side comes out exactly.
    size = (int(height * ratio + 0.5), int(width * ratio + 0.5))
    if size == (height, width):
        return frames_THWC
    frames_TCHW = frames_THWC.permute(0, 3, 1, 2)
    scaled_TCHW = F.interpolate(frames_TCHW, size, mode="bilinear", antialias=True)
    return scaled_TCHW.permute(0, 2, 3, 1)
