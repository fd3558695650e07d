"""What every backbone can do, whatever its family: run up to a depth, and on from there."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from torch import Tensor, nn

from vpetl_ray.errors import VpetlError
from vpetl_ray.models.arch_base import Arch, BlockSite, Size
from vpetl_ray.models.blocks import Block


@dataclass(frozen=True, kw_only=True)
class Lead:
    """How far into a stage its frozen part goes, from its first block on."""

    blocks: int = 0
    """Whole blocks."""
    has_start: bool = False
    """Whether of the next one all is in it but the seam beside the MLP (`Block.start`)."""


NO_LEAD: Final = Lead()
"""The frozen part ends between two stages."""


class Backbone(nn.Module, ABC):
    """A network with its classifier.

    For every depth d in 0..num_stages, `forward(video)` equals
    `forward_suffix(forward_prefix(video, d), d)`: what is frozen below d can be computed once.

    Attributes:
        arch: the numbers.
        num_classes: width of the classifier.
        head: the classifier.

    """

    arch: Arch
    num_classes: int
    head: nn.Linear

    @abstractmethod
    def embed(self, video_BCTHW: Tensor) -> Tensor:
        """Give the tokens that enter the first block."""

    @abstractmethod
    def stage_blocks(self, stage: int) -> Sequence[Block]:
        """Give the blocks of a stage (from 1), in order."""

    def leave_stage(self, x: Tensor, stage: int) -> Tensor:
        """Go from the last block of a stage to the first of the next."""
        return x

    @abstractmethod
    def pool(self, x: Tensor) -> Tensor:
        """Make the features (B, num_features) of what leaves the last stage."""

    def grid_of(self, num_tokens: int) -> Size:
        """Tell how tokens in a row stand along (time, height, width), class tokens aside.

        Raises:
            VpetlError: so many tokens are no grid of this network, or its tokens are on one.

        """
        raise VpetlError(f"{self.arch.name}: {num_tokens} tokens in a row are no grid")

    def block_modules(self) -> list[tuple[BlockSite, Block]]:
        """Every block with where it stands, in order of depth."""
        blocks = [module for module in self.modules() if isinstance(module, Block)]
        return list(zip(self.arch.blocks(), blocks, strict=True))

    def set_drop_path(self, rate: float) -> None:
        """Set stochastic depth: 0 at the first block, rising linearly to `rate` at the last."""
        blocks = self.block_modules()
        for site, block in blocks:
            block.drop_path_rate = rate * site.index / max(len(blocks) - 1, 1)

    def set_running(self, *, is_compiled: bool, is_recomputed: bool) -> None:
        """Choose how blocks run where gradients are wanted; the result is the same to rounding.

        Args:
            is_compiled: by `torch.compile`, block by block: faster, after minutes of compiling.
            is_recomputed: run them anew in the backward pass: less memory, a third slower.

        """
        for _, block in self.block_modules():
            block.is_compiled, block.is_recomputed = is_compiled, is_recomputed

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        """(B, 3, T, H, W), normalised, to logits (B, K)."""
        return self.forward_suffix(video_BCTHW, 0)

    def forward_prefix(self, video_BCTHW: Tensor, depth: int, lead: Lead = NO_LEAD) -> Tensor:
        """Compute what enters stage depth + 1, or at depth num_stages the classifier.

        Depth 0 is the video itself; 1..num_stages-1 give tokens (B, ..., C); num_stages gives the
        pooled features (B, num_features). With a lead, from depth 1 on, what leaves it:
        (B, ..., C), or (B, 2, ..., C) as `Block.start` gives it.
        """
        x = self._run(video_BCTHW, 0, depth)
        if lead == NO_LEAD:
            return x
        blocks = self.stage_blocks(depth + 1)
        for block in blocks[: lead.blocks]:
            x = block(x)
        return blocks[lead.blocks].start(x) if lead.has_start else x

    def forward_suffix(self, features: Tensor, depth: int, lead: Lead = NO_LEAD) -> Tensor:
        """Logits (B, K) from what `forward_prefix` gave at the same depth and lead."""
        x = self._run(features, depth, self.arch.num_stages, lead)
        logits_BK: Tensor = self.head(x)
        return logits_BK

    def _run(self, x: Tensor, start: int, stop: int, lead: Lead = NO_LEAD) -> Tensor:
        for depth in range(start, stop):
            if depth == 0:
                x = self.embed(x)
            blocks = self.stage_blocks(depth + 1)[lead.blocks if depth == start else 0 :]
            for number, block in enumerate(blocks):
                is_begun = lead.has_start and depth == start and number == 0
                x = block.finish(x) if is_begun else block(x)
            x = self.leave_stage(x, depth + 1)
            if depth + 1 == self.arch.num_stages:
                x = self.pool(x)
        return x


def initialise_linear(model: nn.Module) -> None:
    """Xavier weights and zero biases: small normal weights leave the nano on a plateau at times."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
