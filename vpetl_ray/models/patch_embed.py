"""From pixels to tokens. Axes: B batch, C channels, T H W frames and pixels or tokens."""

from math import prod

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from vpetl_ray.models.arch_base import IN_CHANNELS, Size


class PatchEmbed(nn.Module):
    """Cut the video into patches and project each to a token: a convolution without overlap.

    Fastest on clips that lie channels-last in memory, as `clips_to_input` gives them: the tokens
    then come out channels-last too, without a copy. (A reshape and one matrix product in place of
    the convolution took twice as long on CPU at 32 x 32, and as long at 224 x 224.)

    Args:
        patch_size: of what becomes one token.
        dim: channels of a token.
        has_norm: whether tokens are normalised.

    """

    def __init__(self, patch_size: Size, dim: int, *, has_norm: bool) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv3d(IN_CHANNELS, dim, kernel_size=patch_size, stride=patch_size)
        self.norm = nn.LayerNorm(dim) if has_norm else nn.Identity()

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        """(B, C, T, H, W) to (B, T/pt, H/ph, W/pw, C'); a remainder is padded with zeros."""
        pad_t, pad_h, pad_w = (
            -size % patch
            for size, patch in zip(video_BCTHW.shape[2:], self.patch_size, strict=True)
        )
        if pad_t or pad_h or pad_w:
            video_BCTHW = pad(video_BCTHW, (0, pad_w, 0, pad_h, 0, pad_t))
        x_BTHWC: Tensor = self.norm(self.proj(video_BCTHW).permute(0, 2, 3, 4, 1))
        return x_BTHWC

    @torch.no_grad()
    def initialise(self) -> None:
        """Xavier weights, as of a linear layer over the pixels of a patch, and a zero bias."""
        bound = (6.0 / (prod(self.proj.weight.shape[1:]) + self.proj.out_channels)) ** 0.5
        self.proj.weight.uniform_(-bound, bound)
        if self.proj.bias is not None:
            self.proj.bias.zero_()
