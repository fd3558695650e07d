"""Video Swin Transformer (Liu et al. 2021, arXiv 2106.13230), to be tuned by branches.

Axes: B batch, C channels, T frames or temporal tokens, H W pixels or spatial tokens, K classes.
Parameters carry the names of the original code, so that published weights load by their own keys.
Features are channels-last throughout: norms and linear layers then need no copy.
"""

from collections.abc import Iterable
from math import prod

from torch import Tensor, nn
from torch.nn.functional import pad

from vpetl_ray.models.arch import IN_CHANNELS, BlockSite, SwinArch
from vpetl_ray.models.blocks import SwinBlock


class PatchEmbed(nn.Module):
    """Cut the video into patches and project each to a token: a convolution without overlap.

    Fastest on clips that lie channels-last in memory, as `clips_to_input` gives them: the tokens
    then come out channels-last too, without a copy. (A reshape and one matrix product in place of
    the convolution took twice as long on CPU at 32 x 32, and as long at 224 x 224.)
    """

    def __init__(self, patch_size: tuple[int, int, int], dim: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv3d(IN_CHANNELS, dim, kernel_size=patch_size, stride=patch_size)
        self.norm = nn.LayerNorm(dim)

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        """(B, C, T, H, W) to (B, T/pt, H/ph, W/pw, C'); a remainder is padded with zeros."""
        pad_t, pad_h, pad_w = (
            -size % patch
            for size, patch in zip(video_BCTHW.shape[2:], self.patch_size, strict=True)
        )
        if pad_t or pad_h or pad_w:
            video_BCTHW = pad(video_BCTHW, (0, pad_w, 0, pad_h, 0, pad_t))
        x_BTHWC: Tensor = self.norm(self.proj(video_BCTHW).permute(0, 2, 3, 4, 1))
        return x_BTHWC


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
        quads = x_BTHWC.reshape(b, t, h // 2, 2, w // 2, 2, c).permute(0, 1, 2, 4, 5, 3, 6)
        y_BTHWC: Tensor = self.reduction(self.norm(quads.flatten(4)))  # order (w, h, c), as trained
        return y_BTHWC


class Stage(nn.Module):
    """Blocks at one resolution, then the merging that leads to the next (absent in the last)."""

    def __init__(self, sites: Iterable[BlockSite], arch: SwinArch, *, has_downsample: bool) -> None:
        super().__init__()
        sites = list(sites)
        self.blocks = nn.ModuleList(_build_block(site, arch) for site in sites)
        self.downsample = PatchMerging(sites[0].dim) if has_downsample else None

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        """(B, T, H, W, C) to (B, T, H/2, W/2, 2C), or unchanged in shape without merging."""
        for block in self.blocks:
            x_BTHWC = block(x_BTHWC)
        return x_BTHWC if self.downsample is None else self.downsample(x_BTHWC)


class VideoSwin(nn.Module):
    """The backbone with its classifier.

    For every depth d in 0..num_stages, `forward(video)` equals
    `forward_suffix(forward_prefix(video, d), d)`: what is frozen below d can be computed once.

    Args:
        arch: the numbers.
        num_classes: width of the classifier.
        drop_path: rate of stochastic depth at the last block; it rises linearly from 0.

    """

    def __init__(self, arch: SwinArch, num_classes: int, *, drop_path: float = 0.0) -> None:
        super().__init__()
        self.arch = arch
        self.num_classes = num_classes
        self.patch_embed = PatchEmbed(arch.patch_size, arch.embed_dim)
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

    def block_modules(self) -> list[tuple[BlockSite, SwinBlock]]:
        """Every block with where it stands, in order of depth."""
        blocks = [module for module in self.modules() if isinstance(module, SwinBlock)]
        return list(zip(self.arch.blocks(), blocks, strict=True))

    def set_drop_path(self, rate: float) -> None:
        """Set stochastic depth: 0 at the first block, rising linearly to `rate` at the last."""
        blocks = self.block_modules()
        for site, block in blocks:
            block.drop_path_rate = rate * site.index / max(len(blocks) - 1, 1)

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        """(B, 3, T, H, W), normalised, to logits (B, K)."""
        return self.forward_suffix(video_BCTHW, 0)

    def forward_prefix(self, video_BCTHW: Tensor, depth: int) -> Tensor:
        """Compute what enters stage depth + 1, or at depth num_stages the classifier.

        Depth 0 is the video itself; 1..num_stages-1 give (B, T, H, W, C); num_stages gives the
        pooled features (B, num_features).
        """
        return self._run(video_BCTHW, 0, depth)

    def forward_suffix(self, features: Tensor, depth: int) -> Tensor:
        """Logits (B, K) from what `forward_prefix` gave at the same depth."""
        logits_BK: Tensor = self.head(self._run(features, depth, self.arch.num_stages))
        return logits_BK

    def _run(self, x: Tensor, start: int, stop: int) -> Tensor:
        for depth in range(start, stop):
            if depth == 0:
                x = self.patch_embed(x)
            x = self.layers[depth](x)
            if depth == self.arch.num_stages - 1:
                x = self.norm(x).flatten(1, 3).mean(1)  # (B, num_features)
        return x


def _build_block(site: BlockSite, arch: SwinArch) -> SwinBlock:
    is_shifted = site.block % 2 == 0
    t, h, w = arch.window_size
    shift = (t // 2, h // 2, w // 2) if is_shifted else (0, 0, 0)
    return SwinBlock(site.dim, site.num_heads, site.mlp_dim, arch.window_size, shift)


def _initialise(model: VideoSwin) -> None:
    """Xavier weights and zero biases: small normal weights leave the nano on a plateau at times."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    proj = model.patch_embed.proj
    bound = (6.0 / (prod(proj.weight.shape[1:]) + proj.out_channels)) ** 0.5
    nn.init.uniform_(proj.weight, -bound, bound)
    if proj.bias is not None:
        nn.init.zeros_(proj.bias)
    for _, block in model.block_modules():
        nn.init.trunc_normal_(block.attn.relative_position_bias_table, std=0.02)
    nn.init.trunc_normal_(model.head.weight, std=0.02)
