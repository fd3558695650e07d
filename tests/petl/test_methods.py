"""The contract that every method keeps on every backbone. A new one needs an example, no test."""

from dataclasses import fields, replace

import pytest
import torch
from method_examples import EXAMPLES

from vpetl_ray.models.backbone import Backbone
from vpetl_ray.petl.attach import attach
from vpetl_ray.petl.config import PetlConfig, make_method
from vpetl_ray.petl.count import count_trainable
from vpetl_ray.petl.method import method_to_dict
from vpetl_ray.petl.methods import METHODS, MethodConfig
from vpetl_ray.petl.own_method import OwnMethod

pytestmark = pytest.mark.every_backbone


def test_every_method_of_the_table_has_an_example():
    assert {config.name for config in EXAMPLES.values()} == set(METHODS)


def test_method_computes_at_its_start_what_it_declares(
    model: Backbone, method: MethodConfig, video: torch.Tensor
):
    with torch.no_grad():
        before = model.forward_prefix(video, model.arch.num_stages)
        attach(model, PetlConfig(methods=(method,)), seed=0)
        after = model.forward_prefix(video, model.arch.num_stages)
    assert after.shape == before.shape
    assert torch.allclose(before, after, atol=1e-6) == method.identity_at_start


def test_method_changes_the_output_once_it_is_trained(
    model: Backbone, method: MethodConfig, video: torch.Tensor
):
    attached = attach(model, PetlConfig(methods=(method,)), seed=0)
    branches = {name: p for name, p in attached.trainable.items() if not name.startswith("head")}
    with torch.no_grad():
        before = model(video)
        _shake(branches, size=0.2)
        after = model(video)
    assert not torch.allclose(before, after, atol=1e-3)


def test_gradients_reach_exactly_what_the_method_declares(
    model: Backbone, method: MethodConfig, video: torch.Tensor
):
    attached = attach(model, PetlConfig(methods=(method,)), seed=0)
    _shake(attached.trainable)
    model(video).square().sum().backward()
    with_gradient = {p for p in model.parameters() if p.grad is not None}
    assert with_gradient == set(attached.trainable.values())
    unused = [
        name
        for name, parameter in attached.trainable.items()
        if parameter.grad is None or not parameter.grad.any()
    ]
    assert unused == []


def test_count_equals_what_is_built(model: Backbone, method: MethodConfig):
    config = PetlConfig(methods=(method,))
    count = count_trainable(config, model.arch, model.head.out_features)
    attached = attach(model, config, seed=0)
    assert count.total == sum(p.numel() for p in attached.trainable.values())
    assert all(part == "classifier" or part.startswith(method.name) for part in count.parts)


def test_detach_gives_the_model_back_bit_for_bit(
    model: Backbone, method: MethodConfig, video: torch.Tensor
):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    grads = {name: p.requires_grad for name, p in model.named_parameters()}
    attached = attach(model, PetlConfig(methods=(method,)), seed=0)
    _shake(attached.trainable)
    model(video).sum().backward()
    attached.detach()
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert {name: p.requires_grad for name, p in model.named_parameters()} == grads
    assert all(p.grad is None for p in model.parameters())


def test_state_goes_into_another_attachment_and_gives_the_same_output(
    model: Backbone, method: MethodConfig, video: torch.Tensor
):
    config = PetlConfig(methods=(method,), train_classifier=False)
    attached = attach(model, config, seed=0)
    _shake(attached.trainable)
    state = attached.state_dict()
    with torch.no_grad():
        expected = model(video)
    attached.detach()
    other = attach(model, config, seed=1)
    other.load_state_dict(state)
    with torch.no_grad():
        assert torch.equal(model(video), expected)


def test_same_seed_gives_the_same_start_and_another_seed_another(
    model: Backbone, method: MethodConfig
):
    starts = []
    for seed in (0, 0, 1):
        attached = attach(model, PetlConfig(methods=(method,)), seed=seed)
        starts.append(attached.state_dict())
        attached.detach()
    assert all(torch.equal(starts[0][name], starts[1][name]) for name in starts[0])
    assert any(not torch.equal(starts[0][name], starts[2][name]) for name in starts[0])


