"""PATT by concatenation, Table 4 of the paper: K_p and V_p are further tokens, not added."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from vpetl_ray.models.arch import BlockSite
from vpetl_ray.models.work import BlockWork
from vpetl_ray.petl.bottleneck import (
    ACTIVATIONS,
    Bottleneck,
    Scale,
    bottleneck_flops,
    check_scale,
    count_bottleneck,
)
from vpetl_ray.petl.checks import check_choice, check_whole_number
from vpetl_ray.petl.method import Block, SeamMethod
from vpetl_ray.petl.methods.patt import DEFAULT_SCALE


@dataclass(frozen=True, kw_only=True)
class PattConcatConfig(SeamMethod):
    """`s * (act(z W_down + b) W_up + b)`: a key and a value more for every token of the window.

    At the start they are all zero, and still take their share of the attention.
    """

    name: ClassVar[str] = "patt_concat"
    identity_at_start: ClassVar[bool] = False

    d_bottle: int
    """Width of the bottleneck."""
    scale: Scale = DEFAULT_SCALE
    """The factor s: a number, or `learned`, which trains one number a block."""
    activation: str = "tanh"
    """relu, gelu or tanh."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole_number("patt_concat.d_bottle", self.d_bottle, at_least=1)
        check_scale("patt_concat.scale", self.scale)
        check_choice("patt_concat.activation", self.activation, tuple(ACTIVATIONS))

    def count_block(self, site: BlockSite) -> int:
        """D b + b + 2 d b + 2 d, and 1 for a learned scale."""
        return count_bottleneck(site.dim, self.d_bottle, 2 * site.dim, self.scale)

    def block_flops(self, site: BlockSite, work: BlockWork, qkv_rows: int) -> int:
        """Of the bottleneck, once a token of a window."""
        return bottleneck_flops(work.attended, site.dim, self.d_bottle, 2 * site.dim)

    def further_tokens(self, work: BlockWork) -> int:
        """One for every token of a window."""
        return work.window_tokens

    def seam(self, block: Block) -> nn.ModuleList:
        """Where keys and values of further tokens come from."""
        return block.attn.kv_branches

    def build(self, site: BlockSite, generator: torch.Generator) -> nn.Module:
        """Build the branch for one block."""
        return ConcatenatedAttention(
            dim=site.dim,
            d_bottle=self.d_bottle,
            out_dim=2 * site.dim,
            activation=self.activation,
            scale=self.scale,
            learned_start=DEFAULT_SCALE,
            generator=generator,
        )


class ConcatenatedAttention(Bottleneck):
    """Equation (9), concatenated as in equation (5)."""

    def forward(self, z_WNC: Tensor) -> Tensor:
        """(B*W, N, C) to keys and values (B*W, N, 2C)."""
        return nn.functional.linear(self.hidden(z_WNC), *self.up_projection())
