"""From stored clips (uint8) to what the backbone reads."""

from collections.abc import Sequence

import torch
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Mean of R, G, B in 0..1, as Video Swin and torchvision normalise."""
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Standard deviation of R, G, B in 0..1."""


def clips_to_input(
    clips_u8_BTHWC: Tensor,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Normalise uint8 clips, on the device they are on.

    Returns:
        (B, C, T, H, W) of `dtype`: `(value / 255 - mean) / std`. It keeps the memory order of the
        clips (channels last), which the patch embedding reads as fast as any other.

    """
    scale = torch.tensor([255.0 * s for s in std], dtype=dtype, device=clips_u8_BTHWC.device)
    offset = torch.tensor(
        [m / s for m, s in zip(mean, std, strict=True)], dtype=dtype, device=clips_u8_BTHWC.device
    )
    video_BTHWC = clips_u8_BTHWC.to(dtype).div_(scale).sub_(offset)
    return video_BTHWC.permute(0, 4, 1, 2, 3)