def test_nothing_is_drawn_from_the_global_generator(model: Backbone, method: MethodConfig):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    attach(model, PetlConfig(methods=(method,)), seed=0)
    assert torch.equal(torch.rand(3), expected)


def test_settings_survive_a_round_trip_through_a_dict(method: MethodConfig):
    assert make_method(method_to_dict(method)) == method


def test_bfloat16_is_close_to_float32(model: Backbone, method: MethodConfig, video: torch.Tensor):
    attached = attach(model, PetlConfig(methods=(method,)), seed=0)
    _shake(attached.trainable, size=0.02)
    exact = model(video)
    exact.square().sum().backward()
    exact_gradient = torch.cat([p.grad.flatten() for p in attached.trainable.values()])
    model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = model(video)
    rounded.float().square().sum().backward()
    assert (rounded.float() - exact).norm() < 0.05 * exact.norm()
    gradient = torch.cat([p.grad.flatten() for p in attached.trainable.values()])
    assert gradient.dtype == torch.float32
    assert (gradient - exact_gradient).norm() < 0.1 * exact_gradient.norm()


@pytest.mark.parametrize("size", [(16, 16, 16), (5, 40, 24)], ids=["longer", "odd"])
@torch.no_grad()
def test_method_works_at_other_clip_sizes(
    model: Backbone, method: MethodConfig, size: tuple[int, int, int]
):
    video = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
    before = model(video), model.forward_prefix(video, model.arch.num_stages)
    attached = attach(model, PetlConfig(methods=(method,)), seed=0)
    after = model.forward_prefix(video, model.arch.num_stages)
    assert not method.identity_at_start or torch.allclose(before[1], after, atol=1e-6)
    _shake(attached.trainable)
    assert model(video).shape == before[0].shape


def _tunable(*names: str) -> dict[str, tuple[MethodConfig, str]]:
    """Name each example that has one of these settings."""
    found = {
        (config.name, f.name): (config, f.name)
        for config in EXAMPLES.values()
        for f in fields(config)
        if f.name in names
    }
    return {f"{method}.{setting}": found[method, setting] for method, setting in found}


STRENGTHS = _tunable("scale", "alpha")
ACTIVATED = _tunable("activation")


def test_whatever_adds_something_has_a_strength_and_every_bottleneck_an_activation():
    added = {config.name for config in EXAMPLES.values() if not isinstance(config, OwnMethod)}
    assert {config.name for config, _ in STRENGTHS.values()} == added
    assert {config.name for config, _ in ACTIVATED.values()} == added - {"lora", "prompt"}


@pytest.mark.parametrize(("config", "setting"), STRENGTHS.values(), ids=STRENGTHS)
def test_gradient_reaches_a_learned_strength(
    model: Backbone, video: torch.Tensor, config: MethodConfig, setting: str
):
    learned = replace(config, **{setting: "learned"})
    attached = attach(model, PetlConfig(methods=(learned,)), seed=0)
    _shake(attached.trainable)
    model(video).square().sum().backward()
    numbers = [p for p in attached.trainable.values() if p.dim() == 0]
    assert len(numbers) >= len(learned.stages_of(model.arch))
    assert all(number.grad is not None and number.grad != 0 for number in numbers)


@pytest.mark.parametrize(("config", "setting"), ACTIVATED.values(), ids=ACTIVATED)
@torch.no_grad()
def test_activations_differ(
    model: Backbone, video: torch.Tensor, config: MethodConfig, setting: str
):
    outputs = []
    for activation in ("relu", "gelu", "tanh"):
        chosen = replace(config, **{setting: activation})
        attached = attach(model, PetlConfig(methods=(chosen,)), seed=0)
        _shake(attached.trainable, size=0.5)
        outputs.append(model(video))
        attached.detach()
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert not torch.allclose(outputs[one], outputs[other], atol=1e-3)


def _shake(trainable: dict[str, torch.nn.Parameter], size: float = 0.05) -> None:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in trainable.values():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))
