"""Video Swin Transformer (Liu et al. 2021, arXiv 2106.13230), to be tuned by branches.

Axes: B batch, C channels, T frames or temporal tokens, H W pixels or spatial tokens, K classes.
Parameters carry the names of the original code, so that published weights load by their own keys.
Features are channels-last throughout: norms and linear layers then need no copy.
"""

from collections.abc import Iterable, Sequence

from torch import Tensor, nn
from torch.nn.functional import pad

from vpetl_ray.models.arch_base import BlockSite
from vpetl_ray.models.backbone import Backbone, initialise_linear
from vpetl_ray.models.blocks import Block
from vpetl_ray.models.linear import run_linear
from vpetl_ray.models.patch_embed import PatchEmbed
from vpetl_ray.models.swin_arch import SwinArch
from vpetl_ray.models.window_attention import WindowAttention


class PatchMerging(nn.Module):
    """Concatenate each 2 x 2 of neighbouring tokens, norm, and halve the channels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        """(B, T, H, W, C) to (B, T, H/2, W/2, 2C); an odd size is padded with zeros."""
        b, t, h, w, c = x_BTHWC.shape
        if h % 2 or w % 2:
            x_BTHWC = pad(x_BTHWC, (0, 0, 0, w % 2, 0, h % 2))
            h, w = h + h % 2, w + w % 2
        # In the order (w, h, c), as trained.
        quads = x_BTHWC.reshape(b, t, h // 2, 2, w // 2, 2, c).permute(0, 1, 2, 4, 5, 3, 6)
        y_BTHWC: Tensor = run_linear(self.reduction, self.norm(quads.flatten(4)))
        return y_BTHWC


class Stage(nn.Module):
    """Blocks at one resolution, then the merging that leads to the next (absent in the last)."""

    def __init__(self, sites: Iterable[BlockSite], arch: SwinArch, *, has_downsample: bool) -> None:
        super().__init__()
        sites = list(sites)
        self.blocks = nn.ModuleList(_build_block(site, arch) for site in sites)
        self.downsample = PatchMerging(sites[0].dim) if has_downsample else None

    def listed(self) -> list[Block]:
        """Give the blocks in order."""
        return [block for block in self.blocks if isinstance(block, Block)]


class VideoSwin(Backbone):
    """Video Swin with its classifier.

    Between stages tokens stand on their grid, (B, T, H, W, C).

    Args:
        arch: the numbers.
        num_classes: width of the classifier.
        drop_path: rate of stochastic depth at the last block; it rises linearly from 0.

    """

    arch: SwinArch

    def __init__(self, arch: SwinArch, num_classes: int, *, drop_path: float = 0.0) -> None:
        super().__init__()
        self.arch = arch
        self.num_classes = num_classes
        self.patch_embed = PatchEmbed(arch.patch_size, arch.embed_dim, has_norm=True)
        self.layers = nn.ModuleList(
            Stage(
                [site for site in arch.blocks() if site.stage == stage],
                arch,
                has_downsample=stage < arch.num_stages,
            )
            for stage in range(1, arch.num_stages + 1)
        )
        self.norm = nn.LayerNorm(arch.num_features)
        self.head = nn.Linear(arch.num_features, num_classes)
        self.set_drop_path(drop_path)
        _initialise(self)

    def embed(self, video_BCTHW: Tensor) -> Tensor:
        """(B, 3, T, H, W) to tokens (B, T, H, W, C)."""
        x_BTHWC: Tensor = self.patch_embed(video_BCTHW)
        return x_BTHWC

    def stage_blocks(self, stage: int) -> Sequence[Block]:
        """Give the blocks of a stage, (B, T, H, W, C) to the same."""
        return self._stage(stage).listed()

    def leave_stage(self, x: Tensor, stage: int) -> Tensor:
        """(B, T, H, W, C) to (B, T, H/2, W/2, 2C), or unchanged behind the last stage."""
        downsample = self._stage(stage).downsample
        x_BTHWC: Tensor = x if downsample is None else downsample(x)
        return x_BTHWC

    def _stage(self, stage: int) -> Stage:
        found = self.layers[stage - 1]
        assert isinstance(found, Stage)
        return found

    def pool(self, x: Tensor) -> Tensor:
        """Mean over the tokens: (B, T, H, W, C) to (B, C)."""
        x_BTHWC: Tensor = self.norm(x)
        return x_BTHWC.flatten(1, 3).mean(1)


def _build_block(site: BlockSite, arch: SwinArch) -> Block:
    is_shifted = site.block % 2 == 0
    t, h, w = arch.window_size
    shift = (t // 2, h // 2, w // 2) if is_shifted else (0, 0, 0)
    attn = WindowAttention(site.dim, site.num_heads, arch.window_size, shift)
    return Block(attn, site.dim, site.mlp_dim)


def _initialise(model: VideoSwin) -> None:
    initialise_linear(model)
    model.patch_embed.initialise()
    for module in model.modules():
        if isinstance(module, WindowAttention):
            nn.init.trunc_normal_(module.relative_position_bias_table, std=0.02)
    nn.init.trunc_normal_(model.head.weight, std=0.02)
