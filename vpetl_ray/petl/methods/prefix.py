"""Prefix-tuning, equation (5) of the paper (Li and Liang 2021, arXiv 2101.00190).

The paper gives d_middle and not the number of tokens. One set of learned tokens a block, with a
Linear-Tanh-Linear for keys and one for values, comes to its two counts with 17 tokens.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from vpetl_ray.models.arch import BlockSite
from vpetl_ray.petl.checks import check_whole_number
from vpetl_ray.petl.method import Block, SeamMethod


@dataclass(frozen=True, kw_only=True)
class PrefixConfig(SeamMethod):
    """Keys and values of learned tokens, in front of those of every window."""

    name: ClassVar[str] = "prefix"
    identity_at_start: ClassVar[bool] = False

    num_tokens: int
    """Learned tokens a block."""
    d_middle: int
    """Width between the two linear layers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole_number("prefix.num_tokens", self.num_tokens, at_least=1)
        check_whole_number("prefix.d_middle", self.d_middle, at_least=1)

    def count_block(self, site: BlockSite) -> int:
        """N d for the tokens, 2 d m + m + d for keys and again for values."""
        layers = 2 * site.dim * self.d_middle + self.d_middle + site.dim
        return self.num_tokens * site.dim + 2 * layers

    def seam(self, block: Block) -> nn.ModuleList:
        """Where keys and values of further tokens come from."""
        return block.attn.kv_branches

    def build(self, site: BlockSite, generator: torch.Generator) -> nn.Module:
        """Build the branch for one block."""
        return Prefix(site.dim, self.num_tokens, self.d_middle, generator)


class Prefix(nn.Module):
    """Learned tokens, and the way from them to keys and to values; all starts random."""

    def __init__(
        self, dim: int, num_tokens: int, d_middle: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.empty(num_tokens, dim).normal_(generator=generator))
        self.keys = _layers(dim, d_middle, generator)
        self.values = _layers(dim, d_middle, generator)

    def forward(self, z_WNC: Tensor) -> Tensor:
        """Keys and values (1, P, 2C), the same for every window."""
        return torch.cat((self.keys(self.tokens), self.values(self.tokens)), -1)[None]


def _layers(dim: int, d_middle: int, generator: torch.Generator) -> nn.Sequential:
    # On "meta" first: the constructor would draw from the global generator.
    down, up = (
        nn.Linear(*widths, device="meta").to_empty(device="cpu")
        for widths in ((dim, d_middle), (d_middle, dim))
    )
    with torch.no_grad():
        for layer in (down, up):
            bound = layer.in_features**-0.5
            layer.weight.uniform_(-bound, bound, generator=generator)
            layer.bias.zero_()
    return nn.Sequential(down, nn.Tanh(), up)
