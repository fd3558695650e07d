"""From the key names and shapes in which Swin weights are published to those of `VideoSwin`.

Known: Video Swin's own files (keys `backbone.`, `cls_head.fc_cls`), torchvision's `swin3d_*`,
2D Swin as trained on ImageNet (inflated), and what `save_backbone` writes.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt, prod

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from vpetl_ray.models.arch import ARCHS, SwinArch
from vpetl_ray.models.arch_base import Size
from vpetl_ray.models.weight_family import OURS, Network, WeightFamily

PUBLISHED, TORCHVISION, IMAGE = "Video Swin", "torchvision swin3d", "2D Swin"

_PATCH = "patch_embed.proj.weight"
_TABLE = "relative_position_bias_table"
_DERIVED = ("relative_position_index", "attn_mask")
"""Buffers that follow from the architecture."""

_SWINS = {name: arch for name, arch in ARCHS.items() if isinstance(arch, SwinArch)}


@dataclass(frozen=True, kw_only=True)
class SwinNetwork(Network):
    """What the shapes of Swin weights tell."""

    embed_dim: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The known architectures that fit; several when they differ by their window alone."""
        return tuple(name for name, arch in _SWINS.items() if _shown_by(arch) == self)

    @property
    def widths(self) -> tuple[object, ...]:
        """Channels and heads."""
        return self.embed_dim, self.num_heads

    @property
    def numbers(self) -> str:
        """The numbers, for a message."""
        depths, heads = (",".join(map(str, sizes)) for sizes in (self.depths, self.num_heads))
        return f"embed_dim {self.embed_dim}, depths {depths}, heads {heads}"


def _shown_by(arch: SwinArch) -> SwinNetwork:
    return SwinNetwork(embed_dim=arch.embed_dim, depths=arch.depths, num_heads=arch.num_heads)


class SwinWeights(WeightFamily[SwinArch]):
    """Swin in any of the formats above."""

    name = "Swin"

    def canonical(
        self, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
    ) -> tuple[str, dict[str, Tensor]]:
        """Tell the format and give the tensors `VideoSwin`'s names, without derived buffers."""
        kept = {
            key.removeprefix("module."): tensor
            for key, tensor in tensors.items()
            if not key.endswith(_DERIVED)
        }
        if any(key.startswith("features.") for key in kept):
            return TORCHVISION, {from_torchvision(key): tensor for key, tensor in kept.items()}
        named = {_from_published(key): tensor for key, tensor in kept.items()}
        if _PATCH in named and named[_PATCH].dim() == 4:
            return IMAGE, named
        return (OURS if metadata.get("format") == OURS else PUBLISHED), named

    def network_of_arch(self, arch: SwinArch) -> SwinNetwork:
        """Give the numbers of `arch` that weights can be recognised by."""
        return _shown_by(arch)

    def network_of_weights(self, tensors: Mapping[str, Tensor]) -> SwinNetwork | None:
        """Recognise the network that canonical `tensors` belong to; None if they are no Swin."""
        heads: dict[tuple[int, int], int] = {}
        for key, tensor in tensors.items():
            found = re.fullmatch(rf"layers\.(\d+)\.blocks\.(\d+)\.attn\.{_TABLE}", key)
            if found and tensor.dim() == 2:
                heads[int(found[1]), int(found[2])] = tensor.shape[1]
        stages = sorted({stage for stage, _ in heads})
        if _PATCH not in tensors or not stages:
            return None
        num_heads = (next(h for (s, _), h in heads.items() if s == stage) for stage in stages)
        return SwinNetwork(
            embed_dim=tensors[_PATCH].shape[0],
            depths=tuple(sum(stage == s for s, _ in heads) for stage in stages),
            num_heads=tuple(num_heads),
        )

    def known_arch(self, tensors: Mapping[str, Tensor]) -> SwinArch | None:
        """Tell which known architecture these are; the window decides between equals."""
        network = self.network_of_weights(tensors)
        fitting = [_SWINS[name] for name in network.names] if network else []
        rows = [tensor.shape[0] for key, tensor in tensors.items() if key.endswith(_TABLE)]
        same_window = [arch for arch in fitting if arch.relative_positions in rows]
        return next(iter(same_window or fitting), None)

    def fit(
        self, found: str, tensors: Mapping[str, Tensor], arch: SwinArch
    ) -> tuple[dict[str, Tensor], list[str]]:
        """Inflate 2D weights, or fit position tables of another window."""
        if found == IMAGE:
            return inflate(tensors, arch), ["2D weights were inflated over time"]
        fitted, source = fit_window(tensors, arch)
        if source is None:
            return fitted, []
        return fitted, [f"position tables of window {source} were fitted to {arch.window_size}"]


