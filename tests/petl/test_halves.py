"""Halves of blocks in one step, and branches beside their layer, give what modules in turn give."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.training.toy_training import VIT
from vpetl_ray.models import half_block, linear, side, small_attention
from vpetl_ray.models.arch import SwinArch
from vpetl_ray.models.backbone import Backbone
from vpetl_ray.models.build import build_model
from vpetl_ray.petl.attach import Attached, attach
from vpetl_ray.petl.config import PetlConfig
from vpetl_ray.petl.methods import (
    AdapterConfig,
    BitFitConfig,
    LoraConfig,
    MethodConfig,
    PattConfig,
    PattNoZConfig,
)

SWIN = SwinArch(name="toy", embed_dim=16, depths=(2, 2), num_heads=(2, 4), window_size=(2, 3, 3))
PADDED = replace(SWIN, window_size=(4, 4, 4))  # 2 x 6 x 6 and 2 x 3 x 3 tokens
ARCHS = {"swin": SWIN, "swin with padded windows": PADDED, "vit without a bias of keys": VIT}
PATT = PattConfig(targets=("k", "v"), d_bottle=3)
ADAPTER = AdapterConfig(d_bottle=5)
CONFIGS: dict[str, tuple[MethodConfig, ...]] = {
    "patt on k and v": (PATT,),
    "patt on q and v, relu": (PattConfig(targets=("q", "v"), d_bottle=3, activation="relu"),),
    "adapter": (ADAPTER,),
    "adapter, gelu": (replace(ADAPTER, activation="gelu"),),
    "adapter, tanh": (replace(ADAPTER, activation="tanh"),),
    "both": (ADAPTER, PATT),
    "a learned scale": (replace(ADAPTER, scale="learned"), replace(PATT, scale="learned")),
    "with what changes the same output": (PATT, LoraConfig(targets=("k",), rank=2)),
    "with branches inside of the MLP": (ADAPTER, LoraConfig(targets=("fc1", "fc2"), rank=2)),
    "with biases that are trained": (ADAPTER, PATT, BitFitConfig()),
    "patt without z": (PattNoZConfig(targets=("k", "v"), d_bottle=3),),
}


@pytest.fixture(params=ARCHS.values(), ids=ARCHS)
def model(request: pytest.FixtureRequest) -> Backbone:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return build_model(request.param, 3)


def run(attached: Attached, video: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits and gradients."""
    for parameter in attached.trainable.values():
        parameter.grad = None
    logits = attached.model(video)
    logits.square().sum().backward()
    return logits.detach(), {n: p.grad for n, p in attached.trainable.items() if p.grad is not None}


def take_the_plain_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Module by module, with torch's own layers and attention."""
    for module in (linear, side, small_attention):
        monkeypatch.setattr(module, "is_plain", lambda: False)


def attached_off_zero(model: Backbone, *methods: MethodConfig) -> Attached:
    attached = attach(model, PetlConfig(methods=methods), seed=0)
    with torch.no_grad():
        for parameter in attached.trainable.values():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return attached


@pytest.mark.parametrize("methods", CONFIGS.values(), ids=CONFIGS)
def test_outputs_and_gradients_equal_the_plain_way(
    model: Backbone, methods: tuple[MethodConfig, ...], monkeypatch: pytest.MonkeyPatch
):
    attached = attached_off_zero(model, *methods)
    video = torch.randn(2, 3, 4, 24, 24)
    logits, grads = run(attached, video)
    take_the_plain_way(monkeypatch)
    expected, expected_grads = run(attached, video)
    assert (logits - expected).abs().max() < 1e-5 * expected.abs().max()
    assert grads.keys() == expected_grads.keys() == attached.trainable.keys()
    for name, grad in grads.items():
        difference = (grad - expected_grads[name]).abs().max()
        assert difference <= 1e-5 * expected_grads[name].abs().max() + 1e-6, name


