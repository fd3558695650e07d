"""Ways to run a block: compiled, or anew in the backward pass."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from vpetl_ray.models import blocks
from vpetl_ray.models.backbone import Backbone


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile as far as no C++ compiler is needed, and demand one graph a block."""
    torch._dynamo.reset()
    counters.clear()
    run = torch.compile(blocks.Block.run, dynamic=False, backend="aot_eager", fullgraph=True)
    monkeypatch.setattr(blocks, "_compiled_run", lambda: run)


@pytest.fixture
def step(backbone_and_video: tuple[Backbone, Tensor]) -> Callable[[], dict[str, Tensor]]:
    """Gives logits, and the gradients of the second group of blocks."""
    model, video = backbone_and_video
    model.requires_grad_(requires_grad=False)
    trained = {
        f"{site.index}.{name}": parameter
        for site, block in model.block_modules()
        if site.stage == 2
        for name, parameter in block.named_parameters()
        if "table" not in name
    }

    def run() -> dict[str, Tensor]:
        for parameter in trained.values():
            parameter.requires_grad_(requires_grad=True).grad = None
        logits = model(video)
        logits.square().sum().backward()
        found = {name: p.grad.clone() for name, p in trained.items() if p.grad is not None}
        return {"logits": logits.detach(), **found}

    return run


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert torch.allclose(tensor, expected[name], atol=1e-5 * expected[name].abs().max()), name


def test_blocks_that_run_anew_give_the_same(backbone_and_video, step):
    model, _ = backbone_and_video
    expected = step()
    model.set_running(is_compiled=False, is_recomputed=True)
    assert_close(step(), expected)


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("is_recomputed", [False, True])
def test_traced_blocks_give_the_same(backbone_and_video, step, is_recomputed):
    model, _ = backbone_and_video
    expected = step()
    model.set_running(is_compiled=True, is_recomputed=is_recomputed)
    assert_close(step(), expected)


@pytest.mark.usefixtures("traced")
def test_blocks_of_equal_structure_share_their_code(toy):
    toy.requires_grad_(requires_grad=False)
    toy.head.requires_grad_(requires_grad=True)
    toy.set_running(is_compiled=True, is_recomputed=False)
    for _ in range(2):
        toy(torch.randn(2, 3, 8, 24, 24))
    first = counters["stats"]["unique_graphs"]
    assert 0 < first <= len(toy.block_modules())
    toy.layers[1].blocks[0].attn.qkv.weight.data += 1.0
    toy(torch.randn(2, 3, 8, 24, 24))
    assert counters["stats"]["unique_graphs"] == first


@pytest.mark.usefixtures("traced")
def test_evaluation_is_never_traced(toy):
    toy.set_running(is_compiled=True, is_recomputed=True)
    with torch.inference_mode():
        toy(torch.randn(1, 3, 8, 24, 24))
    assert counters["stats"]["unique_graphs"] == 0


@pytest.mark.usefixtures("traced")
def test_traced_block_follows_a_changed_position_table(toy):
    video = torch.randn(2, 3, 8, 24, 24)
    toy.requires_grad_(requires_grad=False)
    toy.set_running(is_compiled=True, is_recomputed=False)
    before = toy(video)
    with torch.no_grad():
        for _, block in toy.block_modules():
            table = block.attn.relative_position_bias_table
            table.copy_(table + torch.randn_like(table))
    changed = toy(video)
    toy.set_running(is_compiled=False, is_recomputed=False)
    assert not torch.allclose(changed, before)
    assert torch.allclose(changed, toy(video), atol=1e-5)
