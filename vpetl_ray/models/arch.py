"""The architectures by name. No torch, nothing is built here."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from difflib import get_close_matches
from typing import Any

from vpetl_ray.errors import VpetlError
from vpetl_ray.models.arch_base import IN_CHANNELS, Arch, BlockSite
from vpetl_ray.models.swin_arch import SwinArch
from vpetl_ray.models.vit_arch import ViTArch

__all__ = [
    "ARCHS",
    "IN_CHANNELS",
    "Arch",
    "BlockSite",
    "SwinArch",
    "ViTArch",
    "arch_from_dict",
    "arch_to_dict",
    "count_backbone",
    "get_arch",
]


def _swins() -> tuple[SwinArch, ...]:
    deep = (2, 2, 18, 2)
    return (
        SwinArch(
            name="swin3d_nano",
            embed_dim=32,
            depths=(2, 2, 2),
            num_heads=(2, 4, 8),
            window_size=(4, 4, 4),
        ),
        SwinArch(name="swin3d_t", embed_dim=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24)),
        SwinArch(name="swin3d_s", embed_dim=96, depths=deep, num_heads=(3, 6, 12, 24)),
        SwinArch(name="swin3d_b", embed_dim=128, depths=deep, num_heads=(4, 8, 16, 32)),
        SwinArch(name="swin3d_l", embed_dim=192, depths=deep, num_heads=(6, 12, 24, 48)),
        # What the published Something-Something v2 weights were trained with (window1677).
        SwinArch(
            name="swin3d_b_w16",
            embed_dim=128,
            depths=deep,
            num_heads=(4, 8, 16, 32),
            window_size=(16, 7, 7),
        ),
    )


def _vits() -> tuple[ViTArch, ...]:
    sizes = {  # channels, blocks a group, heads, pixels of a patch's side and of an image's
        "nano": (32, (2, 2, 2), 2, 4, 32),
        "b": (768, (3, 3, 3, 3), 12, 16, 224),
        "l": (1024, (6, 6, 6, 6), 16, 16, 224),
    }
    return tuple(arch for size, numbers in sizes.items() for arch in _vit_family(size, *numbers))


def _vit_family(
    size: str, dim: int, depths: tuple[int, ...], num_heads: int, patch: int, side: int
) -> tuple[ViTArch, ...]:
    """Give one size as MAE pre-trains it, as MAE fine-tunes it, and as VideoMAE does both."""
    image = ViTArch(
        name=f"vit_{size}_mae",
        embed_dim=dim,
        depths=depths,
        num_heads=num_heads,
        patch_size=(1, patch, patch),
        clip_size=(1, side, side),
        positions="learned",
        pooling="class",
        has_class_token=True,
    )
    video = replace(
        image,
        name=f"vit_{size}_videomae",
        patch_size=(2, patch, patch),
        clip_size=(8 if size == "nano" else 16, side, side),
        positions="fixed",
        pooling="mean",
        has_class_token=False,
        has_key_bias=False,
    )
    return image, replace(image, name=f"vit_{size}_mae_mean", pooling="mean"), video


_FAMILIES: Mapping[str, type[SwinArch] | type[ViTArch]] = {"swin": SwinArch, "vit": ViTArch}

ARCHS: Mapping[str, Arch] = {arch.name: arch for arch in (*_swins(), *_vits())}


def get_arch(name: str) -> Arch:
    """Look up the architecture called `name`.

    Raises:
        VpetlError: there is none; the message names the nearest and all that exist.

    """
    if name in ARCHS:
        return ARCHS[name]
    near = get_close_matches(name, ARCHS, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise VpetlError(f"unknown architecture {name!r}: {hint}known are {', '.join(ARCHS)}")


def arch_to_dict(arch: Arch) -> dict[str, Any]:
    """JSON-able, and all that `arch_from_dict` needs."""
    families: dict[type[Arch], str] = {kind: family for family, kind in _FAMILIES.items()}
    return {"family": families[type(arch)], **asdict(arch)}


def arch_from_dict(fields: Mapping[str, Any]) -> Arch:
    """Rebuild what `arch_to_dict` gave, also after a way through JSON.

    Raises:
        KeyError, TypeError, ValueError: it is something else.

    """
    rest = dict(fields)
    family = _FAMILIES[rest.pop("family", "swin")]  # files of before there was a second have none
    return family.from_dict(rest)


def count_backbone(arch: Arch) -> int:
    """Parameters of the backbone without its classifier, by arithmetic (Swin-B: 87 638 984)."""
    return sum(tensor.size for tensor in arch.own_tensors())
