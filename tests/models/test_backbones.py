"""What every backbone can do, whatever its family."""

import copy

import pytest
import torch

from vpetl_ray.models.blocks import drawn_samples
from vpetl_ray.models.build import build_model


@torch.no_grad()
def test_prefix_and_suffix_at_any_depth_make_the_whole(backbone_and_video):
    model, video = backbone_and_video
    logits = model(video)
    assert logits.shape == (2, 5)
    for depth in range(model.arch.num_stages + 1):
        features = model.forward_prefix(video, depth)
        assert torch.equal(model.forward_suffix(features, depth), logits)
        if depth == 0:
            assert features is video
    assert features.shape == (2, model.arch.num_features)


def test_blocks_stand_where_their_sites_say(backbone_and_video):
    model, _ = backbone_and_video
    sites = model.block_modules()
    assert [site for site, _ in sites] == list(model.arch.blocks())
    for site, block in sites:
        assert block.attn.qkv.weight.shape == (3 * site.dim, site.dim)
        assert block.mlp.fc1.out_features == site.mlp_dim
        assert block.attn.num_heads == site.num_heads


def test_seams_get_what_enters_and_leaves(backbone_and_video, add_branch):
    model, video = backbone_and_video
    for _, block in model.block_modules():
        seams = (block.attn.qkv_branches, block.attn.proj_branches, block.mlp_branches)
        qkv, proj, mlp = (add_branch(seam) for seam in seams)
        model(video)
        (z, projected), (out, y), (normed, h) = qkv[0], proj[0], mlp[0]
        assert torch.allclose(block.attn.qkv(z), projected)
        assert torch.allclose(block.attn.proj(out), y)
        assert torch.allclose(block.mlp(normed), h)
        assert z.dim() == projected.dim() == out.dim() == y.dim() == 3


def test_nothing_below_the_first_branch_is_recorded_for_backward(backbone_and_video, add_branch):
    model, video = backbone_and_video
    model.requires_grad_(requires_grad=False)
    sites = model.block_modules()
    first = next(block for site, block in sites if site.stage == 2)
    calls = add_branch(first.mlp_branches)
    model(video).sum().backward()
    assert not calls[0][0].requires_grad
    assert first.mlp_branches[0].gate.grad is not None


def test_what_is_derived_stays_out_of_state_and_buffers(backbone_and_video):
    model, video = backbone_and_video
    before = list(model.state_dict())
    model(video)
    assert list(model.state_dict()) == before
    assert not list(model.buffers())


def test_what_was_derived_in_inference_mode_serves_a_training_step(backbone_and_video):
    model, video = backbone_and_video
    model.requires_grad_(requires_grad=False)
    first = model.block_modules()[0][1]
    first.norm1.requires_grad_(requires_grad=True)
    with torch.inference_mode():
        model(video)
    model(video).sum().backward()
    assert first.norm1.weight.grad is not None


@pytest.mark.parametrize("is_cast", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
def test_evaluation_after_a_fused_step_sees_the_new_weights(backbone_and_video, kind, is_cast):
    model, video = backbone_and_video
    optimizer = kind(model.parameters(), lr=0.5, fused=True)

    def run(network: torch.nn.Module) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=is_cast):
            return network(video)

    model.requires_grad_(requires_grad=False)  # as the trial before had it
    run(model)
    model.requires_grad_(requires_grad=True)
    for _ in range(2):
        with torch.no_grad():
            assert torch.equal(run(model), run(copy.deepcopy(model)))
        run(model).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        assert torch.equal(run(model), run(copy.deepcopy(model)))
    model.requires_grad_(requires_grad=False)
    assert torch.equal(run(model), run(copy.deepcopy(model)))


@torch.inference_mode()
def test_model_built_in_inference_mode_runs(backbone_and_video):
    model, video = backbone_and_video
    assert build_model(model.arch, 5).eval()(video).isfinite().all()


def test_every_parameter_learns(backbone_and_video):
    model, video = backbone_and_video
    model(video).square().sum().backward()
    assert [
        name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()
    ] == []


@torch.no_grad()
def test_exported_model_gives_the_same_and_leaves_the_original_usable(backbone_and_video):
    model, video = backbone_and_video
    exported = torch.export.export(model, (video,)).module()
    assert torch.allclose(exported(video), model(video), atol=1e-5)


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
@torch.no_grad()
def test_compiled_model_is_one_graph_and_gives_the_same(backbone_and_video):
    model, video = backbone_and_video
    torch.compiler.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    assert torch.allclose(compiled(video), model(video), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=["fp64", "bf16"])
@torch.no_grad()
def test_model_in_another_precision_stays_close(backbone_and_video, dtype):
    model, video = backbone_and_video
    reference = model(video)
    other = model.to(dtype)(video.to(dtype))
    assert other.dtype == dtype
    tolerance = 1e-4 if dtype == torch.float64 else 0.1
    assert (other.float() - reference).abs().max() < tolerance * reference.abs().max()


def test_drop_path_rises_linearly_and_only_acts_in_training(backbone_and_video):
    model, video = backbone_and_video
    model.set_drop_path(0.5)
    rates = [block.drop_path_rate for _, block in model.block_modules()]
    assert rates == pytest.approx(torch.linspace(0, 0.5, len(rates)).tolist())
    assert torch.equal(model(video), model(video))
    model.train()
    assert any(not torch.equal(model(video), model(video)) for _ in range(5))


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    x = torch.ones(4000, 2, 3)
    keep = drawn_samples(x, 0.25, is_training=True)
    assert keep is not None
    assert keep.shape == (4000, 1, 1)
    y = x * keep
    assert y.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert y.mean().item() == pytest.approx(1.0, abs=0.05)
