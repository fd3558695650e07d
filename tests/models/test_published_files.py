"""Files as they are published, at their true sizes: names and shapes written out by hand here.

Weights are one zero that is read over and over, and the models have no memory, so that even the
large ones take no time. That values land where they belong is tested on toys.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision.models.video import swin3d_b, swin3d_s

from vpetl_ray.models.arch import ARCHS, count_backbone, get_arch
from vpetl_ray.models.build import build_model
from vpetl_ray.models.checkpoints import load_backbone

Shapes = Iterator[tuple[str, tuple[int, ...]]]
SWINS = {
    "tiny": (96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "small": (96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "base": (128, (2, 2, 18, 2), (4, 8, 16, 32)),
    "large": (192, (2, 2, 18, 2), (6, 12, 24, 48)),
}
VITS = {"base": (768, 12), "large": (1024, 24)}


def layer(name: str, *shape: int) -> Shapes:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def swin(size: str, window: tuple[int, ...], patch: tuple[int, ...]) -> Shapes:
    dim, depths, heads = SWINS[size]
    rows, tokens = 1, 1
    for side in window:
        rows, tokens = rows * (2 * side - 1), tokens * side
    yield from layer("patch_embed.proj", dim, 3, *patch)
    yield from layer("patch_embed.norm", dim)
    for stage, depth in enumerate(depths):
        width = dim * 2**stage
        for number in range(depth):
            block = f"layers.{stage}.blocks.{number}"
            yield from layer(f"{block}.norm1", width)
            yield f"{block}.attn.relative_position_bias_table", (rows, heads[stage])
            yield f"{block}.attn.relative_position_index", (tokens, tokens)
            yield from layer(f"{block}.attn.qkv", 3 * width, width)
            yield from layer(f"{block}.attn.proj", width, width)
            yield from layer(f"{block}.norm2", width)
            yield from layer(f"{block}.mlp.fc1", 4 * width, width)
            yield from layer(f"{block}.mlp.fc2", width, 4 * width)
            if len(window) == 2 and number % 2 and stage < 3:
                yield f"{block}.attn_mask", ((8 >> stage) ** 2, tokens, tokens)
        if stage < 3:
            yield f"layers.{stage}.downsample.reduction.weight", (2 * width, 4 * width)
            yield from layer(f"layers.{stage}.downsample.norm", 4 * width)
    yield from layer("norm", 8 * dim)


def video_swin(size: str, window: tuple[int, ...], classes: int) -> dict[str, object]:
    """Video Swin: `state_dict`, `backbone.` and `cls_head.fc_cls`."""
    shapes = {f"backbone.{name}": shape for name, shape in swin(size, window, (2, 4, 4))}
    shapes |= dict(layer("cls_head.fc_cls", classes, 8 * SWINS[size][0]))
    return {"meta": {"epoch": 30}, "state_dict": filled(shapes)}


def image_swin(size: str, side: int) -> dict[str, object]:
    """Swin on ImageNet-22K: `model`, a 2D patch and window, 21 841 classes."""
    shapes = dict(swin(size, (side, side), (4, 4)))
    return {"model": filled(shapes | dict(layer("head", 21_841, 8 * SWINS[size][0])))}


def vit(size: str, patch: tuple[int, ...], *, has_key_bias: bool) -> Shapes:
    dim, depth = VITS[size]
    yield from layer("patch_embed.proj", dim, 3, *patch)
    for number in range(depth):
        block = f"blocks.{number}"
        yield from layer(f"{block}.norm1", dim)
        yield f"{block}.attn.qkv.weight", (3 * dim, dim)
        if has_key_bias:
            yield f"{block}.attn.qkv.bias", (3 * dim,)
        else:
            yield f"{block}.attn.q_bias", (dim,)
            yield f"{block}.attn.v_bias", (dim,)
        yield from layer(f"{block}.attn.proj", dim, dim)
        yield from layer(f"{block}.norm2", dim)
        yield from layer(f"{block}.mlp.fc1", 4 * dim, dim)
        yield from layer(f"{block}.mlp.fc2", dim, 4 * dim)


def decoder(prefix: str) -> Shapes:
    """Some of what pre-training alone needs."""
    yield "mask_token", (1, 1, 512)
    yield from layer(f"{prefix}.0.attn.proj", 512, 512)
    yield from layer(f"{prefix}.0.mlp.fc1", 2048, 512)


def mae(size: str, *, is_fine_tuned: bool) -> dict[str, object]:
    """MAE: `model`; pre-trained with `norm` and a decoder, fine-tuned with `fc_norm` and `head`."""
    dim, _ = VITS[size]
    shapes = {"cls_token": (1, 1, dim), "pos_embed": (1, 197, dim)}
    shapes |= dict(vit(size, (16, 16), has_key_bias=True))
    if is_fine_tuned:
        shapes |= dict(layer("fc_norm", dim)) | dict(layer("head", 1000, dim))
    else:
        shapes |= dict(layer("norm", dim)) | dict(decoder("decoder_blocks"))
        shapes |= {"decoder_pos_embed": (1, 197, 512)}
    return {"model": filled(shapes)}


def videomae_pre_trained(size: str) -> dict[str, object]:
    """VideoMAE: `model`, `encoder.` and `decoder.`."""
    dim, _ = VITS[size]
    encoder = dict(vit(size, (2, 16, 16), has_key_bias=False)) | dict(layer("norm", dim))
    shapes = {f"encoder.{name}": shape for name, shape in encoder.items()}
    shapes |= dict(decoder("decoder.blocks")) | {"encoder_to_decoder.weight": (512, dim)}
    return {"model": filled(shapes), "epoch": 1600}


def videomae_fine_tuned(size: str, classes: int) -> dict[str, object]:
    """VideoMAE: DeepSpeed's `module`, `fc_norm` and `head`."""
    dim, _ = VITS[size]
    shapes = dict(vit(size, (2, 16, 16), has_key_bias=False))
    shapes |= dict(layer("fc_norm", dim)) | dict(layer("head", classes, dim))
    return {"module": filled(shapes)}


