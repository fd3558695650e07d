"""The Video Swin architectures by name, as plain numbers: no torch, nothing is built here.

Video Swin Transformer, Liu et al. 2021 (arXiv 2106.13230), Table 1 and section 4.1.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from math import prod
from typing import Any

from vpetl_ray.errors import VpetlError

IN_CHANNELS = 3


@dataclass(frozen=True, kw_only=True)
class BlockSite:
    """Where one transformer block stands and how wide it is; methods count and place by it."""

    stage: int
    """Stage, from 1."""
    block: int
    """Block within its stage, from 1."""
    index: int
    """Block over the whole network, from 0."""
    dim: int
    """Channels of the block's input and output."""
    num_heads: int
    """Attention heads; each is dim / num_heads wide."""
    mlp_dim: int
    """Channels between the two layers of the MLP."""
    window_tokens: int
    """Tokens of one full attention window (a smaller input clips it)."""


@dataclass(frozen=True, kw_only=True)
class SwinArch:
    """The numbers that define one Video Swin. Sizes are (time, height, width)."""

    name: str
    """The key in `ARCHS`."""
    embed_dim: int
    """Channels of the first stage; they double at each further stage."""
    depths: tuple[int, ...]
    """Blocks per stage."""
    num_heads: tuple[int, ...]
    """Attention heads per stage."""
    patch_size: tuple[int, int, int] = (2, 4, 4)
    """Frames and pixels that become one token."""
    window_size: tuple[int, int, int] = (8, 7, 7)
    """Tokens that attend to each other."""
    mlp_ratio: float = 4.0
    """Width of the MLP over the width of the block."""

    @property
    def num_stages(self) -> int:
        """Number of stages."""
        return len(self.depths)

    @property
    def stage_dims(self) -> tuple[int, ...]:
        """Channels of each stage."""
        return tuple(self.embed_dim * 2**i for i in range(self.num_stages))

    @property
    def num_features(self) -> int:
        """Channels that enter the classifier."""
        return self.stage_dims[-1]

    @property
    def relative_positions(self) -> int:
        """Rows of one block's relative-position table: every offset inside a window."""
        return prod(2 * size - 1 for size in self.window_size)

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

    def blocks(self) -> tuple[BlockSite, ...]:
        """Every block, in order of depth."""
        places = [(i, j) for i, depth in enumerate(self.depths) for j in range(depth)]
        return tuple(
            BlockSite(
                stage=i + 1,
                block=j + 1,
                index=index,
                dim=self.stage_dims[i],
                num_heads=self.num_heads[i],
                mlp_dim=int(self.stage_dims[i] * self.mlp_ratio),
                window_tokens=prod(self.window_size),
            )
            for index, (i, j) in enumerate(places)
        )


def _architectures() -> dict[str, SwinArch]:
    deep = (2, 2, 18, 2)
    return {
        arch.name: arch
        for arch in (
            SwinArch(
                name="swin3d_nano",
                embed_dim=32,
                depths=(2, 2, 2),
                num_heads=(2, 4, 8),
                window_size=(4, 4, 4),
            ),
            SwinArch(name="swin3d_t", embed_dim=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24)),
            SwinArch(name="swin3d_s", embed_dim=96, depths=deep, num_heads=(3, 6, 12, 24)),
            SwinArch(name="swin3d_b", embed_dim=128, depths=deep, num_heads=(4, 8, 16, 32)),
            SwinArch(name="swin3d_l", embed_dim=192, depths=deep, num_heads=(6, 12, 24, 48)),
            # What the published Something-Something v2 weights were trained with (window1677).
            SwinArch(
                name="swin3d_b_w16",
                embed_dim=128,
                depths=deep,
                num_heads=(4, 8, 16, 32),
                window_size=(16, 7, 7),
            ),
        )
    }


ARCHS: Mapping[str, SwinArch] = _architectures()


def get_arch(name: str) -> SwinArch:
    """Look up the architecture called `name`.

    Raises:
        VpetlError: there is none; the message names the nearest and all that exist.

    """
    if name in ARCHS:
        return ARCHS[name]
    near = get_close_matches(name, ARCHS, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise VpetlError(f"unknown architecture {name!r}: {hint}known are {', '.join(ARCHS)}")


def count_backbone(arch: SwinArch) -> int:
    """Parameters of the backbone without its classifier, by arithmetic (Swin-B: 87 638 984)."""
    patch = IN_CHANNELS * prod(arch.patch_size) * arch.embed_dim + 3 * arch.embed_dim
    blocks = sum(count_block(site, arch) for site in arch.blocks())
    merging = sum(8 * dim + 8 * dim * dim for dim in arch.stage_dims[:-1])
    return patch + blocks + merging + 2 * arch.num_features


def count_block(site: BlockSite, arch: SwinArch) -> int:
    """Parameters of one block: two norms, attention with its position table, and the MLP."""
    dim, mlp_dim = site.dim, site.mlp_dim
    norms = 4 * dim
    attention = 4 * dim * dim + 4 * dim + arch.relative_positions * site.num_heads
    return norms + attention + 2 * dim * mlp_dim + mlp_dim + dim