def _from_published(key: str) -> str:
    return re.sub(r"^cls_head\.fc_cls\.", "head.", key.removeprefix("backbone."))


def from_torchvision(key: str) -> str:
    """Give our name for torchvision's: its `features` are stages and the merging between them."""
    found = re.fullmatch(r"features\.(\d+)\.(.+)", key)
    if not found:
        return key
    number, rest = int(found[1]), found[2]
    if number % 2:
        return f"layers.{number // 2}.downsample.{rest}"
    rest = rest.replace(".mlp.0.", ".mlp.fc1.").replace(".mlp.3.", ".mlp.fc2.")
    return f"layers.{number // 2}.blocks.{rest}"


def inflate(tensors: Mapping[str, Tensor], arch: SwinArch) -> dict[str, Tensor]:
    """Make 2D Swin weights those of a Video Swin that sees a still video as the image.

    The patch kernel is repeated over time and divided by the temporal patch; each position table
    is resized to the spatial window (bicubic) and repeated for every temporal offset.
    Video Swin, section 3.3 "Initialization from pre-trained model".
    """
    out = dict(tensors)
    if _PATCH in out:
        frames = arch.patch_size[0]
        out[_PATCH] = out[_PATCH].float()[:, :, None].repeat(1, 1, frames, 1, 1) / frames
    for key in [key for key in out if key.endswith(_TABLE) and out[key].dim() == 2]:
        side = (isqrt(out[key].shape[0]) + 1) // 2
        if (2 * side - 1) ** 2 == out[key].shape[0]:
            out[key] = resize_table(out[key], (1, side, side), arch.window_size)
    return out


def fit_window(
    tensors: Mapping[str, Tensor], arch: SwinArch
) -> tuple[dict[str, Tensor], Size | None]:
    """Fit position tables of another window to `arch`'s, and tell which window that was."""
    out, source = dict(tensors), None
    for key in [key for key in out if key.endswith(_TABLE) and out[key].dim() == 2]:
        window = _window_of_table(out[key].shape[0], arch)
        if window and window != arch.window_size:
            out[key], source = resize_table(out[key], window, arch.window_size), window
    return out, source


def _window_of_table(rows: int, arch: SwinArch) -> Size | None:
    """Tell the window from a table's number of rows.

    It is a known one, or `arch`'s at another length, or a square at `arch`'s length.
    """
    for window in (arch.window_size, *(other.window_size for other in _SWINS.values())):
        if prod(2 * size - 1 for size in window) == rows:
            return window
    t, h, w = arch.window_size
    lengths, rest = divmod(rows, (2 * h - 1) * (2 * w - 1))
    if rest == 0 and lengths % 2:
        return (lengths + 1) // 2, h, w
    area, rest = divmod(rows, 2 * t - 1)
    side = (isqrt(area) + 1) // 2
    return (t, side, side) if rest == 0 and (2 * side - 1) ** 2 == area else None


def resize_table(table: Tensor, source: Size, target: Size) -> Tensor:
    """Fit a position table (rows, heads) to another window.

    Space is resized (bicubic), as Swin does. Time keeps its meaning, so many tokens apart: a
    shorter window takes the middle of the table, which changes nothing for clips that fit in it;
    a longer one repeats the outermost offsets.
    """
    if source == target:
        return table
    (t, h, w), (to_t, to_h, to_w) = (
        tuple(2 * size - 1 for size in window) for window in (source, target)
    )
    grid_TMHW = table.float().view(t, h, w, -1).permute(0, 3, 1, 2)
    if (h, w) != (to_h, to_w):
        grid_TMHW = interpolate(grid_TMHW, size=(to_h, to_w), mode="bicubic", align_corners=False)
    offsets = torch.arange(to_t) - to_t // 2 + t // 2
    return grid_TMHW[offsets.clamp(0, t - 1)].permute(0, 2, 3, 1).flatten(0, 2)
