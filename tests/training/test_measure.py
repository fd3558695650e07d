from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from toy_training import BAPAT, LAST_STAGE, RECIPE, FakeClips

from vpetl_ray.models.backbone import Backbone
from vpetl_ray.petl.attach import attach
from vpetl_ray.petl.config import PetlConfig
from vpetl_ray.petl.methods import FullConfig
from vpetl_ray.training import measure
from vpetl_ray.training.measure import measure_latency, measure_step_memory, peak_allocation
from vpetl_ray.training.recipe import Recipe

CPU = torch.device("cpu")
FULL = PetlConfig(methods=(FullConfig(),))


@pytest.fixture(scope="module")
def clip() -> torch.Tensor:
    return FakeClips(1, seed=1).batch([0], epoch=0, train=False)


def memory(
    model: Backbone,
    config: PetlConfig,
    clip: torch.Tensor,
    recipe: Recipe = RECIPE,
    batch_size: int = 8,
) -> float:
    attached = attach(model, config, seed=0)
    found = measure_step_memory(attached, clip, recipe, batch_size=batch_size)
    attached.detach()
    return found


def test_peak_is_the_most_that_was_held_at_once():
    def run() -> None:
        first = torch.zeros(1_000_000)
        second = torch.zeros(500_000)
        del first
        third = torch.zeros(250_000)
        del second, third

    assert peak_allocation(run, CPU) == 4 * 1_500_000


def test_peak_does_not_count_what_was_there_before():
    held = [torch.zeros(1_000_000)]

    def run() -> None:
        held.clear()
        torch.zeros(10)

    assert peak_allocation(run, CPU) <= 4 * 64


@pytest.mark.parametrize("model", ["swin", "vit"], indirect=True)
def test_memory_of_a_step_is_what_is_trained_and_how_deep(model: Backbone, clip: torch.Tensor):
    last = memory(model, LAST_STAGE, clip)
    everywhere = memory(model, BAPAT, clip)
    full = memory(model, FULL, clip)
    assert last < everywhere < full
    assert memory(model, BAPAT, clip) == everywhere


def test_memory_grows_with_the_batch_and_the_optimiser(model: Backbone, clip: torch.Tensor):
    num_trained = sum(parameter.numel() for parameter in model.parameters())
    adam = memory(model, FULL, clip)
    momentum = memory(model, FULL, clip, replace(RECIPE, optimizer="sgd"))
    plain = memory(model, FULL, clip, replace(RECIPE, optimizer="sgd", momentum=0.0))
    one_more = pytest.approx(4 * num_trained / 1e6)
    assert adam - momentum == one_more
    assert momentum - plain == one_more
    small, large = (memory(model, BAPAT, clip, batch_size=size) for size in (16, 32))
    assert small + 16 * clip.numel() / 1e6 < large < 2 * small


def test_measuring_leaves_no_trace(model: Backbone, clip: torch.Tensor):
    model.train()
    attached = attach(model, BAPAT, seed=0)
    model.set_drop_path(0.5)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(3)
    generator = torch.get_rng_state()
    measure_step_memory(attached, clip, replace(RECIPE, drop_path=0.5), batch_size=2)
    measure_latency(model, clip, "fp32")
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.training
    model.set_drop_path(0.0)


def test_latency_is_the_median_of_runs_after_warm_up(
    model: Backbone, clip: torch.Tensor, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(measure, "MIN_RUNS", 5)
    monkeypatch.setattr(measure, "ENOUGH_SECONDS", 1e-9)
    forwards: list[int] = []
    handle = model.register_forward_hook(lambda *_: forwards.append(1))
    found = measure_latency(model, clip, "bf16", clock=ticks([0.004, 0.002, 9.0, 0.003, 0.001]))
    handle.remove()
    assert found == pytest.approx(3.0)
    assert len(forwards) == measure.NUM_WARM_UP + 5


def test_fast_forwards_are_repeated_until_it_is_enough(model: Backbone, clip: torch.Tensor):
    seconds = [measure.ENOUGH_SECONDS / 50] * 50 + [1.0]
    assert measure_latency(model, clip, "fp32", clock=ticks(seconds)) == pytest.approx(10.0)


class ticks:  # noqa: N801 - used as a function
    """A clock by which the runs take so long, one after another."""

    def __init__(self, seconds: list[float]) -> None:
        self._times = self._readings(seconds)

    def __call__(self) -> float:
        return next(self._times)

    def _readings(self, seconds: list[float]) -> Iterator[float]:
        now = 0.0
        for duration in seconds:
            yield now
            now += duration
            yield now
