"""Against transformers: its models, built tiny, give us their weights by their own keys."""

import dataclasses

import pytest
import torch
from torch import nn
from transformers import (
    VideoMAEConfig,
    VideoMAEForVideoClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTMAEConfig,
    ViTMAEModel,
)

from vpetl_ray.models.checkpoints import load_backbone
from vpetl_ray.models.positions import resize_positions, sine_cosine
from vpetl_ray.models.vit import VisionTransformer

NUMBERS = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "patch_size": 4,
    "image_size": 16,
    "layer_norm_eps": 1e-6,
}


def videomae_peer(shaken, num_frames=16):
    config = VideoMAEConfig(**NUMBERS, num_frames=num_frames, tubelet_size=2, num_labels=5)
    return shaken(VideoMAEForVideoClassification(config)).eval()


def mae_peer(shaken):
    return shaken(ViTMAEModel(ViTMAEConfig(**NUMBERS, mask_ratio=0.0))).eval()


def ours_with_weights_of(peer, arch, folder, *, load_head):
    torch.save(peer.state_dict(), folder / "peer.pth")
    ours = VisionTransformer(arch, 5).eval()
    report = load_backbone(ours, folder / "peer.pth", load_head=load_head)
    assert report.format == "transformers"
    return ours


@torch.no_grad()
def peer_tokens(peer, image):
    """What leaves MAE's encoder with nothing masked, in order, after its norm."""
    num_patches = image.shape[-2] * image.shape[-1] // 16
    noise = torch.arange(num_patches).float()[None].expand(len(image), -1)
    return peer(image, noise=noise, interpolate_pos_encoding=True).last_hidden_state


@pytest.mark.parametrize("num_frames", [8, 16, 32])
@torch.no_grad()
def test_videomae_equals_transformers_at_any_number_of_frames(
    num_frames, toy_videomae, shaken, tmp_path
):
    peer = videomae_peer(shaken, num_frames)
    ours = ours_with_weights_of(peer, toy_videomae, tmp_path, load_head=True)
    video = torch.randn(2, 3, num_frames, 16, 16)
    expected = peer.videomae(video.transpose(1, 2)).last_hidden_state.mean(1)
    features = ours.forward_prefix(video, 2)
    assert (features - peer.fc_norm(expected)).abs().max() < 1e-4
    assert (ours(video) - peer(video.transpose(1, 2)).logits).abs().max() < 1e-4


def test_videomae_gradients_equal_transformers(toy_videomae, shaken, tmp_path):
    peer = videomae_peer(shaken)
    ours = ours_with_weights_of(peer, toy_videomae, tmp_path, load_head=True)
    video = torch.randn(2, 3, 16, 16, 16)
    ours(video).square().sum().backward()
    peer(video.transpose(1, 2)).logits.square().sum().backward()
    layer = peer.videomae.encoder.layer[1].attention.attention
    parts = (layer.query, layer.key, layer.value)
    qkv = ours.blocks[1].attn.qkv
    pairs = {
        "patches": (
            ours.patch_embed.proj.weight,
            peer.videomae.embeddings.patch_embeddings.projection.weight,
        ),
        "query bias": (qkv.q_bias, layer.query.bias),
        "value bias": (qkv.v_bias, layer.value.bias),
        "norm": (ours.norm.weight, peer.fc_norm.weight),
    }
    found = {name: (a.grad, b.grad) for name, (a, b) in pairs.items()}
    found["qkv"] = (qkv.weight.grad, torch.cat([part.weight.grad for part in parts]))
    for name, (mine, theirs) in found.items():
        assert (mine - theirs).abs().max() < 1e-3 * theirs.abs().max(), name


@pytest.mark.parametrize("size", [(16, 16), (24, 20)], ids=["as trained", "interpolated"])
@torch.no_grad()
def test_mae_features_equal_transformers(size, toy_mae, shaken, tmp_path):
    peer = mae_peer(shaken)
    ours = ours_with_weights_of(peer, toy_mae, tmp_path, load_head=False)
    image = torch.randn(2, 3, *size)
    expected = peer_tokens(peer, image)[:, 0]
    assert (ours.forward_prefix(image[:, :, None], 2) - expected).abs().max() < 1e-4


