"""Position embeddings of a ViT, and how they follow another clip size.

Axes: N tokens in the order (time, height, width), C channels.
"""

from functools import lru_cache
from math import prod

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from vpetl_ray.models.arch_base import Size


@lru_cache(maxsize=16)
def sine_cosine(num_tokens: int, dim: int) -> NDArray[np.float32]:
    """(N, C): sines in the even channels, cosines in the odd, of the token's place in the row.

    As VideoMAE computes it (Vaswani et al. 2017, section 3.5): one row over time, height and
    width together, so that another token of time goes on counting where the last one ended.

    An array, not a tensor: torch.export runs this with fake tensors, and they must not be cached.
    """
    rates = np.power(10000.0, -2.0 * (np.arange(dim) // 2) / dim)
    angle = np.arange(num_tokens)[:, None] * rates
    angle[:, 0::2] = np.sin(angle[:, 0::2])
    angle[:, 1::2] = np.cos(angle[:, 1::2])
    return angle.astype(np.float32)


def resize_positions(rows_NC: Tensor, source: Size, target: Size) -> Tensor:
    """Fit embeddings of a grid of tokens to another: linear over time, bicubic over space.

    As MAE does for space; an image's embeddings are the same for each frame of a clip.
    """
    if source == target:
        return rows_NC
    t, h, w = source
    grid_TCHW = rows_NC.float().view(t, h, w, -1).permute(0, 3, 1, 2)
    if (h, w) != target[1:]:
        grid_TCHW = interpolate(grid_TCHW, size=target[1:], mode="bicubic", align_corners=False)
    rows_THWC = grid_TCHW.permute(0, 2, 3, 1)
    if t != target[0]:
        by_token_1XT = rows_THWC.reshape(t, -1).t()[None]
        longer_1XT = interpolate(by_token_1XT, size=target[0], mode="linear", align_corners=False)
        rows_THWC = longer_1XT[0].t()
    return rows_THWC.reshape(prod(target), -1).to(rows_NC.dtype)
