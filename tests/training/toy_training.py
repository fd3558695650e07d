"""A backbone and clips small enough to train in a test; also imported by the DDP worker."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from method_examples import examples_for

from vpetl_ray.models.arch import Arch, SwinArch, ViTArch
from vpetl_ray.models.backbone import Backbone
from vpetl_ray.models.build import build_model
from vpetl_ray.petl.config import PetlConfig
from vpetl_ray.petl.methods import (
    AdapterConfig,
    BitFitConfig,
    LoraConfig,
    PattConcatConfig,
    PattConfig,
    PattNoZConfig,
    PositionConfig,
    PrefixConfig,
    PromptConfig,
    StAdapterConfig,
)
from vpetl_ray.training.recipe import Recipe

NUM_CLASSES = 3
ARCH = SwinArch(name="toy", embed_dim=16, depths=(2, 2), num_heads=(2, 4), window_size=(2, 2, 2))
VIT = ViTArch(
    name="toy_vit",
    embed_dim=16,
    depths=(1, 1),
    num_heads=2,
    patch_size=(2, 4, 4),
    clip_size=(4, 16, 16),
    positions="fixed",
    pooling="mean",
    has_class_token=False,
    has_key_bias=False,
)
ARCHS = {"swin": ARCH, "vit": VIT}
# Six blocks in three stages, as the examples of methods want them, and one more kind of ViT.
FAMILIES: dict[str, Arch] = {
    "swin": replace(ARCH, depths=(2, 2, 2), num_heads=(2, 4, 4)),
    "videomae": replace(VIT, depths=(2, 2, 2)),
    "mae": replace(
        VIT,
        depths=(2, 2, 2),
        patch_size=(1, 8, 8),
        clip_size=(1, 16, 16),
        positions="learned",
        pooling="class",
        has_class_token=True,
        has_key_bias=True,
    ),
}
MIX = PetlConfig(
    methods=(
        LoraConfig(targets=("q", "proj", "fc1", "fc2"), rank=2),
        StAdapterConfig(d_bottle=2),
        PrefixConfig(num_tokens=2, d_middle=3),
        PromptConfig(num_tokens=2, way="overlap"),
        PattConcatConfig(d_bottle=2),
        PattNoZConfig(targets=("k", "v"), d_bottle=2),
        PositionConfig(kinds=("norm1",)),
        BitFitConfig(stages=(2,)),
    )
)
BAPAT = PetlConfig(
    methods=(PattConfig(targets=("k", "v"), d_bottle=4), AdapterConfig(d_bottle=4, scale=1.0))
)
LAST_STAGE = PetlConfig(methods=(AdapterConfig(d_bottle=4, scale=1.0, stages=(2,)),))
RECIPE = Recipe(learning_rate=1e-2, epochs=3, batch_size=8, eval_batch_size=16, probe_epochs=5)


def toy_model(family: str = "swin") -> Backbone:
    torch.manual_seed(0)
    return build_model(ARCHS[family], NUM_CLASSES)


class FakeClips:
    """Noise with a class's own mean colour; counts how often clips are read."""

    def __init__(self, num_clips: int, *, seed: int, train_views: int | None = 1) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.labels = torch.arange(num_clips) % NUM_CLASSES
        noise = torch.randint(0, 120, (num_clips, 4, 16, 16, 3), generator=generator)
        noise[torch.arange(num_clips), ..., self.labels] += 60
        self.clips = noise.to(torch.uint8)
        self.train_views = train_views
        self.id = f"noise{num_clips}-{seed}"
        self.num_read = 0

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Sequence[int] | Tensor, *, epoch: int, train: bool) -> Tensor:
        clips = self.clips[torch.as_tensor(indices)]
        self.num_read += len(clips)
        is_flipped = train and self.train_views != 1 and epoch % 2 == 1
        return clips.flip(3) if is_flipped else clips


class FakeViews(FakeClips):
    """Clips of which every view is another one: the clip with some of its frames blackened."""

    num_views = 3

    def batch_view(self, indices: Sequence[int] | Tensor, number: int) -> Tensor:
        clips = self.clips[torch.as_tensor(indices)].clone()
        clips[:, number] = 0
        return clips


def configs_for(family: str) -> dict[str, PetlConfig]:
    """Name every method's examples that fit, and a mix of most of them."""
    examples = examples_for(FAMILIES[family])
    return {name: PetlConfig(methods=(method,)) for name, method in examples.items()} | {"mix": MIX}


EVERY_METHOD = [(family, name) for family in FAMILIES for name in configs_for(family)]
"""(family, name of a config) of everything that the contract tests train."""


def family_model(family: str) -> Backbone:
    torch.manual_seed(0)
    return build_model(FAMILIES[family], NUM_CLASSES)