@torch.no_grad()
def test_mae_fine_tuned_on_the_mean_reads_the_patches_alone(toy_mae_mean, shaken, tmp_path):
    peer = mae_peer(shaken)
    fc_norm = shaken(nn.LayerNorm(16, eps=1e-6))
    state = {f"vit.{key}": t for key, t in peer.state_dict().items() if "layernorm." not in key}
    state |= {f"fc_norm.{key}": tensor for key, tensor in fc_norm.state_dict().items()}
    torch.save(state, tmp_path / "mean.pth")
    ours = VisionTransformer(toy_mae_mean, 5).eval()
    load_backbone(ours, tmp_path / "mean.pth")
    peer.layernorm = nn.Identity()
    image = torch.randn(2, 3, 16, 16)
    expected = fc_norm(peer_tokens(peer, image)[:, 1:].mean(1))
    assert (ours.forward_prefix(image[:, :, None], 2) - expected).abs().max() < 1e-4


@torch.no_grad()
def test_fine_tuned_image_classifier_equals_transformers(toy_mae, shaken, tmp_path):
    peer = shaken(ViTForImageClassification(ViTConfig(**NUMBERS, num_labels=5))).eval()
    ours = ours_with_weights_of(peer, toy_mae, tmp_path, load_head=True)
    image = torch.randn(2, 3, 16, 16)
    assert (ours(image[:, :, None]) - peer(image).logits).abs().max() < 1e-4


def test_frames_of_a_clip_get_the_positions_of_the_image(toy_mae):
    model = VisionTransformer(toy_mae, 5)
    positions = model._positions_for((3, 4, 4))[0]
    frames = positions[1:].view(3, 16, 16)
    assert torch.allclose(frames, model.pos_embed[:, 1:].expand(3, -1, -1), atol=1e-6)
    assert torch.equal(positions[0], model.pos_embed[0, 0])


def test_fixed_positions_keep_their_time_and_stretch_over_space(toy_videomae):
    model = VisionTransformer(toy_videomae, 5)
    native = model._positions_for((8, 4, 4))[0]
    assert torch.equal(native, torch.from_numpy(sine_cosine(128, 16)))
    assert torch.equal(model._positions_for((4, 4, 4))[0], native[:64])
    assert torch.equal(model._positions_for((16, 4, 4))[0, :128], native)
    wide = model._positions_for((8, 4, 8))[0].view(8, 4, 8, 16)
    pairs = wide.unflatten(2, (4, 2)).mean(3)[:, :, 1:-1]
    middle = native.view(8, 4, 4, 16)[:, :, 1:-1]
    assert (pairs - middle).abs().mean() < 0.2 * middle.abs().mean()


def test_learned_positions_of_another_size_learn_too(toy_mae):
    model = VisionTransformer(toy_mae, 5)
    model(torch.randn(1, 3, 1, 20, 20)).sum().backward()
    assert model.pos_embed.grad.abs().sum(-1).min() > 0


@torch.no_grad()
def test_positions_follow_weights_that_are_loaded_later(toy_mae):
    model, other = (VisionTransformer(toy_mae, 5).eval() for _ in range(2))
    image = torch.randn(1, 3, 1, 20, 20)
    before = model(image)
    model.load_state_dict(other.state_dict())
    assert not torch.equal(model(image), before)
    assert torch.equal(model(image), other(image))


def test_linear_positions_stay_linear_when_time_is_stretched():
    rows = torch.arange(4.0)[:, None]
    longer = resize_positions(rows, (4, 1, 1), (8, 1, 1)).flatten()
    assert torch.allclose(longer[1:-1].diff(), torch.full((5,), 0.5))


def test_whole_stage_of_a_deeper_vit_is_three_blocks_of_twelve(toy_mae):
    deep = dataclasses.replace(toy_mae, depths=(3, 3, 3, 3))
    calls = []
    model = VisionTransformer(deep, 5)
    for site, block in model.block_modules():
        block.register_forward_hook(lambda *_, site=site: calls.append((site.stage, site.block)))
    features = model.forward_prefix(torch.randn(1, 3, 1, 16, 16), 2)
    assert calls == [(stage, block) for stage in (1, 2) for block in (1, 2, 3)]
    model.forward_suffix(features, 2)
    assert calls[6:] == [(stage, block) for stage in (3, 4) for block in (1, 2, 3)]
