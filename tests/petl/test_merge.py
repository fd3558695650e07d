import pytest
import torch

from vpetl_ray.errors import VpetlError
from vpetl_ray.models.backbone import Backbone
from vpetl_ray.petl.adapter_file import hash_tensors
from vpetl_ray.petl.attach import Attached, attach
from vpetl_ray.petl.config import PetlConfig
from vpetl_ray.petl.methods import (
    AdapterConfig,
    LoraConfig,
    MethodConfig,
    PattConfig,
    PositionConfig,
    PromptConfig,
)

pytestmark = pytest.mark.every_backbone

TARGETS = ("q", "k", "v", "proj", "fc1", "fc2")
EVERYWHERE = LoraConfig(targets=TARGETS, rank=2, alpha=3.0)
MIXES: dict[str, tuple[MethodConfig, ...]] = {
    "lora everywhere": (EVERYWHERE,),
    **{f"lora {target}": (LoraConfig(targets=(target,), rank=2),) for target in TARGETS},
    "lora everywhere, learned": (LoraConfig(targets=TARGETS, rank=2, alpha="learned"),),
    "lora learned": (LoraConfig(targets=("k", "fc2"), rank=3, alpha="learned", stages=(2,)),),
    "lora, patt, adapter, prompts": (
        PattConfig(targets=("k", "v"), d_bottle=2),
        EVERYWHERE,
        AdapterConfig(d_bottle=2, placement="sequential"),
        PromptConfig(num_tokens=2),
    ),
}


@pytest.fixture(params=MIXES.values(), ids=MIXES)
def trained(request: pytest.FixtureRequest, model: Backbone) -> Attached:
    attached = attach(model, PetlConfig(methods=request.param), seed=0)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in attached.trainable.values():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return attached


@torch.no_grad()
def test_merged_model_gives_the_same_output(trained: Attached, video: torch.Tensor):
    expected = trained.model(video)
    trained.merge()
    assert not any(block.mlp.fc2_branches for _, block in trained.model.block_modules())
    assert torch.allclose(trained.model(video), expected, atol=1e-5)


@torch.no_grad()
def test_unmerging_gives_weights_and_branches_back(trained: Attached, video: torch.Tensor):
    state = {name: tensor.clone() for name, tensor in trained.model.state_dict().items()}
    expected = trained.model(video)
    trained.merge()
    trained.merge()
    trained.unmerge()
    trained.unmerge()
    after = trained.model.state_dict()
    assert state.keys() == after.keys()
    assert all(torch.equal(state[name], after[name]) for name in state)
    assert torch.equal(trained.model(video), expected)


@torch.no_grad()
def test_state_that_is_loaded_into_a_merged_model_acts(trained: Attached, video: torch.Tensor):
    state, expected = trained.state_dict(), trained.model(video)
    for parameter in trained.trainable.values():
        parameter.mul_(2.0)
    trained.merge()
    trained.load_state_dict(state)
    assert torch.allclose(trained.model(video), expected, atol=1e-5)


def test_merged_model_tells_its_backbone_and_state_as_before(trained: Attached):
    backbone, state = hash_tensors(trained.backbone_state()), hash_tensors(trained.state_dict())
    trained.merge()
    assert hash_tensors(trained.backbone_state()) == backbone
    assert hash_tensors(trained.state_dict()) == state


def test_detaching_a_merged_model_leaves_no_trace(model: Backbone):
    before = hash_tensors(dict(model.state_dict()))
    attached = attach(model, PetlConfig(methods=(EVERYWHERE,)), seed=0)
    with torch.no_grad():
        for parameter in attached.trainable.values():
            parameter.add_(1.0)
    attached.merge()
    attached.detach()
    assert hash_tensors(dict(model.state_dict())) == before


def test_what_cannot_be_merged_is_refused(model: Backbone):
    attached = attach(model, PetlConfig(methods=(AdapterConfig(d_bottle=2),)), seed=0)
    with pytest.raises(VpetlError, match="only lora can"):
        attached.merge()
    attached.detach()
    both = (LoraConfig(targets=("fc1",), rank=1), PositionConfig(kinds=("fc1",)))
    attached = attach(model, PetlConfig(methods=both), seed=0)
    with pytest.raises(VpetlError, match="a layer that is trained itself"):
        attached.merge()
    attached.detach()
