"""What the architectures of every family tell: their blocks, stages and widths, as plain numbers.

No torch: counting and placing must not need a model.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from vpetl_ray.models.own_tensors import OwnLayer, OwnTensor
from vpetl_ray.models.work import BlockWork

IN_CHANNELS = 3

Size = tuple[int, int, int]
"""Along (time, height, width)."""


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
    """Tokens that attend to each other, at the size the network is made for."""
    class_tokens: int = 0
    """How many of them, the first ones, stand for no place in the clip."""


@dataclass(frozen=True, kw_only=True)
class Arch(ABC):
    """The numbers that define one backbone. Sizes are (time, height, width)."""

    name: str
    """The key in `ARCHS`."""
    embed_dim: int
    """Channels of the first stage."""
    depths: tuple[int, ...]
    """Blocks per stage."""
    patch_size: Size
    """Frames and pixels that become one token."""
    mlp_ratio: float = 4.0
    """Width of the MLP over the width of the block."""

    @property
    def num_stages(self) -> int:
        """Number of stages: groups of blocks that methods are placed by."""
        return len(self.depths)

    @property
    def num_features(self) -> int:
        """Channels that enter the classifier."""
        return self.stage_dims[-1]

    @property
    @abstractmethod
    def stage_dims(self) -> tuple[int, ...]:
        """Channels of each stage."""

    @property
    @abstractmethod
    def stage_heads(self) -> tuple[int, ...]:
        """Attention heads of each stage."""

    @property
    @abstractmethod
    def window_tokens(self) -> int:
        """Tokens that attend to each other, at the size the network is made for."""

    @property
    def class_tokens(self) -> int:
        """How many tokens, the first ones, stand for no place in the clip."""
        return 0

    @abstractmethod
    def own_tensors(self) -> tuple[OwnTensor, ...]:
        """Every parameter of the network but the classifier's."""

    @abstractmethod
    def block_works(self, clip: Size) -> tuple[BlockWork, ...]:
        """Tell what each block, in order of depth, computes on a clip of (frames, pixels)."""

    @abstractmethod
    def edge_flops(self, clip: Size) -> int:
        """Count FLOPs between the blocks, for one clip, without the classifier."""

    def blocks(self) -> tuple[BlockSite, ...]:
        """Every block, in order of depth."""
        places = [(i, j) for i, depth in enumerate(self.depths) for j in range(depth)]
        return tuple(
            BlockSite(
                stage=i + 1,
                block=j + 1,
                index=index,
                dim=self.stage_dims[i],
                num_heads=self.stage_heads[i],
                mlp_dim=int(self.stage_dims[i] * self.mlp_ratio),
                window_tokens=self.window_tokens,
                class_tokens=self.class_tokens,
            )
            for index, (i, j) in enumerate(places)
        )

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Rebuild what `dataclasses.asdict` gave, also after a way through JSON."""
        plain: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()
        }
        return cls(**plain)


def cut(sizes: Size, pieces: Size) -> Size:
    """Tell how many pieces each axis is cut into, a remainder counted as one."""
    t, h, w = (-(-size // piece) for size, piece in zip(sizes, pieces, strict=True))
    return t, h, w


def norms_and_mlp(site: BlockSite, name: str) -> Iterator[OwnTensor]:
    """Give what blocks of every family have beside attention; `name` is the block's."""
    for kind in ("norm1", "norm2"):
        yield from layer_in(site, f"{name}.{kind}", kind).norm(site.dim)
    yield from layer_in(site, f"{name}.mlp.fc1", "fc1").linear(site.dim, site.mlp_dim)
    yield from layer_in(site, f"{name}.mlp.fc2", "fc2").linear(site.mlp_dim, site.dim)


def layer_in(site: BlockSite, name: str, kind: str) -> OwnLayer:
    """Give a layer that is inside of a block."""
    return OwnLayer(name=name, stage=site.stage, kind=kind, block=site.index + 1)
