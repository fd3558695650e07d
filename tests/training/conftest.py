import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from toy_training import ARCHS, FakeClips, toy_model

from vpetl_ray.models.backbone import Backbone


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def _shared_models() -> dict[str, Backbone]:
    return {family: toy_model(family) for family in ARCHS}


@pytest.fixture
def model(
    request: pytest.FixtureRequest, _shared_models: dict[str, Backbone]
) -> Iterator[Backbone]:
    """A toy backbone, a Swin if nothing else is asked for, that is given back as it was."""
    model = _shared_models[getattr(request, "param", "swin")]
    yield model
    attached = getattr(model, "_attached", None)
    if attached is not None:
        attached.detach()


@pytest.fixture
def train() -> FakeClips:
    return FakeClips(50, seed=1)


@pytest.fixture
def val() -> FakeClips:
    return FakeClips(22, seed=2)
