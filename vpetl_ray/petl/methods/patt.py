"""PATT, parallel attention: equations (9) and (10) of the paper."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vpetl_ray.errors import VpetlError
from vpetl_ray.models.arch import BlockSite
from vpetl_ray.models.side import Side
from vpetl_ray.models.work import BlockWork
from vpetl_ray.petl.bottleneck import (
    ACTIVATIONS,
    Bottleneck,
    Scale,
    add_up_projection,
    bottleneck_flops,
    check_scale,
    count_bottleneck,
)
from vpetl_ray.petl.checks import check_choice, check_names, check_whole_number
from vpetl_ray.petl.method import Block, SeamMethod

DEFAULT_SCALE = 0.8
"""The best of the paper's Table 3; a learned scale starts there."""
TARGETS = ("q", "k", "v")
"""In the order in which the fused QKV projection holds them."""


@dataclass(frozen=True, kw_only=True)
class PattConfig(SeamMethod):
    """`s * (act(z W_down + b) W_up + b)`, added to some of Q, K and V; z is what feeds them."""

    name: ClassVar[str] = "patt"
    identity_at_start: ClassVar[bool] = True

    targets: tuple[str, ...]
    """Any of q, k, v; one down-projection serves them all, each has its own up-projection."""
    d_bottle: int
    """Width of the bottleneck."""
    scale: Scale = DEFAULT_SCALE
    """The factor s: a number, or `learned`, which trains one number a block."""
    activation: str = "tanh"
    """relu, gelu or tanh."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.targets, tuple | list):
            raise VpetlError(
                f"{self.name}.targets: must be a list of {', '.join(TARGETS)}, got {self.targets!r}"
            )
        check_names(f"{self.name}.targets", self.targets, TARGETS, "target")
        ordered = tuple(target for target in TARGETS if target in self.targets)
        object.__setattr__(self, "targets", ordered)
        check_whole_number(f"{self.name}.d_bottle", self.d_bottle, at_least=1)
        check_scale(f"{self.name}.scale", self.scale)
        check_choice(f"{self.name}.activation", self.activation, tuple(ACTIVATIONS))

    @property
    def is_empty(self) -> bool:
        """Whether these settings train nothing anywhere."""
        return not self.targets or super().is_empty

    def count_block(self, site: BlockSite) -> int:
        """D b + b + k d b + k d for k targets, and 1 for a learned scale."""
        return count_bottleneck(site.dim, self.d_bottle, len(self.targets) * site.dim, self.scale)

    def block_flops(self, site: BlockSite, work: BlockWork, qkv_rows: int) -> int:
        """Of the bottleneck, once a row of the projection."""
        return bottleneck_flops(qkv_rows, site.dim, self.d_bottle, len(self.targets) * site.dim)

    def seam(self, block: Block) -> nn.ModuleList:
        """Beside the QKV projection."""
        return block.attn.qkv_branches

    def build(self, site: BlockSite, generator: torch.Generator) -> nn.Module:
        """Build the branch for one block."""
        return ParallelAttention(
            self.targets,
            dim=site.dim,
            d_bottle=self.d_bottle,
            out_dim=len(self.targets) * site.dim,
            activation=self.activation,
            scale=self.scale,
            learned_start=DEFAULT_SCALE,
            generator=generator,
        )


class ParallelAttention(Bottleneck):
    """Equation (10) on the fused projection: neighbouring targets are one matrix product."""

    def __init__(self, targets: tuple[str, ...], *, dim: int, **bottleneck: Any) -> None:
        super().__init__(dim=dim, **bottleneck)
        self.runs = _column_runs(targets, dim)

    def beside(self) -> Side | None:
        """As what runs together with the QKV projection, if it can."""
        return self.as_side(self.runs)

    def forward(self, z_WNC: Tensor, qkv_WN3C: Tensor) -> Tensor:
        """(B*W, N, C) and (B*W, N, 3C) to (B*W, N, 3C); qkv is overwritten."""
        return self.add(self.hidden(z_WNC), qkv_WN3C)

    def add(self, hidden_WND: Tensor, qkv_WN3C: Tensor) -> Tensor:
        """Project up, and add to the targets' columns of qkv in place."""
        return add_up_projection(qkv_WN3C, hidden_WND, *self.up_projection(), self.runs)


def _column_runs(targets: tuple[str, ...], dim: int) -> tuple[slice, ...]:
    """Find the columns that the targets fill, neighbours joined: K and V are one slice."""
    runs: list[slice] = []
    for target in targets:
        start = TARGETS.index(target) * dim
        if runs and runs[-1].stop == start:
            runs[-1] = slice(runs[-1].start, start + dim)
        else:
            runs.append(slice(start, start + dim))
    return tuple(runs)
