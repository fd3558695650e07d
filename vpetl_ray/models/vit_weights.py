"""ViT weights as MAE, VideoMAE and others publish them, made those of a `VisionTransformer`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt

import torch
from torch import Tensor

from vpetl_ray.errors import CheckpointError
from vpetl_ray.models.arch import ARCHS, ViTArch
from vpetl_ray.models.arch_base import Size
from vpetl_ray.models.positions import resize_positions
from vpetl_ray.models.vit_keys import rename
from vpetl_ray.models.weight_family import OURS, Network, WeightFamily

_PATCH = "patch_embed.proj.weight"
_POSITIONS = "pos_embed"
_VITS = {name: arch for name, arch in ARCHS.items() if isinstance(arch, ViTArch)}


@dataclass(frozen=True, kw_only=True)
class ViTNetwork(Network):
    """What the shapes of ViT weights tell; the number of heads is not among it."""

    embed_dim: int
    depth: int
    patch_size: Size

    @property
    def names(self) -> tuple[str, ...]:
        """The known architectures that fit; several when they differ in how they pool."""
        return tuple(name for name, arch in _VITS.items() if _shown_by(arch) == self)

    @property
    def widths(self) -> tuple[object, ...]:
        """Channels and patch."""
        return self.embed_dim, self.patch_size

    @property
    def numbers(self) -> str:
        """The numbers, for a message."""
        patch = " x ".join(map(str, self.patch_size))
        return f"embed_dim {self.embed_dim}, depth {self.depth}, patch {patch}"


def _shown_by(arch: ViTArch) -> ViTNetwork:
    return ViTNetwork(embed_dim=arch.embed_dim, depth=sum(arch.depths), patch_size=arch.patch_size)


class ViTWeights(WeightFamily[ViTArch]):
    """ViT in any of the formats above."""

    name = "ViT"

    def canonical(
        self, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
    ) -> tuple[str, dict[str, Tensor]]:
        """Tell the format and give the tensors `VisionTransformer`'s names.

        What the last norm is called stays: `norm`, or `fc_norm` behind a mean. `fit` needs to know.
        """
        found, named = rename(tensors)
        if _PATCH in named and named[_PATCH].dim() == 4:
            named[_PATCH] = named[_PATCH][:, :, None]  # an image is a clip of one frame
        return (OURS if metadata.get("format") == OURS else found), named

    def network_of_arch(self, arch: ViTArch) -> ViTNetwork:
        """Give the numbers of `arch` that weights can be recognised by."""
        return _shown_by(arch)

    def network_of_weights(self, tensors: Mapping[str, Tensor]) -> ViTNetwork | None:
        """Recognise the network that canonical `tensors` belong to; None if they are no ViT."""
        blocks = {found[1] for key in tensors if (found := re.match(r"blocks\.(\d+)\.", key))}
        patch = tensors.get(_PATCH)
        if patch is None or patch.dim() != 5 or not blocks:
            return None
        dim, _, t, h, w = patch.shape
        return ViTNetwork(embed_dim=dim, depth=len(blocks), patch_size=(t, h, w))

    def known_arch(self, tensors: Mapping[str, Tensor]) -> ViTArch | None:
        """Tell which known architecture these are; the last norm decides how they pool."""
        network = self.network_of_weights(tensors)
        fitting = [_VITS[name] for name in network.names] if network else []
        is_mean = "fc_norm.weight" in tensors
        same_pooling = [arch for arch in fitting if (arch.pooling == "mean") == is_mean]
        return next(iter(same_pooling or fitting), None)

    def fit(
        self, found: str, tensors: Mapping[str, Tensor], arch: ViTArch
    ) -> tuple[dict[str, Tensor], list[str]]:
        """Give the last norm its place and learned positions their size."""
        fitted = dict(tensors)
        notes = _fit_norm(fitted, arch) if found != OURS else []
        return fitted, notes + _fit_positions(fitted, arch)


def _fit_norm(tensors: dict[str, Tensor], arch: ViTArch) -> list[str]:
    """Name the norm behind the pooling `norm`, whatever stands for it in the file."""
    fine_tuned = {key: tensors.pop(key) for key in _keys("fc_norm") if key in tensors}
    if fine_tuned and arch.pooling == "class":
        means = [name for name, other in _VITS.items() if _is_mean_twin(other, arch)]
        hint = f"; the architecture for that is {means[0]}" if means else ""
        raise CheckpointError(
            f"these weights were fine-tuned to read the mean of the patches (fc_norm), "
            f"{arch.name} reads the class token{hint}"
        )
    if arch.pooling == "class":
        return []
    has_encoder_norm = any(tensors.pop(key, None) is not None for key in _keys("norm"))
    if fine_tuned:
        tensors.update({key.removeprefix("fc_"): tensor for key, tensor in fine_tuned.items()})
        return []
    weight, bias = _keys("norm")
    tensors[weight] = torch.ones(arch.embed_dim)
    tensors[bias] = torch.zeros(arch.embed_dim)
    left_out = "; the encoder's own norm was left out" if has_encoder_norm else ""
    return [f"the norm behind the mean of the patches starts new, as in fine-tuning{left_out}"]


def _fit_positions(tensors: dict[str, Tensor], arch: ViTArch) -> list[str]:
    """Resize learned positions of another image size, and drop those that are computed here."""
    if arch.positions == "fixed":
        tensors.pop(_POSITIONS, None)
        return []
    table = tensors.get(_POSITIONS)
    num_class = int(arch.has_class_token)
    if table is None or table.dim() != 3 or table.shape[1] in {num_class, arch.window_tokens}:
        return []
    side = isqrt(max(table.shape[1] - num_class, 0))
    if len(table) != 1 or side == 0 or side * side != table.shape[1] - num_class:
        return []  # the wrong shape is told with those of all others
    rows_NC = resize_positions(table[0, num_class:], (1, side, side), arch.grid)
    tensors[_POSITIONS] = torch.cat((table[:, :num_class], rows_NC[None]), 1)
    _, h, w = arch.grid
    return [f"positions of {side} x {side} patches were fitted to {h} x {w}"]


def _is_mean_twin(other: ViTArch, arch: ViTArch) -> bool:
    return other.pooling == "mean" and _shown_by(other) == _shown_by(arch)


def _keys(norm: str) -> tuple[str, str]:
    return f"{norm}.weight", f"{norm}.bias"
