"""Prefix-tuning, equation (5) of the paper (Li and Liang 2021, arXiv 2101.00190).

The paper gives d_middle and not the number of tokens. One set of learned tokens a block, with a
Linear-Tanh-Linear for keys and one for values, comes to its two counts with 17 tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from vpetl_ray.models.arch import BlockSite
from vpetl_ray.models.work import BlockWork
from vpetl_ray.petl.bottleneck import (
    LEARNED,
    Scale,
    bottleneck_flops,
    check_scale,
    make_scale,
)
from vpetl_ray.petl.checks import check_choice, check_whole_number
from vpetl_ray.petl.method import Block, SeamMethod

DEFAULT_SCALE = 1.0
"""Equation (5) has none; a learned scale starts there."""
_ACTIVATIONS: Mapping[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh}


@dataclass(frozen=True, kw_only=True)
class PrefixConfig(SeamMethod):
    """Keys and values of learned tokens, in front of those of every window."""

    name: ClassVar[str] = "prefix"
    identity_at_start: ClassVar[bool] = False

    num_tokens: int
    """Learned tokens a block."""
    d_middle: int
    """Width between the two linear layers."""
    scale: Scale = DEFAULT_SCALE
    """Factor on these keys and values: a number, or `learned`, which trains one number a block."""
    activation: str = "tanh"
    """relu, gelu or tanh."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole_number("prefix.num_tokens", self.num_tokens, at_least=1)
        check_whole_number("prefix.d_middle", self.d_middle, at_least=1)
        check_scale("prefix.scale", self.scale)
        check_choice("prefix.activation", self.activation, tuple(_ACTIVATIONS))

    def count_block(self, site: BlockSite) -> int:
        """N d for the tokens, 2 d m + m + d for keys and for values each, 1 for a learned scale."""
        layers = 2 * site.dim * self.d_middle + self.d_middle + site.dim
        return self.num_tokens * site.dim + 2 * layers + (1 if self.scale == LEARNED else 0)

    def block_flops(self, site: BlockSite, work: BlockWork, qkv_rows: int) -> int:
        """Of the way from the tokens to keys and to values, once for all windows."""
        return 2 * bottleneck_flops(self.num_tokens, site.dim, self.d_middle, site.dim)

    def further_tokens(self, work: BlockWork) -> int:
        """The learned ones."""
        return self.num_tokens

    def seam(self, block: Block) -> nn.ModuleList:
        """Where keys and values of further tokens come from."""
        return block.attn.kv_branches

    def build(self, site: BlockSite, generator: torch.Generator) -> nn.Module:
        """Build the branch for one block."""
        return Prefix(self, site.dim, generator)


class Prefix(nn.Module):
    """Learned tokens, and the way from them to keys and to values; all starts random.

    Args:
        config: how many tokens, how wide, how strong.
        dim: channels of keys and values.
        generator: draws every weight.

    """

    def __init__(self, config: PrefixConfig, dim: int, generator: torch.Generator) -> None:
        super().__init__()
        tokens = torch.empty(config.num_tokens, dim).normal_(generator=generator)
        self.tokens = nn.Parameter(tokens)
        self.keys = _layers(dim, config, generator)
        self.values = _layers(dim, config, generator)
        self.scale = make_scale(config.scale, DEFAULT_SCALE)

    def forward(self, z_WNC: Tensor) -> Tensor:
        """Keys and values (1, P, 2C), the same for every window."""
        return torch.cat((self.keys(self.tokens), self.values(self.tokens)), -1)[None] * self.scale


def _layers(dim: int, config: PrefixConfig, generator: torch.Generator) -> nn.Sequential:
    # On "meta" first: the constructor would draw from the global generator.
    down, up = (
        nn.Linear(*widths, device="meta").to_empty(device="cpu")
        for widths in ((dim, config.d_middle), (config.d_middle, dim))
    )
    with torch.no_grad():
        for layer in (down, up):
            bound = layer.in_features**-0.5
            layer.weight.uniform_(-bound, bound, generator=generator)
            layer.bias.zero_()
    return nn.Sequential(down, _ACTIVATIONS[config.activation](), up)
