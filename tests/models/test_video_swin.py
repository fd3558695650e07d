import copy

import pytest
import torch
from torchvision.models.video import swin3d_t

from vpetl_ray.models.arch import get_arch
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
