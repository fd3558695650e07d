import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from toy_training import FakeClips, toy_model

from vpetl_ray.models.video_swin import VideoSwin


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def _shared_model() -> VideoSwin:
    return toy_model()


@pytest.fixture
def model(_shared_model: VideoSwin) -> Iterator[VideoSwin]:
    """A toy backbone that is given back as it was."""
    yield _shared_model
    attached = getattr(_shared_model, "_attached", None)
    if attached is not None:
        attached.detach()


@pytest.fixture
def train() -> FakeClips:
    return FakeClips(50, seed=1)


@pytest.fixture
def val() -> FakeClips:
    return FakeClips(22, seed=2)
