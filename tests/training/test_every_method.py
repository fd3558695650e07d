"""What training must keep for every method on every family of backbones."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache

import pytest
import torch
from method_examples import EXAMPLES
from toy_training import EVERY_METHOD, FAMILIES, FakeClips, configs_for, family_model

from vpetl_ray.models.backbone import Backbone
from vpetl_ray.petl.attach import attach
from vpetl_ray.petl.config import PetlConfig
from vpetl_ray.petl.methods import METHODS
from vpetl_ray.training.loop import FineTuning
from vpetl_ray.training.recipe import Recipe

# Plain SGD: a step is the gradient itself. Adam's first steps are its sign, which rounding turns
# over wherever the gradient is next to nothing.
SGD = Recipe(
    learning_rate=0.05,
    epochs=1,
    batch_size=8,
    optimizer="sgd",
    schedule="constant",
    momentum=0.0,
    probe_epochs=1,
)
ADAM = Recipe(learning_rate=5e-2, epochs=8, batch_size=12, schedule="constant")

every_method = pytest.mark.parametrize(
    ("family", "name"), EVERY_METHOD, ids=[f"{name}-{family}" for family, name in EVERY_METHOD]
)


@dataclass(frozen=True)
class Run:
    losses: list[float]
    start: Mapping[str, torch.Tensor]
    end: Mapping[str, torch.Tensor]

    @property
    def moved(self) -> torch.Tensor:
        return torch.cat([(self.end[name] - self.start[name]).flatten() for name in self.end])


@cache
def model_of(family: str) -> Backbone:
    return family_model(family)


def run(family: str, config: PetlConfig, recipe: Recipe, *, seed: int = 0, clips: int = 16) -> Run:
    model = model_of(family)
    attached = attach(model, config, seed=seed)
    try:
        start = attached.state_dict()
        train, val = FakeClips(clips, seed=1), FakeClips(2, seed=2)
        tuning = FineTuning(model, attached, train, val, recipe, seed=seed)
        losses = [tuning.run_epoch().train_loss for _ in range(tuning.num_epochs)]
        return Run(losses, start, attached.state_dict())
    finally:
        attached.detach()


@cache
def trained(family: str, name: str) -> Run:
    return run(family, configs_for(family)[name], SGD)


def test_every_family_trains_every_method_of_the_table():
    for family in FAMILIES:
        names = {method.name for c in configs_for(family).values() for method in c.methods}
        assert names == set(METHODS)
    swin = [name for family, name in EVERY_METHOD if family == "swin"]
    assert set(swin) == {*EXAMPLES, "mix"}


@every_method
def test_same_seed_trains_bit_for_bit_the_same_and_another_seed_does_not(family: str, name: str):
    first, config = trained(family, name), configs_for(family)[name]
    second, other = run(family, config, SGD), run(family, config, SGD, seed=1)
    assert first.losses == second.losses
    assert all(torch.equal(first.end[key], second.end[key]) for key in first.end)
    assert other.losses != first.losses
    assert any(not torch.equal(first.end[key], other.end[key]) for key in first.end)


@every_method
def test_going_on_from_a_state_in_another_attachment_equals_never_having_stopped(
    family: str, name: str
):
    config, model = configs_for(family)[name], model_of(family)
    recipe = replace(ADAM, epochs=2)
    expected = run(family, config, recipe, clips=8)
    clips, val = FakeClips(8, seed=1), FakeClips(2, seed=2)
    attached = attach(model, config, seed=0)
    first = FineTuning(model, attached, clips, val, recipe, seed=0)
    first.run_epoch()
    state = first.state_dict()
    attached.detach()
    attached = attach(model, config, seed=99)
    second = FineTuning(model, attached, clips, val, recipe, seed=0)
    second.load_state_dict(state)
    second.run_epoch()
    end = attached.state_dict()
    attached.detach()
    assert all(torch.equal(end[key], expected.end[key]) for key in end)


@every_method
def test_training_in_bfloat16_is_close_to_float32(family: str, name: str):
    """Two steps under the recipe's own autocast.

    bfloat16 keeps 8 bits: one rounding is off by 2^-9 at most, 0.2%. A gradient goes through some
    fifty of them on its way down and up four blocks, which add up like a random walk to 1.4%;
    seen are 0.7% at most. A wrong cast is off by far more.
    """
    exact = trained(family, name)
    rounded = run(family, configs_for(family)[name], replace(SGD, precision="bf16"))
    assert all(tensor.dtype == torch.float32 for tensor in rounded.end.values())
    assert rounded.losses == pytest.approx(exact.losses, rel=2e-3)
    assert (rounded.moved - exact.moved).norm() < 0.03 * exact.moved.norm()


@every_method
def test_method_alone_lowers_the_training_loss_within_a_few_steps(family: str, name: str):
    """Twelve clips in one batch; the classifier stays as it starts, so it cannot be what learns."""
    config = replace(configs_for(family)[name], train_classifier=False)
    losses = run(family, config, ADAM, clips=12).losses
    assert min(losses) < 0.95 * losses[0]
