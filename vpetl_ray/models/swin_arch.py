"""The numbers of a Video Swin Transformer, Liu et al. 2021 (arXiv 2106.13230), section 4.1."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from vpetl_ray.models.arch_base import (
    IN_CHANNELS,
    Arch,
    BlockSite,
    Size,
    cut,
    layer_in,
    norms_and_mlp,
)
from vpetl_ray.models.own_tensors import EDGE, OwnLayer, OwnTensor
from vpetl_ray.models.work import BlockWork, linear_flops


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

    def own_tensors(self) -> tuple[OwnTensor, ...]:
        """Every parameter of the network but the classifier's."""
        blocks = (tensor for site in self.blocks() for tensor in self._block_tensors(site))
        return *self._first_tensors(), *blocks, *self._last_tensors()

    def block_works(self, clip: Size) -> tuple[BlockWork, ...]:
        """Tell what each block computes: a window larger than the grid is clipped to it."""
        works: list[BlockWork] = []
        for grid, depth in zip(self._grids(clip), self.depths, strict=True):
            t, h, w = (min(pair) for pair in zip(grid, self.window_size, strict=True))
            work = BlockWork(
                tokens=prod(grid), windows=prod(cut(grid, (t, h, w))), window_tokens=t * h * w
            )
            works += [work] * depth
        return tuple(works)

    def edge_flops(self, clip: Size) -> int:
        """Count what turns pixels into tokens, and the merging between stages."""
        first, *later = self._grids(clip)
        patch = IN_CHANNELS * prod(self.patch_size)
        merging = (
            linear_flops(prod(grid), 4 * dim, 2 * dim)
            for grid, dim in zip(later, self.stage_dims, strict=False)
        )
        return linear_flops(prod(first), patch, self.embed_dim) + sum(merging)

    def _grids(self, clip: Size) -> tuple[Size, ...]:
        """Tokens of each stage along (time, height, width): merging halves the last two."""
        grids = [cut(clip, self.patch_size)]
        while len(grids) < self.num_stages:
            grids.append(cut(grids[-1], (1, 2, 2)))
        return tuple(grids)

    def _first_tensors(self) -> Iterator[OwnTensor]:
        patch = IN_CHANNELS * prod(self.patch_size)
        yield from OwnLayer(name="patch_embed.proj", stage=1, kind=EDGE).linear(
            patch, self.embed_dim
        )
        yield from OwnLayer(name="patch_embed.norm", stage=1, kind=EDGE).norm(self.embed_dim)

    def _block_tensors(self, site: BlockSite) -> Iterator[OwnTensor]:
        name = f"layers.{site.stage - 1}.blocks.{site.block - 1}"
        yield from norms_and_mlp(site, name)
        table = layer_in(site, f"{name}.attn.relative_position_bias_table", "rel_pos")
        yield table.tensor("", self.relative_positions * site.num_heads)
        yield from layer_in(site, f"{name}.attn.qkv", "qkv").linear(site.dim, 3 * site.dim)
        yield from layer_in(site, f"{name}.attn.proj", "proj").linear(site.dim, site.dim)

    def _last_tensors(self) -> Iterator[OwnTensor]:
        """Give the merging behind each stage but the last, and the last norm."""
        for stage, dim in enumerate(self.stage_dims[:-1], start=1):
            name = f"layers.{stage - 1}.downsample"
            norm = OwnLayer(name=f"{name}.norm", stage=stage, kind="downsample")
            yield from norm.norm(4 * dim)
            reduction = OwnLayer(name=f"{name}.reduction", stage=stage, kind="downsample")
            yield reduction.tensor("weight", 8 * dim * dim)
        yield from OwnLayer(name="norm", stage=self.num_stages, kind=EDGE).norm(self.num_features)
