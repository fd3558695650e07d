"""PATT without Z, Table 4 of the paper: a learned input in place of the block's own."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vpetl_ray.models.arch import BlockSite
from vpetl_ray.models.side import Side
from vpetl_ray.models.work import BlockWork, linear_flops
from vpetl_ray.petl.checks import check_whole_number
from vpetl_ray.petl.methods.patt import DEFAULT_SCALE, ParallelAttention, PattConfig


@dataclass(frozen=True, kw_only=True)
class PattNoZConfig(PattConfig):
    """`s * (act(I W_down + b) W_up + b)`, added to some of Q, K and V; I is learned, a block each.

    Every window gets the same. The paper's count has as many rows in I as a window has tokens in
    an 8-frame clip: 4 x 7 x 7 = 196.
    """

    name: ClassVar[str] = "patt_no_z"

    num_tokens: int | None = None
    """Rows of I, by default the tokens of a window at the size the backbone is made for. Where a
    window has fewer, the first serve; where it has more, they are repeated over time."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_tokens is not None:
            check_whole_number("patt_no_z.num_tokens", self.num_tokens, at_least=1)

    def count_block(self, site: BlockSite) -> int:
        """Those of PATT, and n d for the input."""
        return super().count_block(site) + self._rows(site) * site.dim

    def block_flops(self, site: BlockSite, work: BlockWork, qkv_rows: int) -> int:
        """Of the way down once for all windows, of the way up once a row of the projection."""
        further = qkv_rows - work.attended
        down = linear_flops(work.window_tokens + further, site.dim, self.d_bottle)
        return down + linear_flops(qkv_rows, self.d_bottle, len(self.targets) * site.dim)

    def build(self, site: BlockSite, generator: torch.Generator) -> nn.Module:
        """Build the branch for one block."""
        return LearnedInputAttention(
            self.targets,
            num_tokens=self._rows(site),
            dim=site.dim,
            d_bottle=self.d_bottle,
            out_dim=len(self.targets) * site.dim,
            activation=self.activation,
            scale=self.scale,
            learned_start=DEFAULT_SCALE,
            generator=generator,
        )

    def _rows(self, site: BlockSite) -> int:
        return site.window_tokens if self.num_tokens is None else self.num_tokens


class LearnedInputAttention(ParallelAttention):
    """PATT on tokens of its own, which are as large at the start as what a norm gives."""

    def __init__(
        self, targets: tuple[str, ...], *, num_tokens: int, dim: int, **bottleneck: Any
    ) -> None:
        super().__init__(targets, dim=dim, **bottleneck)
        start = torch.empty(num_tokens, dim).normal_(generator=bottleneck["generator"])
        self.tokens = nn.Parameter(start)

    def beside(self) -> Side | None:
        """Never together with the projection: what it reads is not what that reads."""
        return None

    def forward(self, z_WNC: Tensor, qkv_WN3C: Tensor) -> Tensor:
        """(B*W, N, C) and (B*W, N, 3C) to (B*W, N, 3C); the first is not read."""
        num_tokens = z_WNC.shape[1]
        places = torch.arange(num_tokens, device=self.tokens.device) % len(self.tokens)
        hidden_WND = self.hidden(self.tokens[places]).expand(z_WNC.shape[0], -1, -1)
        return super().add(hidden_WND, qkv_WN3C)
