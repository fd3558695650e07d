import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from method_examples import examples_for

from vpetl_ray.models.arch import Arch, ViTArch, get_arch
from vpetl_ray.models.backbone import Backbone
from vpetl_ray.models.build import build_model
from vpetl_ray.petl.methods import MethodConfig

NUM_CLASSES = 5
BACKBONES = ("swin3d_nano", "vit_nano_mae", "vit_nano_videomae")
"""One of each kind: windows, class token and learned positions, mean and no key bias."""


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "every_backbone: run on one backbone of each kind")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run on every backbone, and for a test of methods on every example that fits it."""
    if metafunc.definition.get_closest_marker("every_backbone") is None:
        return
    if "method" in metafunc.fixturenames:
        cases = [
            pytest.param(backbone, config, id=f"{name}-{backbone}")
            for backbone in BACKBONES
            for name, config in examples_for(get_arch(backbone)).items()
        ]
        metafunc.parametrize(("arch", "method"), cases, indirect=True)
    elif "arch" in metafunc.fixturenames:
        metafunc.parametrize("arch", BACKBONES, indirect=True)


@pytest.fixture(scope="session")
def nano() -> Arch:
    return get_arch("swin3d_nano")


@pytest.fixture
def arch(request: pytest.FixtureRequest) -> Arch:
    return get_arch(getattr(request, "param", "swin3d_nano"))


@pytest.fixture(scope="session")
def _shared_models() -> dict[str, Backbone]:
    torch.manual_seed(0)
    return {name: build_model(get_arch(name), NUM_CLASSES).eval() for name in BACKBONES}


@pytest.fixture
def model(arch: Arch, _shared_models: dict[str, Backbone]) -> Iterator[Backbone]:
    """A nano backbone that must be given back as it was."""
    model = _shared_models[arch.name]
    yield model
    attached = getattr(model, "_attached", None)
    if attached is not None:
        attached.detach()


@pytest.fixture
def video(arch: Arch) -> torch.Tensor:
    size = arch.clip_size if isinstance(arch, ViTArch) else (8, 32, 32)
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def method(request: pytest.FixtureRequest, arch: Arch) -> MethodConfig:
    config: MethodConfig = request.param
    config.check(arch)
    return config