def filled(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    return {name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}


INFLATED = "2D weights were inflated over time"
NEW_NORM = "the norm behind the mean of the patches starts new, as in fine-tuning"
FILES = {
    "swin_tiny_patch244_window877_kinetics400_1k": (
        lambda: video_swin("tiny", (8, 7, 7), 400), "swin3d_t", "classifier of 400"),
    "swin_small_patch244_window877_kinetics400_1k": (
        lambda: video_swin("small", (8, 7, 7), 400), "swin3d_s", "classifier of 400"),
    "swin_base_patch244_window877_kinetics400_22k": (
        lambda: video_swin("base", (8, 7, 7), 400), "swin3d_b", "classifier of 400"),
    "swin_base_patch244_window877_kinetics600_22k": (
        lambda: video_swin("base", (8, 7, 7), 600), "swin3d_b", "classifier of 600"),
    "swin_base_patch244_window1677_sthv2": (
        lambda: video_swin("base", (16, 7, 7), 174), "swin3d_b_w16", "classifier of 174"),
    "swin_base_patch244_window1677_sthv2 for 8 tokens of time": (
        lambda: video_swin("base", (16, 7, 7), 174), "swin3d_b", "window (16, 7, 7) were fitted"),
    "swin_large_384_patch244_window81212_kinetics600_22k": (
        lambda: video_swin("large", (8, 12, 12), 600), "swin3d_l", "(8, 12, 12) were fitted"),
    "swin_tiny_patch4_window7_224_22k": (lambda: image_swin("tiny", 7), "swin3d_t", INFLATED),
    "swin_small_patch4_window7_224_22k": (lambda: image_swin("small", 7), "swin3d_s", INFLATED),
    "swin_base_patch4_window7_224_22k": (lambda: image_swin("base", 7), "swin3d_b", INFLATED),
    "swin_base_patch4_window12_384_22k": (lambda: image_swin("base", 12), "swin3d_b", INFLATED),
    "swin_large_patch4_window12_384_22k": (lambda: image_swin("large", 12), "swin3d_l", INFLATED),
    "mae_pretrain_vit_base": (lambda: mae("base", is_fine_tuned=False), "vit_b_mae", ""),
    "mae_pretrain_vit_base read by its mean": (
        lambda: mae("base", is_fine_tuned=False), "vit_b_mae_mean", NEW_NORM),
    "mae_pretrain_vit_large": (lambda: mae("large", is_fine_tuned=False), "vit_l_mae", ""),
    "mae_finetuned_vit_base": (
        lambda: mae("base", is_fine_tuned=True), "vit_b_mae_mean", "classifier of 1000"),
    "videomae vit_b pre-trained": (
        lambda: videomae_pre_trained("base"), "vit_b_videomae", NEW_NORM),
    "videomae vit_b fine-tuned on Kinetics": (
        lambda: videomae_fine_tuned("base", 400), "vit_b_videomae", "classifier of 400"),
    "videomae vit_b fine-tuned on SSv2": (
        lambda: videomae_fine_tuned("base", 174), "vit_b_videomae", "classifier of 174"),
    "videomae vit_l fine-tuned on Kinetics": (
        lambda: videomae_fine_tuned("large", 400), "vit_l_videomae", "classifier of 400"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "arch", "note"), FILES.values(), ids=FILES)
def test_published_file_fits_its_architecture(make, arch: str, note: str, tmp_path: Path):
    torch.save(make(), tmp_path / "published.pth")
    with torch.device("meta"):
        model = build_model(get_arch(arch), 51)
    report = load_backbone(model, tmp_path / "published.pth")
    assert report.num_parameters == count_backbone(get_arch(arch))
    assert note in " ".join(report.notes)


@pytest.mark.parametrize("build", [swin3d_s, swin3d_b], ids=lambda build: build.__name__)
def test_torchvisions_file_fits_its_architecture(build, tmp_path: Path):
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in build().state_dict().items()}
        model = build_model(get_arch(build.__name__), 51)
    torch.save(filled(shapes), tmp_path / "torchvision.pth")
    report = load_backbone(model, tmp_path / "torchvision.pth")
    assert report.format == "torchvision swin3d"
    assert report.num_parameters == count_backbone(model.arch)


@pytest.mark.parametrize("name", [name for name in ARCHS if "nano" not in name])
def test_true_architecture_runs_at_8_16_and_32_frames(name: str):
    with torch.device("meta"):
        model = build_model(get_arch(name), 51).eval()
        for frames in (8, 16, 32):
            assert model(torch.empty(2, 3, frames, 32, 32)).shape == (2, 51)
