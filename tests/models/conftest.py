from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn
from torchvision.models.video.swin_transformer import SwinTransformer3d

from vpetl_ray.models.arch import Arch, SwinArch, ViTArch
from vpetl_ray.models.backbone import Backbone
from vpetl_ray.models.build import build_model
from vpetl_ray.models.video_swin import VideoSwin

TOY = SwinArch(name="toy", embed_dim=16, depths=(2, 2), num_heads=(2, 4), window_size=(4, 3, 3))
TOY_MAE = ViTArch(
    name="toy_mae",
    embed_dim=16,
    depths=(1, 2),
    num_heads=2,
    patch_size=(1, 4, 4),
    clip_size=(1, 16, 16),
    positions="learned",
    pooling="class",
    has_class_token=True,
)
TOY_MAE_MEAN = replace(TOY_MAE, name="toy_mae_mean", pooling="mean")
TOY_VIDEOMAE = replace(
    TOY_MAE,
    name="toy_videomae",
    patch_size=(2, 4, 4),
    clip_size=(16, 16, 16),
    positions="fixed",
    pooling="mean",
    has_class_token=False,
    has_key_bias=False,
)
TOYS: dict[str, tuple[Arch, tuple[int, int, int]]] = {
    "swin": (TOY, (8, 24, 24)),
    "mae": (TOY_MAE, (1, 16, 16)),
    "mae of another size": (TOY_MAE, (3, 20, 24)),
    "mae mean": (TOY_MAE_MEAN, (1, 16, 16)),
    "videomae": (TOY_VIDEOMAE, (16, 16, 16)),
    "videomae of another size": (TOY_VIDEOMAE, (8, 20, 24)),
}
"""Toy backbones, and sizes of clips (frames, height, width) to try them at."""


@pytest.fixture(autouse=True)
def _one_thread_and_a_seed():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shaken() -> Callable[[nn.Module], nn.Module]:
    return _shaken


@pytest.fixture(scope="session")
def toy_arch() -> SwinArch:
    return TOY


@pytest.fixture(scope="session")
def torchvision_twin() -> Callable[[SwinArch, int], nn.Module]:
    return _torchvision_twin


@pytest.fixture
def toy() -> VideoSwin:
    return _shaken(VideoSwin(TOY, 5)).eval()


@pytest.fixture(scope="session")
def toy_mae() -> ViTArch:
    return TOY_MAE


@pytest.fixture(scope="session")
def toy_mae_mean() -> ViTArch:
    return TOY_MAE_MEAN


@pytest.fixture(scope="session")
def toy_videomae() -> ViTArch:
    return TOY_VIDEOMAE


@pytest.fixture(params=TOYS.values(), ids=TOYS)
def backbone_and_video(request: pytest.FixtureRequest) -> tuple[Backbone, torch.Tensor]:
    """Every family, at more than one clip size."""
    arch, size = request.param
    return _shaken(build_model(arch, 5)).eval(), torch.randn(2, 3, *size)


def _shaken(module: nn.Module) -> nn.Module:
    """Move every parameter off its starting value, so that no bias or norm hides a mistake."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return module


def _torchvision_twin(arch: SwinArch, num_classes: int) -> nn.Module:
    model = SwinTransformer3d(
        patch_size=list(arch.patch_size),
        embed_dim=arch.embed_dim,
        depths=list(arch.depths),
        num_heads=list(arch.num_heads),
        window_size=list(arch.window_size),
        stochastic_depth_prob=0.0,
        num_classes=num_classes,
    )
    return _shaken(model).eval()


@pytest.fixture
def add_branch() -> Callable[[nn.ModuleList], list[tuple[torch.Tensor, torch.Tensor]]]:
    """Put a branch that changes nothing into a seam, and return what it is called with."""

    class Spy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls: list[tuple[torch.Tensor, torch.Tensor]] = []
            self.gate = nn.Parameter(torch.zeros(()))

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            self.calls.append((x, y))
            return y + self.gate

    def add(seam: nn.ModuleList) -> list[tuple[torch.Tensor, torch.Tensor]]:
        spy = Spy()
        seam.append(spy)
        return spy.calls

    return add
