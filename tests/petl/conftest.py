from collections.abc import Iterator

import pytest
import torch

from vpetl_ray.models.arch import SwinArch, get_arch
from vpetl_ray.models.video_swin import VideoSwin
from vpetl_ray.petl.methods import AdapterConfig, FullConfig, MethodConfig, PattConfig

NUM_CLASSES = 5

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
}


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def nano() -> SwinArch:
    return get_arch("swin3d_nano")


@pytest.fixture(scope="session")
def _shared_model(nano: SwinArch) -> VideoSwin:
    torch.manual_seed(0)
    return VideoSwin(nano, NUM_CLASSES).eval()


@pytest.fixture
def model(_shared_model: VideoSwin) -> Iterator[VideoSwin]:
    """A nano backbone that must be given back as it was."""
    yield _shared_model
    attached = getattr(_shared_model, "_attached", None)
    if attached is not None:
        attached.detach()


@pytest.fixture(scope="session")
def video() -> torch.Tensor:
    return torch.randn(2, 3, 8, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=list(EXAMPLES.values()), ids=list(EXAMPLES))
def method(request: pytest.FixtureRequest) -> MethodConfig:
    config: MethodConfig = request.param
    return config


@pytest.fixture(scope="session")
def examples() -> dict[str, MethodConfig]:
    return EXAMPLES
