"""LoRA: a low-rank pair beside frozen linear layers (Hu et al. 2021, arXiv 2106.09685)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from vpetl_ray.errors import VpetlError
from vpetl_ray.models.arch import BlockSite
from vpetl_ray.models.work import BlockWork, linear_flops
from vpetl_ray.petl.bottleneck import (
    LEARNED,
    Scale,
    add_up_projection,
    check_scale,
    make_scale,
)
from vpetl_ray.petl.checks import check_names, check_whole_number
from vpetl_ray.petl.method import Block, BlockMethod, Branch

TARGETS = ("q", "k", "v", "proj", "fc1", "fc2")
"""The linear layers of a block, in order of depth."""
_QKV = ("q", "k", "v")


class _Place(NamedTuple):
    """One frozen layer, and which of our targets stand beside it."""

    name: str
    targets: tuple[str, ...]
    seam: nn.ModuleList
    layer: nn.Linear


@dataclass(frozen=True, kw_only=True)
class LoraConfig(BlockMethod):
    """`alpha / rank * x A B`, added to what a frozen layer gives; each target has its own pair."""

    name: ClassVar[str] = "lora"
    identity_at_start: ClassVar[bool] = True

    targets: tuple[str, ...]
    """Any of q, k, v, proj, fc1, fc2."""
    rank: int
    """Columns of A and rows of B."""
    alpha: Scale | None = None
    """Strength: alpha / rank is the factor. By default the rank, a factor of 1; `learned` trains
    the factor, one number a layer, from there."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.targets, tuple | list):
            raise VpetlError(
                f"lora.targets: must be a list of {', '.join(TARGETS)}, got {self.targets!r}"
            )
        check_names("lora.targets", self.targets, TARGETS, "target")
        ordered = tuple(target for target in TARGETS if target in self.targets)
        object.__setattr__(self, "targets", ordered)
        check_whole_number("lora.rank", self.rank, at_least=1)
        if self.alpha is not None:
            check_scale("lora.alpha", self.alpha)

    @property
    def is_empty(self) -> bool:
        """Whether these settings train nothing anywhere."""
        return not self.targets or super().is_empty

    def count_block(self, site: BlockSite) -> int:
        """Rank times inputs and outputs of every target, and 1 a layer for a learned factor."""
        wide = {"fc1", "fc2"}
        ends = sum(site.dim + (site.mlp_dim if t in wide else site.dim) for t in self.targets)
        num_layers = len({"qkv" if target in _QKV else target for target in self.targets})
        return self.rank * ends + (num_layers if self.alpha == LEARNED else 0)

    def block_flops(self, site: BlockSite, work: BlockWork, qkv_rows: int) -> int:
        """Of each pair, unmerged, as often as the layer beside it is used."""
        ends = site.dim + site.mlp_dim
        layers = {
            "proj": (work.attended, 2 * site.dim),
            "fc1": (work.tokens, ends),
            "fc2": (work.tokens, ends),
        }
        chosen = (layers.get(target, (qkv_rows, 2 * site.dim)) for target in self.targets)
        return sum(linear_flops(rows, self.rank, both_ends) for rows, both_ends in chosen)

    def branches(
        self, site: BlockSite, block: Block, generator: torch.Generator
    ) -> Iterator[Branch]:
        """Build one module for each layer that has a target; q, k and v share theirs."""
        for place in _places(block, self.targets):
            yield Branch(
                name=f"{self.branch_name(site)}.{place.name}",
                stage=site.stage,
                seam=place.seam,
                module=LowRank(place.targets, place.layer, self.rank, self._factor, generator),
                layer=place.layer,
            )

    @property
    def _factor(self) -> Scale:
        if self.alpha is None:
            return 1.0
        return LEARNED if isinstance(self.alpha, str) else self.alpha / self.rank


class LowRank(nn.Module):
    """The pairs beside one layer, in one product down and one up for each target.

    Args:
        targets: which of q, k, v stand side by side in the layer's output; else one name.
        layer: the frozen layer.
        rank: of each pair.
        factor: what the product is multiplied by; `learned` starts at 1.
        generator: draws A; B starts at zero.

    """

    def __init__(
        self,
        targets: tuple[str, ...],
        layer: nn.Linear,
        rank: int,
        factor: Scale,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        is_fused = targets[0] in _QKV
        width = layer.out_features // 3 if is_fused else layer.out_features
        starts = [_QKV.index(target) * width if is_fused else 0 for target in targets]
        self.runs = tuple(slice(start, start + width) for start in starts)
        bound = layer.in_features**-0.5  # as for the down-projection of an adapter
        down = torch.empty(len(targets) * rank, layer.in_features)
        self.down = nn.Parameter(down.uniform_(-bound, bound, generator=generator))
        self.up = nn.Parameter(torch.zeros(len(targets), width, rank))
        self.factor = make_scale(factor, learned_start=1.0)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """(..., inputs), (..., outputs) of the layer to (..., outputs); y is overwritten."""
        hidden = nn.functional.linear(x, self.down).chunk(len(self.runs), -1)
        for run, part, up in zip(self.runs, hidden, self.up * self.factor, strict=True):
            y = add_up_projection(y, part, up, None, (run,))
        return y

    @torch.no_grad()
    def delta_weight(self, layer: nn.Linear) -> Tensor:
        """(outputs, inputs): what, added to the layer's weight, does the same."""
        delta = torch.zeros_like(layer.weight)
        downs = self.down.chunk(len(self.runs))
        for run, down, up in zip(self.runs, downs, self.up * self.factor, strict=True):
            delta[run] = up @ down
        return delta


def _places(block: Block, targets: tuple[str, ...]) -> Iterator[_Place]:
    attn, mlp = block.attn, block.mlp
    places = (
        _Place("qkv", _QKV, attn.qkv_branches, attn.qkv),
        _Place("proj", ("proj",), attn.proj_branches, attn.proj),
        _Place("fc1", ("fc1",), mlp.fc1_branches, mlp.fc1),
        _Place("fc2", ("fc2",), mlp.fc2_branches, mlp.fc2),
    )
    for place in places:
        chosen = tuple(target for target in place.targets if target in targets)
        if chosen:
            yield place._replace(targets=chosen)
