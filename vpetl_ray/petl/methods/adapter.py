"""Adapter beside or after the MLP, equations (6) and (7) of the paper (AdaptFormer, Houlsby).

The parallel adapter reads the output of the block's own frozen norm2, so it has no norm itself.
Equation (7) prints the sequential one without the MLP's output beside the bottleneck, which could
not start as the identity; as in Houlsby et al. 2019, which it cites, the output is kept.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

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
from vpetl_ray.petl.checks import check_choice, check_whole_number
from vpetl_ray.petl.method import Block, SeamMethod

DEFAULT_SCALE = 0.1
"""The authors' setting; a learned scale starts there."""
PLACEMENTS = ("parallel", "sequential")


@dataclass(frozen=True, kw_only=True)
class AdapterConfig(SeamMethod):
    """`s * (act(x W_down + b) W_up + b)`, added to the output of the MLP."""

    name: ClassVar[str] = "adapter"
    identity_at_start: ClassVar[bool] = True

    d_bottle: int
    """Width of the bottleneck."""
    scale: Scale = DEFAULT_SCALE
    """The factor s: a number, or `learned`, which trains one number a block."""
    placement: Literal["parallel", "sequential"] = "parallel"
    """Whether it reads the MLP's input (beside it) or the MLP's output (after it)."""
    activation: str = "relu"
    """relu, gelu or tanh."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole_number("adapter.d_bottle", self.d_bottle, at_least=1)
        check_scale("adapter.scale", self.scale)
        check_choice("adapter.placement", self.placement, PLACEMENTS)
        check_choice("adapter.activation", self.activation, tuple(ACTIVATIONS))

    def count_block(self, site: BlockSite) -> int:
        """2 d b + b + d, and 1 for a learned scale."""
        return count_bottleneck(site.dim, self.d_bottle, site.dim, self.scale)

    def block_flops(self, site: BlockSite, work: BlockWork, qkv_rows: int) -> int:
        """Of the bottleneck, once a token."""
        return bottleneck_flops(work.tokens, site.dim, self.d_bottle, site.dim)

    def seam(self, block: Block) -> nn.ModuleList:
        """Beside the MLP, inside its residual branch."""
        return block.mlp_branches

    def build(self, site: BlockSite, generator: torch.Generator) -> nn.Module:
        """Build the branch for one block."""
        kind = ParallelAdapter if self.placement == "parallel" else SequentialAdapter
        return kind(
            dim=site.dim,
            d_bottle=self.d_bottle,
            out_dim=site.dim,
            activation=self.activation,
            scale=self.scale,
            learned_start=DEFAULT_SCALE,
            generator=generator,
        )


class ParallelAdapter(Bottleneck):
    """Equation (7), first line."""

    def beside(self) -> Side | None:
        """As what runs together with the MLP, if it can."""
        return self.as_side((slice(0, self.up.out_features),))

    def forward(self, z: Tensor, h: Tensor) -> Tensor:
        """(output of norm2, output of the MLP), both (..., C), to (..., C); h is overwritten."""
        return add_up_projection(h, self.hidden(z), *self.up_projection(), (slice(None),))


class SequentialAdapter(Bottleneck):
    """Equation (7), second line, with the MLP's output kept."""

    def forward(self, z: Tensor, h: Tensor) -> Tensor:
        """(output of norm2, output of the MLP), both (..., C), to (..., C)."""
        weight, bias = self.up_projection()
        # Out of place: the backward pass of `down` needs h as it was.
        delta = nn.functional.linear(self.hidden(h), weight, bias)
        return h + delta
