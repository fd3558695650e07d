import copy

import pytest
import torch
from torchvision.models.video import swin3d_t

from vpetl_ray.models.arch import get_arch
from vpetl_ray.models.blocks import drop_path
from vpetl_ray.models.checkpoints import load_backbone
from vpetl_ray.models.video_swin import VideoSwin

SIZES = {
    "8 frames": (8, 64, 64),
    "16 frames, padded": (16, 80, 72),
    "32 frames": (32, 64, 64),
    "odd in every axis": (7, 50, 61),
    "smaller than a window": (2, 20, 12),
}


@pytest.fixture(scope="module")
def pair(tmp_path_factory, shaken):
    """torchvision's swin3d_t and ours with its weights."""
    torch.manual_seed(0)
    peer = shaken(swin3d_t(weights=None)).eval()
    path = tmp_path_factory.mktemp("weights") / "swin3d_t.pth"
    torch.save(peer.state_dict(), path)
    ours = VideoSwin(get_arch("swin3d_t"), 400).eval()
    load_backbone(ours, path, load_head=True)
    return peer, ours


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@torch.inference_mode()
def test_features_and_logits_equal_torchvision_swin3d_t(pair, size):
    peer, ours = pair
    video = torch.randn(1, 3, *size)
    peer_features = []
    handle = peer.head.register_forward_pre_hook(lambda _, args: peer_features.append(args[0]))
    peer_logits = peer(video)
    handle.remove()
    features = ours.forward_prefix(video, 4)
    assert (features - peer_features[0]).abs().max() < 1e-4
    assert (ours(video) - peer_logits).abs().max() < 1e-4


def test_gradients_equal_torchvision(toy, torchvision_twin, tmp_path):
    peer = torchvision_twin(toy.arch, 5)
    torch.save(peer.state_dict(), tmp_path / "toy.pth")
    load_backbone(toy, tmp_path / "toy.pth", load_head=True)
    video = torch.randn(2, 3, 16, 40, 36)
    for model in (peer, toy):
        model(video).square().sum().backward()
    for ours, theirs in [
        (toy.patch_embed.proj.weight, peer.patch_embed.proj.weight),
        (toy.layers[0].blocks[1].attn.qkv.weight, peer.features[0][1].attn.qkv.weight),
        (
            toy.layers[0].blocks[1].attn.relative_position_bias_table,
            peer.features[0][1].attn.relative_position_bias_table,
        ),
        (toy.layers[0].downsample.reduction.weight, peer.features[1].reduction.weight),
    ]:
        assert (ours.grad - theirs.grad).abs().max() < 1e-3 * theirs.grad.abs().max()


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_prefix_and_suffix_at_any_depth_make_the_whole(toy, depth):
    video = torch.randn(2, 3, 8, 32, 32)
    with torch.no_grad():
        features = toy.forward_prefix(video, depth)
        assert torch.equal(toy.forward_suffix(features, depth), toy(video))
    assert features.shape == {0: video.shape, 1: (2, 4, 4, 4, 32), 2: (2, 32)}[depth]


def test_block_modules_stand_where_their_sites_say(toy):
    sites = toy.block_modules()
    assert [site for site, _ in sites] == list(toy.arch.blocks())
    for site, block in sites:
        assert block is toy.layers[site.stage - 1].blocks[site.block - 1]
        assert block.attn.qkv.in_features == site.dim
        assert block.mlp.fc1.out_features == site.mlp_dim
        assert block.attn.num_heads == site.num_heads


def test_seams_are_called_with_what_enters_and_leaves(toy, add_branch):
    block = toy.layers[0].blocks[1]
    calls = {
        name: add_branch(seam)
        for name, seam in {
            "qkv": block.attn.qkv_branches,
            "proj": block.attn.proj_branches,
            "mlp": block.mlp_branches,
        }.items()
    }
    toy(torch.randn(2, 3, 8, 24, 24))  # 4 x 6 x 6 tokens, windows of 4 x 3 x 3
    shapes = {name: [tuple(t.shape) for t in made[0]] for name, made in calls.items()}
    assert shapes == {
        "qkv": [(8, 36, 16), (8, 36, 48)],
        "proj": [(8, 36, 16), (8, 36, 16)],
        "mlp": [(2, 4, 6, 6, 16), (2, 4, 6, 6, 16)],
    }
    z, qkv = calls["qkv"][0]
    assert torch.allclose(block.attn.qkv(z), qkv)


