"""Where a method trains something: sets of blocks, and of what stands between them."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

from vpetl_ray.models.arch_base import Arch, BlockSite
from vpetl_ray.models.own_tensors import OwnTensor


@dataclass(frozen=True, kw_only=True)
class Places:
    """Blocks of a backbone, and stages of which something outside of the blocks is meant."""

    blocks: frozenset[int] = frozenset()
    """Numbers of blocks over the whole network, from 1."""
    edges: frozenset[int] = frozenset()
    """Stages, from 1, of which the merging, the patch embedding or the last norm is meant."""

    @classmethod
    def of(cls, blocks: Iterable[int] = (), edges: Iterable[int] = ()) -> Self:
        """Collect them."""
        return cls(blocks=frozenset(blocks), edges=frozenset(edges))

    def __bool__(self) -> bool:
        return bool(self.blocks or self.edges)

    def __or__(self, other: Self) -> Self:
        return self.of(self.blocks | other.blocks, self.edges | other.edges)

    def __and__(self, other: Self) -> Self:
        return self.of(self.blocks & other.blocks, self.edges & other.edges)

    def __sub__(self, other: Self) -> Self:
        return self.of(self.blocks - other.blocks, self.edges - other.edges)

    def stages(self, arch: Arch) -> frozenset[int]:
        """Name the stages in which they are."""
        return self.edges.union(s.stage for s in block_sites(arch) if s.index + 1 in self.blocks)

    def in_stage(self, stage: int, arch: Arch) -> Self:
        """Leave out what is in other stages."""
        here = (site.index + 1 for site in block_sites(arch) if site.stage == stage)
        return self & self.of(here, {stage})


@lru_cache(maxsize=32)
def block_sites(arch: Arch) -> tuple[BlockSite, ...]:
    """Every block, in order of depth."""
    return arch.blocks()


@lru_cache(maxsize=32)
def own_tensors(arch: Arch) -> tuple[OwnTensor, ...]:
    """Every parameter of the backbone but the classifier's."""
    return arch.own_tensors()
