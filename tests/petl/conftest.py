from collections.abc import Iterator

import pytest
import torch

from vpetl_ray.errors import VpetlError
from vpetl_ray.models.arch import Arch, ViTArch, get_arch
from vpetl_ray.models.backbone import Backbone
from vpetl_ray.models.build import build_model
from vpetl_ray.petl.methods import (
    AdapterConfig,
    BitFitConfig,
    FullConfig,
    LoraConfig,
    MethodConfig,
    PattConcatConfig,
    PattConfig,
    PattNoZConfig,
    PositionConfig,
    PrefixConfig,
    PromptConfig,
    StAdapterConfig,
)

NUM_CLASSES = 5
BACKBONES = ("swin3d_nano", "vit_nano_mae", "vit_nano_videomae")
"""One of each kind: windows, class token and learned positions, mean and no key bias."""

# One example or more of every method; the contract tests run over them, and one of them checks
# that no method of the table is left out.
EXAMPLES: dict[str, MethodConfig] = {
    "adapter parallel": AdapterConfig(d_bottle=3),
    "adapter sequential": AdapterConfig(d_bottle=3, placement="sequential", activation="gelu"),
    "adapter learned scale": AdapterConfig(d_bottle=2, scale="learned", stages=(2,)),
    "patt k v": PattConfig(targets=("k", "v"), d_bottle=4),
    "patt q v": PattConfig(targets=("q", "v"), d_bottle=4, activation="relu"),
    "patt q k v learned": PattConfig(targets=("q", "k", "v"), d_bottle=2, scale="learned"),
    "patt v stage 3": PattConfig(targets=("v",), d_bottle=2, stages=(3,)),
    "full": FullConfig(),
    "full stage 3": FullConfig(stages=(3,)),
    "position qkv": PositionConfig(kinds=("qkv",)),
    "position norms and mlp": PositionConfig(kinds=("fc2", "norm1", "norm2", "fc1"), stages=(2, 3)),
    "position rel_pos proj": PositionConfig(kinds=("rel_pos", "proj")),
    "position downsample": PositionConfig(kinds=("downsample",)),
    "bitfit": BitFitConfig(),
    "lora q v": LoraConfig(targets=("q", "v"), rank=2),
    "lora everywhere": LoraConfig(
        targets=("q", "k", "v", "proj", "fc1", "fc2"), rank=2, alpha="learned"
    ),
    "lora fc1 alpha stage 2": LoraConfig(targets=("fc1",), rank=3, alpha=6.0, stages=(2,)),
    "st_adapter": StAdapterConfig(d_bottle=3),
    "st_adapter sequential 3x3x3": StAdapterConfig(
        d_bottle=2, kernel="3x3x3", placement="sequential", scale="learned", activation="tanh"
    ),
    "prefix": PrefixConfig(num_tokens=3, d_middle=4),
    "patt_concat": PattConcatConfig(d_bottle=3),
    "patt_concat learned stage 3": PattConcatConfig(d_bottle=2, scale="learned", stages=(3,)),
    "patt_no_z": PattNoZConfig(targets=("k", "v"), d_bottle=3),
    "patt_no_z of few tokens": PattNoZConfig(targets=("q", "v"), d_bottle=3, num_tokens=7),
    "prompt deep": PromptConfig(num_tokens=3),
    "prompt shallow": PromptConfig(num_tokens=20, depth="shallow", stages=(1,)),
    "prompt overlapping": PromptConfig(num_tokens=3, way="overlap", stages=(2, 3)),
    "bitfit with rel_pos stages 1 3": BitFitConfig(rel_pos=True, stages=(1, 3)),
}


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "every_backbone: run on one backbone of each kind")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    wants_all = metafunc.definition.get_closest_marker("every_backbone") is not None
    if wants_all and "arch" in metafunc.fixturenames:
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


@pytest.fixture(params=list(EXAMPLES.values()), ids=list(EXAMPLES))
def method(request: pytest.FixtureRequest, arch: Arch) -> MethodConfig:
    config: MethodConfig = request.param
    try:
        config.check(arch)
    except VpetlError as error:
        pytest.skip(str(error))
    return config


@pytest.fixture(scope="session")
def examples() -> dict[str, MethodConfig]:
    return EXAMPLES
