"""The numbers of a Video Swin Transformer, Liu et al. 2021 (arXiv 2106.13230), section 4.1."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from vpetl_ray.models.arch_base import IN_CHANNELS, Arch, BlockSite, Size, count_norms_and_mlp


@dataclass(frozen=True, kw_only=True)
class SwinArch(Arch):
    """One Video Swin. Channels double at each further stage."""

    num_heads: tuple[int, ...]
    """Attention heads per stage."""
    patch_size: Size = (2, 4, 4)
    """Frames and pixels that become one token."""
    window_size: Size = (8, 7, 7)
    """Tokens that attend to each other (a smaller input clips it)."""

    @property
    def stage_dims(self) -> tuple[int, ...]:
        """Channels of each stage."""
        return tuple(self.embed_dim * 2**i for i in range(self.num_stages))

    @property
    def stage_heads(self) -> tuple[int, ...]:
        """Attention heads of each stage."""
        return self.num_heads

    @property
    def window_tokens(self) -> int:
        """Tokens of one full window."""
        return prod(self.window_size)

    @property
    def relative_positions(self) -> int:
        """Rows of one block's relative-position table: every offset inside a window."""
        return prod(2 * size - 1 for size in self.window_size)

    def count_outside_blocks(self) -> int:
        """Patch embedding with its norm, merging between stages, and the last norm."""
        patch = IN_CHANNELS * prod(self.patch_size) * self.embed_dim + 3 * self.embed_dim
        merging = sum(8 * dim + 8 * dim * dim for dim in self.stage_dims[:-1])
        return patch + merging + 2 * self.num_features

    def count_block(self, site: BlockSite) -> int:
        """Two norms, attention with its position table, and the MLP."""
        attention = 4 * site.dim**2 + 4 * site.dim + self.relative_positions * site.num_heads
        return attention + count_norms_and_mlp(site)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "SwinArch":
        """Rebuild what `dataclasses.asdict` gave, also after a way through JSON."""
        pt, ph, pw = (int(size) for size in fields["patch_size"])
        wt, wh, ww = (int(size) for size in fields["window_size"])
        return cls(
            name=str(fields["name"]),
            embed_dim=int(fields["embed_dim"]),
            depths=tuple(int(depth) for depth in fields["depths"]),
            num_heads=tuple(int(heads) for heads in fields["num_heads"]),
            patch_size=(pt, ph, pw),
            window_size=(wt, wh, ww),
            mlp_ratio=float(fields["mlp_ratio"]),
        )
