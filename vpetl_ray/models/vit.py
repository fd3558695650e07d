"""Vision Transformer as MAE and VideoMAE publish it, to be tuned by branches.

Axes: B batch, C channels, T H W frames and pixels or tokens, N tokens, K classes.
Parameters carry the names of the original code, but for `attn.qkv.{q_bias,v_bias}`, and for `norm`,
which is `fc_norm` where the classifier reads the mean of the patches. It stands behind the
pooling; for a class token that is the same as in front of it.
"""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

from vpetl_ray.models.arch_base import BlockSite, Size
from vpetl_ray.models.backbone import Backbone, initialise_linear
from vpetl_ray.models.blocks import Attention, Block
from vpetl_ray.models.derived import DerivedTensors
from vpetl_ray.models.patch_embed import PatchEmbed
from vpetl_ray.models.positions import resize_positions, sine_cosine
from vpetl_ray.models.vit_arch import ViTArch


class QkvWithoutKeyBias(nn.Linear):
    """The projection to queries, keys and values, with a bias for queries and values alone.

    A bias of the keys adds the same to all scores of a query and so changes nothing (VideoMAE).
    """

    def __init__(self, dim: int) -> None:
        super().__init__(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.v_bias = nn.Parameter(torch.zeros(dim))

    def forward(self, input: Tensor) -> Tensor:
        """(..., C) to (..., 3C)."""
        return nn.functional.linear(input, self.weight, self.whole_bias())

    def whole_bias(self) -> Tensor:
        """(3C), zeros for the keys."""
        return torch.cat((self.q_bias, torch.zeros_like(self.v_bias), self.v_bias))


class VisionTransformer(Backbone):
    """The backbone with its classifier.

    Any clip size will do: position embeddings follow it. Between groups of blocks tokens stand in
    a row, (B, N, C), a class token first.

    Args:
        arch: the numbers.
        num_classes: width of the classifier.
        drop_path: rate of stochastic depth at the last block; it rises linearly from 0.

    """

    arch: ViTArch

    def __init__(self, arch: ViTArch, num_classes: int, *, drop_path: float = 0.0) -> None:
        super().__init__()
        self.arch = arch
        self.num_classes = num_classes
        dim = arch.embed_dim
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim)) if arch.has_class_token else None
        rows = arch.window_tokens
        is_learned = arch.positions == "learned"
        self.pos_embed = nn.Parameter(torch.zeros(1, rows, dim)) if is_learned else None
        self.patch_embed = PatchEmbed(arch.patch_size, dim, has_norm=False)
        self.blocks = nn.ModuleList(_build_block(site, arch) for site in arch.blocks())
        self.norm = nn.LayerNorm(dim, eps=arch.norm_eps)
        self.head = nn.Linear(dim, num_classes)
        self._positions = DerivedTensors()
        self._last_grid = arch.grid
        self.set_drop_path(drop_path)
        _initialise(self)

    def embed(self, video_BCTHW: Tensor) -> Tensor:
        """(B, 3, T, H, W) to tokens (B, N, C) with their positions."""
        x_BTHWC: Tensor = self.patch_embed(video_BCTHW)
        _, t, h, w, _ = x_BTHWC.shape
        if not torch.compiler.is_compiling():
            self._last_grid = (t, h, w)
        positions_1NC = self._positions_for((t, h, w))
        x_BNC = x_BTHWC.flatten(1, 3)
        if self.cls_token is None:
            return x_BNC + positions_1NC
        class_B1C = (self.cls_token + positions_1NC[:, :1]).expand(x_BNC.shape[0], -1, -1)
        return torch.cat((class_B1C, x_BNC + positions_1NC[:, 1:]), 1)

    def grid_of(self, num_tokens: int) -> Size:
        """Tell how patches in a row stand along (time, height, width).

        As in the clip that was embedded last; where only features of clips came in since, and
        they have another number of tokens, more or fewer frames of the native size.

        Raises:
            VpetlError: they can be neither.

        """
        num_patches = num_tokens - self.arch.class_tokens
        _, h, w = self.arch.grid
        if num_patches == prod(self._last_grid):
            return self._last_grid
        if num_patches % (h * w) == 0:
            return num_patches // (h * w), h, w
        return super().grid_of(num_tokens)

    def stage_blocks(self, stage: int) -> Sequence[Block]:
        """Give a group of blocks, (B, N, C) to (B, N, C)."""
        start = sum(self.arch.depths[: stage - 1])
        group = self.blocks[start : start + self.arch.depths[stage - 1]]
        return [block for block in group if isinstance(block, Block)]

    def pool(self, x: Tensor) -> Tensor:
        """Class token or mean over the patches, normalised: (B, N, C) to (B, C)."""
        if self.arch.pooling == "class":
            pooled_BC = x[:, 0]
        else:
            pooled_BC = (x if self.cls_token is None else x[:, 1:]).mean(1)
        y_BC: Tensor = self.norm(pooled_BC)
        return y_BC

    def _positions_for(self, grid: Size) -> Tensor:
        """(1, N, C) for a clip of so many patches, a class token's first."""
        weight = self.patch_embed.proj.weight
        return self._positions.get(
            self.pos_embed,
            (grid, weight.dtype, weight.device),
            lambda: self._make_positions(grid).to(weight),
        )

    def _make_positions(self, grid: Size) -> Tensor:
        native = self.arch.grid
        if self.pos_embed is None:
            # Time keeps its meaning, so many tokens apart: the row goes on or ends earlier, as it
            # does in VideoMAE. Over space it would come out in other places, so there it is fitted.
            _, h, w = native
            row = torch.from_numpy(sine_cosine(grid[0] * h * w, self.arch.embed_dim))
            return resize_positions(row, (grid[0], h, w), grid)[None]
        if grid == native:
            return self.pos_embed
        num_class = int(self.arch.has_class_token)
        class_1NC, patches_1NC = self.pos_embed[:, :num_class], self.pos_embed[:, num_class:]
        return torch.cat((class_1NC, resize_positions(patches_1NC[0], native, grid)[None]), 1)


def _build_block(site: BlockSite, arch: ViTArch) -> Block:
    qkv = None if arch.has_key_bias else QkvWithoutKeyBias(site.dim)
    attn = Attention(site.dim, site.num_heads, qkv)
    return Block(attn, site.dim, site.mlp_dim, arch.norm_eps)


def _initialise(model: VisionTransformer) -> None:
    initialise_linear(model)
    model.patch_embed.initialise()
    for parameter in (model.cls_token, model.pos_embed):
        if parameter is not None:
            nn.init.trunc_normal_(parameter, std=0.02)
    nn.init.trunc_normal_(model.head.weight, std=0.02)