def test_dropped_samples_are_the_same_ones(model: Backbone, monkeypatch: pytest.MonkeyPatch):
    attached = attached_off_zero(model, ADAPTER, PATT)
    model.set_drop_path(0.5)
    model.train()
    video = torch.randn(4, 3, 4, 24, 24)
    torch.manual_seed(1)
    logits, grads = run(attached, video)
    take_the_plain_way(monkeypatch)
    torch.manual_seed(1)
    expected, expected_grads = run(attached, video)
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    for name, grad in grads.items():
        torch.testing.assert_close(grad, expected_grads[name], rtol=1e-4, atol=1e-5)
    torch.manual_seed(2)
    assert not torch.equal(run(attached, video)[0], expected), "samples were dropped"


def test_both_kinds_of_branch_take_the_short_way(model: Backbone):
    attached = attached_off_zero(model, ADAPTER, PATT)
    block = model.block_modules()[-1][1]
    seen = []

    def note(module: torch.nn.Module, *_: object) -> None:
        seen.append(module)

    for module in (block.attn.qkv, block.mlp):
        module.register_forward_hook(note)
    run(attached, torch.randn(2, 3, 4, 16, 16))
    assert not seen, "the layers' own forwards are not needed"


@pytest.mark.parametrize("methods", CONFIGS.values(), ids=CONFIGS)
def test_under_autocast_it_is_as_near_to_float32_as_the_plain_way(
    model: Backbone, methods: tuple[MethodConfig, ...], monkeypatch: pytest.MonkeyPatch
):
    attached = attached_off_zero(model, *methods)
    video = torch.randn(2, 3, 4, 24, 24)

    def run_cast() -> tuple[Tensor, dict[str, Tensor]]:
        for parameter in attached.trainable.values():
            parameter.grad = None
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(video)
        logits.float().square().sum().backward()
        return logits.detach(), {
            n: p.grad for n, p in attached.trainable.items() if p.grad is not None
        }

    logits, grads = run_cast()
    assert logits.dtype == torch.bfloat16
    exact, exact_grads = run(attached, video)
    take_the_plain_way(monkeypatch)
    plain, plain_grads = run_cast()
    error, plain_error = ((found - exact).norm() / exact.norm() for found in (logits, plain))
    assert error < 1.5 * plain_error + 0.01, "bf16 rounds to 1/256"
    assert grads.keys() == exact_grads.keys()
    assert all(grads[name].dtype == grad.dtype for name, grad in exact_grads.items())
    # The mean over all tensors: for one alone, a hidden unit beside ReLU's kink decides.
    assert mean_error(grads, exact_grads) < 1.5 * mean_error(plain_grads, exact_grads) + 0.01


def mean_error(grads: dict[str, Tensor], exact: dict[str, Tensor]) -> float:
    errors = [(grads[name] - grad).norm() / grad.norm() for name, grad in exact.items()]
    return float(torch.stack(errors).mean())


def test_nothing_below_the_first_branch_gets_a_gradient(model: Backbone):
    attached = attach(model, PetlConfig(methods=(replace(PATT, stages=(2,)),)), seed=0)
    features = model.forward_prefix(torch.randn(2, 3, 4, 16, 16), 1)
    assert not features.requires_grad
    model.forward_suffix(features, 1).sum().backward()
    assert all(parameter.grad is not None for parameter in attached.trainable.values())


def test_an_evaluation_keeps_no_scores(model: Backbone, monkeypatch: pytest.MonkeyPatch):
    attached = attached_off_zero(model, ADAPTER, PATT)
    seen = []

    def note(*args: object, keeps: bool) -> object:
        seen.append(keeps)
        return small_attention.attend(*args, keeps=keeps)

    monkeypatch.setattr(half_block, "attend", note)
    video = torch.randn(2, 3, 4, 16, 16)
    with torch.inference_mode():
        attached.model(video)
    assert not any(seen)
    seen.clear()
    attached.model(video)
    assert all(seen)