def test_nothing_below_the_first_branch_is_recorded_for_backward(toy, add_branch):
    toy.requires_grad_(requires_grad=False)
    calls = add_branch(toy.layers[1].blocks[0].mlp_branches)
    toy(torch.randn(1, 3, 8, 24, 24)).sum().backward()
    assert not calls[0][0].requires_grad
    assert all(p.grad is None for p in toy.layers[0].parameters())
    assert toy.layers[1].blocks[0].mlp_branches[0].gate.grad is not None


def test_masks_stay_out_of_state_and_buffers(toy):
    before = list(toy.state_dict())
    toy(torch.randn(1, 3, 8, 24, 24))
    assert list(toy.state_dict()) == before
    assert not list(toy.buffers())


def test_mask_made_in_inference_mode_serves_a_training_step(toy):
    toy.requires_grad_(requires_grad=False)
    toy.head.requires_grad_(requires_grad=True)
    toy.layers[0].blocks[0].norm1.requires_grad_(requires_grad=True)
    video = torch.randn(1, 3, 8, 24, 24)
    with torch.inference_mode():
        toy(video)
    toy(video).sum().backward()
    assert toy.layers[0].blocks[0].norm1.weight.grad is not None


def test_cached_mask_follows_a_changed_position_table(toy):
    video = torch.randn(1, 3, 8, 24, 24)
    other = copy.deepcopy(toy)
    with torch.no_grad():
        before = toy(video)
        state = {
            key: tensor + 1.0 * torch.randn_like(tensor) if "table" in key else tensor
            for key, tensor in toy.state_dict().items()
        }
        for model in (toy, other):  # toy has masks cached, other has not
            model.load_state_dict(state)
        assert not torch.allclose(toy(video), before)
        assert torch.equal(toy(video), other(video))


@torch.no_grad()
def test_exported_model_gives_the_same_and_leaves_the_original_usable(toy):
    video = torch.randn(1, 3, 8, 24, 24)
    exported = torch.export.export(toy, (video,)).module()
    assert torch.allclose(exported(video), toy(video), atol=1e-5)


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
@torch.no_grad()
def test_compiled_model_is_one_graph_and_gives_the_same(toy):
    video = torch.randn(1, 3, 8, 24, 24)
    compiled = torch.compile(toy, backend="aot_eager", fullgraph=True)
    assert torch.allclose(compiled(video), toy(video), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=["fp64", "bf16"])
def test_model_in_another_precision_stays_close(toy, dtype):
    video = torch.randn(1, 3, 8, 24, 24)
    with torch.no_grad():
        reference = toy(video)
        other = toy.to(dtype)(video.to(dtype))
    assert other.dtype == dtype
    tolerance = 1e-4 if dtype == torch.float64 else 0.1
    assert (other.float() - reference).abs().max() < tolerance * reference.abs().max()


def test_drop_path_rises_linearly_and_only_acts_in_training(toy):
    toy.set_drop_path(0.3)
    rates = [block.drop_path_rate for _, block in toy.block_modules()]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3])
    video = torch.randn(1, 3, 8, 24, 24)
    assert torch.equal(toy(video), toy(video))
    toy.train()
    assert not torch.equal(toy(video), toy(video))


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    x = torch.ones(4000, 2, 3)
    y = drop_path(x, 0.25, is_training=True)
    per_sample = y.flatten(1)
    assert torch.equal(per_sample, per_sample[:, :1].expand_as(per_sample))
    assert per_sample.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert y.mean().item() == pytest.approx(1.0, abs=0.05)
