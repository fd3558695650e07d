from collections.abc import Callable

import pytest
import torch
from torch import nn
from torchvision.models.video.swin_transformer import SwinTransformer3d

from vpetl_ray.models.arch import SwinArch
from vpetl_ray.models.video_swin import VideoSwin

TOY = SwinArch(name="toy", embed_dim=16, depths=(2, 2), num_heads=(2, 4), window_size=(4, 3, 3))


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
