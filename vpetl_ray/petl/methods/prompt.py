"""Prompt-tuning, equation (8) of the paper (VPT: Jia et al. 2022, arXiv 2203.12119).

Prompts enter a block's attention and leave it: as the equation has it, nothing of them is carried
on to the MLP or to the next block. (VPT carries its shallow prompts through all blocks, which on
windows of changing width has no one meaning.)
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from vpetl_ray.errors import VpetlError
from vpetl_ray.models.arch import BlockSite
from vpetl_ray.models.work import BlockWork, linear_flops
from vpetl_ray.petl.bottleneck import LEARNED, Scale, check_scale, make_scale
from vpetl_ray.petl.checks import check_choice, check_whole_number
from vpetl_ray.petl.method import Arch, Block, BlockMethod, Branch
from vpetl_ray.petl.places import Places

DEPTHS = ("deep", "shallow")
WAYS = ("prepend", "overlap")
DEFAULT_SCALE = 1.0
"""Equation (8) has none; a learned scale starts there."""


@dataclass(frozen=True, kw_only=True)
class PromptConfig(BlockMethod):
    """Learned tokens that a window's tokens attend to, through the block's own norm and QKV."""

    name: ClassVar[str] = "prompt"
    identity_at_start: ClassVar[bool] = False

    num_tokens: int
    """Learned tokens a block."""
    depth: Literal["deep", "shallow"] = "deep"
    """In every block, or in the first of each stage (stages [1]: of the network); of the chosen
    blocks, where blocks are named."""
    way: Literal["prepend", "overlap"] = "prepend"
    """In front of each window's tokens, or in place of the first of them, behind a class token."""
    scale: Scale = DEFAULT_SCALE
    """Factor on what the block's norm makes of them: a number, or `learned`, one a block."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole_number("prompt.num_tokens", self.num_tokens, at_least=1)
        check_choice("prompt.depth", self.depth, DEPTHS)
        check_choice("prompt.way", self.way, WAYS)
        check_scale("prompt.scale", self.scale)

    def check(self, arch: Arch) -> None:
        """Raise a VpetlError if a stage does not exist, or prompts leave nothing of a window."""
        super().check(arch)
        most = max_overlap(arch)
        if self.way == "overlap" and self.num_tokens > most:
            raise VpetlError(
                f"prompt.num_tokens: must be at most {most} to overlap a window of {arch.name}, "
                f"got {self.num_tokens}"
            )

    def sites(self, arch: Arch) -> list[BlockSite]:
        """Every block that gets prompts."""
        sites = super().sites(arch)
        if self.depth == "deep":
            return sites
        return [next(group) for _, group in groupby(sites, key=lambda site: site.stage)]

    def unplaced(self) -> Self:
        """Give the same settings without a word on where, which the depth is as well."""
        return replace(self, depth="deep", stages=None, blocks=None)

    def at(self, places: Places, arch: Arch) -> list[Self]:
        """Write these settings at exactly these places, as shallow ones where they are."""
        whole_stages = Places.of(edges=places.stages(arch))
        for settings in super().at(whole_stages, arch):
            shallow = replace(settings, depth="shallow")
            if shallow.places(arch) == places:
                return [shallow]
        return super().at(places, arch)

    def count_block(self, site: BlockSite) -> int:
        """N d, and 1 for a learned scale."""
        return self.num_tokens * site.dim + (1 if self.scale == LEARNED else 0)

    def block_flops(self, site: BlockSite, work: BlockWork, qkv_rows: int) -> int:
        """Of the block's own projection of the prompts; where they replace tokens, nothing."""
        return linear_flops(self.further_qkv_rows(), site.dim, 3 * site.dim)

    def further_tokens(self, work: BlockWork) -> int:
        """The prompts in front of a window."""
        return self.further_qkv_rows()

    def further_qkv_rows(self) -> int:
        """The prompts in front of a window, once for all windows."""
        return self.num_tokens if self.way == "prepend" else 0

    def branches(
        self, site: BlockSite, block: Block, generator: torch.Generator
    ) -> Iterator[Branch]:
        """Build the prompts of one block."""
        # Small, as in VPT: the norm behind makes them as large as others, and they learn faster.
        bound = (3.0 / site.dim) ** 0.5
        tokens = torch.empty(self.num_tokens, site.dim).uniform_(-bound, bound, generator=generator)
        is_prepended = self.way == "prepend"
        kind = PrependedPrompt if is_prepended else OverlappingPrompt
        yield Branch(
            name=self.branch_name(site),
            stage=site.stage,
            seam=block.attn.kv_branches if is_prepended else block.attn.token_branches,
            module=kind(tokens, block, site.class_tokens, self.scale),
        )


def max_overlap(arch: Arch) -> int:
    """Tell how many tokens of a window may be replaced: one must be left."""
    return arch.window_tokens - arch.class_tokens - 1


class Prompt(nn.Module):
    """Learned tokens in front of a block's first norm.

    Args:
        tokens_PC: where they start.
        block: the block that they belong to, which is no part of this module.
        class_tokens: how many tokens, the first, are never replaced.
        scale: factor behind the norm.

    """

    def __init__(self, tokens_PC: Tensor, block: Block, class_tokens: int, scale: Scale) -> None:
        super().__init__()
        self.tokens = nn.Parameter(tokens_PC)
        self.scale = make_scale(scale, DEFAULT_SCALE)
        self.class_tokens = class_tokens
        self._block = (block,)  # in a tuple: it must not become a submodule

    def normed(self) -> Tensor:
        """(P, C) as attention gets them."""
        tokens_PC: Tensor = self._block[0].norm1(self.tokens)
        return tokens_PC * self.scale


class PrependedPrompt(Prompt):
    """Keys and values of the prompts; what their own queries would give is dropped."""

    def forward(self, z_WNC: Tensor) -> Tensor:
        """Keys and values (1, P, 2C), the same for every window."""
        qkv_1P3C = self._block[0].attn.to_qkv(self.normed()[None])
        return qkv_1P3C[..., z_WNC.shape[-1] :]


class OverlappingPrompt(Prompt):
    """Prompts in place of the first tokens of each window."""

    def forward(self, x_WNC: Tensor, z_WNC: Tensor) -> Tensor:
        """Twice (B*W, N, C) to (B*W, N, C); a small window keeps its last token."""
        first = self.class_tokens
        num = min(len(self.tokens), z_WNC.shape[1] - first - 1)
        prompts = self.normed()[:num].to(z_WNC.dtype).expand(z_WNC.shape[0], -1, -1)
        return torch.cat((z_WNC[:, :first], prompts, z_WNC[:, first + num :]), 1)
