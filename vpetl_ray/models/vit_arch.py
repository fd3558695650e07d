"""The numbers of a plain Vision Transformer, as MAE and VideoMAE publish them.

ViT: Dosovitskiy et al. 2020 (arXiv 2010.11929). MAE: He et al. 2021 (arXiv 2111.06377), images.
VideoMAE: Tong et al. 2022 (arXiv 2203.12602), clips cut into tubes of 2 x 16 x 16.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Literal

from vpetl_ray.models.arch_base import (
    IN_CHANNELS,
    Arch,
    BlockSite,
    Size,
    cut,
    layer_in,
    norms_and_mlp,
)
from vpetl_ray.models.own_tensors import EDGE, OwnLayer, OwnTensor
from vpetl_ray.models.work import BlockWork, linear_flops


@dataclass(frozen=True, kw_only=True)
class ViTArch(Arch):
    """One Vision Transformer: blocks of equal width that all see all tokens.

    It has no stages of its own. Its blocks are counted in groups, the four quarters of its depth,
    so that "in the last stages" means here what it means for a Video Swin, and what is frozen
    below a quarter is computed once.
    """

    num_heads: int
    """Attention heads of every block."""
    clip_size: Size
    """Frames and pixels it was pre-trained on; images are clips of one frame. Any other size
    works: position embeddings follow it."""
    positions: Literal["learned", "fixed"]
    """A learned embedding for each token (MAE's files bring theirs), or a fixed sine-cosine."""
    pooling: Literal["class", "mean"]
    """What the classifier reads: a class token, or the mean over the patches."""
    has_class_token: bool
    """Whether there is a class token (it may be there and not be read)."""
    has_key_bias: bool = True
    """Whether keys have a bias beside those of queries and values; VideoMAE's do not."""
    norm_eps: float = 1e-6
    """Of every norm."""

    @property
    def stage_dims(self) -> tuple[int, ...]:
        """Channels of each stage, all equal."""
        return (self.embed_dim,) * self.num_stages

    @property
    def stage_heads(self) -> tuple[int, ...]:
        """Attention heads of each stage, all equal."""
        return (self.num_heads,) * self.num_stages

    @property
    def grid(self) -> Size:
        """Patches along (time, height, width) at `clip_size`."""
        return cut(self.clip_size, self.patch_size)

    @property
    def window_tokens(self) -> int:
        """Every token of a clip of `clip_size`."""
        return prod(self.grid) + self.has_class_token

    @property
    def class_tokens(self) -> int:
        """One class token or none."""
        return int(self.has_class_token)

    def own_tensors(self) -> tuple[OwnTensor, ...]:
        """Every parameter of the network but the classifier's."""
        blocks = (tensor for site in self.blocks() for tensor in self._block_tensors(site))
        last = OwnLayer(name="norm", stage=self.num_stages, kind=EDGE).norm(self.num_features)
        return *self._first_tensors(), *blocks, *last

    def block_works(self, clip: Size) -> tuple[BlockWork, ...]:
        """Tell what each block computes: the same, as all tokens see all."""
        tokens = prod(cut(clip, self.patch_size)) + self.class_tokens
        work = BlockWork(tokens=tokens, windows=1, window_tokens=tokens)
        return (work,) * sum(self.depths)

    def edge_flops(self, clip: Size) -> int:
        """Count what turns pixels into tokens."""
        patch = IN_CHANNELS * prod(self.patch_size)
        return linear_flops(prod(cut(clip, self.patch_size)), patch, self.embed_dim)

    def _first_tensors(self) -> Iterator[OwnTensor]:
        if self.has_class_token:
            yield OwnLayer(name="cls_token", stage=1, kind=EDGE).tensor("", self.embed_dim)
        if self.positions == "learned":
            positions = OwnLayer(name="pos_embed", stage=1, kind=EDGE)
            yield positions.tensor("", self.window_tokens * self.embed_dim)
        patch = OwnLayer(name="patch_embed.proj", stage=1, kind=EDGE)
        yield from patch.linear(IN_CHANNELS * prod(self.patch_size), self.embed_dim)

    def _block_tensors(self, site: BlockSite) -> Iterator[OwnTensor]:
        name = f"blocks.{site.index}"
        yield from norms_and_mlp(site, name)
        qkv = layer_in(site, f"{name}.attn.qkv", "qkv")
        if self.has_key_bias:
            yield from qkv.linear(site.dim, 3 * site.dim)
        else:
            yield qkv.tensor("weight", 3 * site.dim * site.dim)
            yield qkv.tensor("q_bias", site.dim, is_bias=True)
            yield qkv.tensor("v_bias", site.dim, is_bias=True)
        yield from layer_in(site, f"{name}.attn.proj", "proj").linear(site.dim, site.dim)
