import logging

import pytest
import torch

from vpetl_ray.errors import CheckpointError, VpetlError
from vpetl_ray.models.backbone import Backbone
from vpetl_ray.petl.attach import attach
from vpetl_ray.petl.config import PetlConfig
from vpetl_ray.petl.methods import AdapterConfig, FullConfig, MethodConfig, PattConfig

PATT = PattConfig(targets=("k", "v"), d_bottle=4)
ADAPTER = AdapterConfig(d_bottle=4)


def at_stages(*stages: int) -> PetlConfig:
    return PetlConfig(methods=(AdapterConfig(d_bottle=2, stages=stages),))


DEPTHS = {
    "classifier alone": (PetlConfig(), 3),
    "stage 3": (at_stages(3), 2),
    "stages 2 and 3": (at_stages(2, 3), 1),
    "all stages": (PetlConfig(methods=(PATT,)), 0),
    "full": (PetlConfig(methods=(FullConfig(),)), 0),
}


@pytest.mark.every_backbone
@pytest.mark.parametrize(("config", "depth"), DEPTHS.values(), ids=DEPTHS)
def test_nothing_below_the_first_depth_is_trained(
    model: Backbone, config: PetlConfig, depth: int, video: torch.Tensor
):
    attached = attach(model, config, seed=0)
    assert attached.first_depth == depth
    assert not model.forward_prefix(video, depth).requires_grad
    if depth < model.arch.num_stages:
        assert model.forward_prefix(video, depth + 1).requires_grad


@pytest.mark.parametrize("other", [ADAPTER, FullConfig()], ids=["adapter", "full"])
def test_start_of_a_method_does_not_depend_on_what_else_is_on(model: Backbone, other: MethodConfig):
    alone = attach(model, PetlConfig(methods=(PATT,)), seed=5)
    expected = alone.state_dict()
    alone.detach()
    both = attach(model, PetlConfig(methods=(other, PATT)), seed=5)
    state = both.state_dict()
    assert all(torch.equal(expected[name], state[name]) for name in expected)


def test_start_does_not_depend_on_the_stages_that_are_on(model: Backbone):
    alone = attach(model, at_stages(3), seed=5)
    expected = alone.state_dict()
    alone.detach()
    more = attach(model, at_stages(1, 3), seed=5).state_dict()
    assert all(torch.equal(expected[name], more[name]) for name in expected)


def test_classifier_that_is_not_trained_is_new_and_frozen(model: Backbone):
    old = model.head.weight.clone()
    attached = attach(model, PetlConfig(methods=(PATT,), train_classifier=False), seed=0)
    assert not torch.equal(model.head.weight, old)
    assert not model.head.weight.requires_grad
    assert "head.weight" not in attached.trainable
    assert "head.weight" in attached.state_dict()


def test_nothing_trainable_is_refused(model: Backbone):
    nothing = PetlConfig(methods=(PattConfig(targets=(), d_bottle=1),), train_classifier=False)
    with pytest.raises(VpetlError, match="nothing is trained"):
        attach(model, nothing, seed=0)


def test_method_that_matches_nothing_is_warned_about(
    model: Backbone, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level(logging.WARNING):
        attached = attach(model, at_stages(), seed=0)
    assert attached.warnings == ("adapter: matches nothing, so nothing of it is trained",)
    assert "adapter: matches nothing" in caplog.text


def test_second_attach_is_refused_and_leaves_the_first(model: Backbone):
    first = attach(model, PetlConfig(methods=(PATT,)), seed=0)
    with pytest.raises(VpetlError, match="detach it first"):
        attach(model, PetlConfig(), seed=0)
    assert all(p.requires_grad for p in first.trainable.values())


def test_bad_config_leaves_the_model_alone(model: Backbone):
    names = list(model.state_dict())
    with pytest.raises(VpetlError, match="stage 4 does not exist"):
        attach(model, at_stages(4), seed=0)
    assert list(model.state_dict()) == names
    assert all(p.requires_grad for p in model.parameters())


def test_detach_twice_or_late_does_not_touch_a_newer_attachment(model: Backbone):
    first = attach(model, PetlConfig(methods=(PATT,)), seed=0)
    first.detach()
    second = attach(model, PetlConfig(methods=(ADAPTER,)), seed=0)
    first.detach()
    assert all(p.requires_grad for p in second.trainable.values())
    assert len(model.block_modules()[0][1].mlp_branches) == 1


def test_state_of_another_config_is_refused(model: Backbone):
    narrow = attach(model, PetlConfig(methods=(PATT,)), seed=0)
    state = narrow.state_dict()
    narrow.detach()
    wide = attach(model, PetlConfig(methods=(PattConfig(targets=("k", "v"), d_bottle=5),)), seed=0)
    with pytest.raises(CheckpointError, match="has shape"):
        wide.load_state_dict(state)
    wide.detach()
    other = attach(model, PetlConfig(methods=(ADAPTER,)), seed=0)
    with pytest.raises(CheckpointError, match="of another config"):
        other.load_state_dict(state)


def test_state_is_a_copy(model: Backbone):
    attached = attach(model, PetlConfig(methods=(PATT,)), seed=0)
    state = attached.state_dict()
    with torch.no_grad():
        attached.trainable["head.weight"].add_(1)
    assert not torch.equal(state["head.weight"], model.head.weight)
