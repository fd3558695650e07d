"""ViT weights in the layouts in which they are published."""

import re

import pytest
import torch
from safetensors.torch import save_file

from vpetl_ray.errors import CheckpointError
from vpetl_ray.models.arch import ARCHS, get_arch
from vpetl_ray.models.build import build_model
from vpetl_ray.models.checkpoints import load_backbone, save_backbone, weights_fingerprint
from vpetl_ray.models.vit import VisionTransformer


@pytest.fixture
def make(shaken):
    return lambda arch: shaken(VisionTransformer(arch, 5)).eval()


def without_head(model):
    return {key: t for key, t in model.state_dict().items() if not key.startswith("head.")}


def pre_trained_mae(model):
    """Layout of mae_pretrain_vit_base.pth, and of the whole file with its decoder."""
    state = without_head(model)
    state["patch_embed.proj.weight"] = state["patch_embed.proj.weight"][:, :, 0]
    decoder = {
        "mask_token": torch.zeros(1, 1, 8),
        "decoder_pos_embed": torch.zeros(1, 17, 8),
        "decoder_blocks.0.norm1.weight": torch.zeros(8),
    }
    return {"model": state | decoder}


def fine_tuned_mae(model):
    """Layout of mae_finetuned_vit_base.pth: the mean of the patches, `fc_norm` and `head`."""
    state = dict(model.state_dict())
    state["patch_embed.proj.weight"] = state["patch_embed.proj.weight"][:, :, 0]
    return {"model": {re.sub(r"^norm\.", "fc_norm.", key): t for key, t in state.items()}}


def with_bias_beside_qkv(state):
    return {key.replace("attn.qkv.q_b", "attn.q_b").replace("attn.qkv.v_b", "attn.v_b"): tensor
            for key, tensor in state.items()}  # fmt: skip


def pre_trained_videomae(model):
    """Layout of VideoMAE's pre-training: `encoder.`, and a decoder."""
    state = with_bias_beside_qkv(without_head(model))
    encoder = {f"encoder.{key}": tensor for key, tensor in state.items()}
    decoder = {
        "mask_token": torch.zeros(1, 1, 8),
        "encoder_to_decoder.weight": torch.zeros(8, 16),
        "decoder.blocks.0.attn.q_bias": torch.zeros(8),
        "decoder.head.weight": torch.zeros(8, 8),
    }
    return {"model": encoder | decoder, "epoch": 1600}


def fine_tuned_videomae(model):
    """Layout of VideoMAE's fine-tuning: `fc_norm` and `head`, under DeepSpeed's `module`."""
    state = with_bias_beside_qkv(model.state_dict())
    return {"module": {re.sub(r"^norm\.", "fc_norm.", key): t for key, t in state.items()}}


def hub_videomae(model):
    """Layout of the first files for transformers: biases of queries and values apart."""
    names = (
        (r"^patch_embed\.proj", "embeddings.patch_embeddings.projection"),
        (r"^blocks\.", "encoder.layer."),
        (r"attn\.proj", "attention.output.dense"),
        (r"attn\.qkv\.([qv]_bias)", r"attention.attention.\1"),
        (r"mlp\.fc1", "intermediate.dense"),
        (r"mlp\.fc2", "output.dense"),
        (r"norm1", "layernorm_before"),
        (r"norm2", "layernorm_after"),
        (r"^norm\.", "layernorm."),
    )
    state = {}
    for key, tensor in without_head(model).items():
        new = key
        for pattern, replacement in names:
            new = re.sub(pattern, replacement, new)
        if key.endswith("qkv.weight"):
            prefix = new.replace("attn.qkv.weight", "attention.attention")
            parts = zip(("query", "key", "value"), tensor.chunk(3), strict=True)
            state.update({f"videomae.{prefix}.{name}.weight": part for name, part in parts})
        else:
            state[f"videomae.{new}"] = tensor
    return state


EXACT = {
    "MAE pre-trained": ("toy_mae", pre_trained_mae, "MAE or VideoMAE"),
    "MAE fine-tuned": ("toy_mae_mean", fine_tuned_mae, "MAE or VideoMAE"),
    "VideoMAE fine-tuned": ("toy_videomae", fine_tuned_videomae, "MAE or VideoMAE"),
}


@pytest.mark.parametrize(("arch", "layout", "name"), EXACT.values(), ids=EXACT)
def test_published_file_loads_by_its_own_keys(arch, layout, name, make, request, tmp_path):
    arch = request.getfixturevalue(arch)
    source, fresh = make(arch), make(arch)
    torch.save(layout(source), tmp_path / "vit.pth")
    report = load_backbone(fresh, tmp_path / "vit.pth")
    assert report.format == name
    expected = without_head(source)
    assert report.num_tensors == len(expected)
    assert all(torch.equal(fresh.state_dict()[key], expected[key]) for key in expected)
    assert not torch.equal(fresh.head.weight, source.head.weight)


@pytest.mark.parametrize("layout", [pre_trained_videomae, hub_videomae])
def test_norm_of_videomae_pre_training_is_not_taken_for_the_one_behind_the_mean(
    layout, toy_videomae, make, tmp_path
):
    source, fresh = make(toy_videomae), make(toy_videomae)
    torch.save(layout(source), tmp_path / "vit.pth")
    report = load_backbone(fresh, tmp_path / "vit.pth")
    assert report.notes == (
        "the norm behind the mean of the patches starts new, as in fine-tuning; "
        "the encoder's own norm was left out",
    )
    state, expected = fresh.state_dict(), without_head(source)
    assert all(
        torch.equal(state[key], expected[key]) for key in expected if not key.startswith("norm.")
    )
    assert (state["norm.weight"] == 1).all()
    assert not state["norm.bias"].any()


def test_classifier_is_loaded_when_asked_for(toy_videomae, make, tmp_path):
    source, fresh = make(toy_videomae), make(toy_videomae)
    torch.save(fine_tuned_videomae(source), tmp_path / "vit.pth")
    assert load_backbone(fresh, tmp_path / "vit.pth", load_head=True).has_loaded_head
    video = torch.randn(1, 3, 16, 16, 16)
    with torch.no_grad():
        assert torch.equal(fresh(video), source(video))


def test_positions_of_another_image_size_are_fitted(toy_mae, make, tmp_path):
    source, fresh = make(toy_mae), make(toy_mae)
    content = pre_trained_mae(source)
    table = torch.randn(1, 1 + 36, 16)
    content["model"]["pos_embed"] = table
    torch.save(content, tmp_path / "large.pth")
    report = load_backbone(fresh, tmp_path / "large.pth")
    assert report.notes == ("positions of 6 x 6 patches were fitted to 4 x 4",)
    assert torch.equal(fresh.pos_embed[:, 0], table[:, 0])


@pytest.mark.parametrize("dtype", [None, torch.float16], ids=["fp32", "fp16"])
@pytest.mark.parametrize("name", ["toy_mae", "toy_mae_mean", "toy_videomae"])
def test_saved_backbone_comes_back(name, dtype, make, request, tmp_path):
    arch = request.getfixturevalue(name)
    source, fresh = make(arch), make(arch)
    path = save_backbone(source, tmp_path / "w.safetensors", dtype=dtype)
    report = load_backbone(fresh, path)
    assert (report.format, report.notes) == ("vpetl_ray", ())
    for key, tensor in without_head(source).items():
        stored = tensor.to(dtype).float() if dtype else tensor
        assert torch.equal(fresh.state_dict()[key], stored)
    assert weights_fingerprint(path) == weights_fingerprint(fresh)


@pytest.mark.parametrize(
    ("name", "layout"),
    [("vit_nano_mae", pre_trained_mae), ("vit_nano_mae_mean", fine_tuned_mae),
     ("vit_nano_videomae", fine_tuned_videomae)],
)  # fmt: skip
def test_fingerprint_of_a_published_file_needs_no_architecture(name, layout, make, tmp_path):
    model = make(get_arch(name))
    torch.save(layout(model), tmp_path / "nano.pth")
    assert weights_fingerprint(tmp_path / "nano.pth") == weights_fingerprint(model)


# What must be refused. Each maker gives what is written and what the message must say.


def swin_weights(_model):
    with torch.device("meta"):
        state = build_model(get_arch("swin3d_nano"), 2).state_dict()
    state = {key: torch.zeros(tensor.shape) for key, tensor in state.items()}
    return state, r"these weights are swin3d_nano \(.*\), the spec asks for toy_videomae \(embed_d"


def images_for_videos(model):
    state = without_head(model)
    state["patch_embed.proj.weight"] = state["patch_embed.proj.weight"][:, :, 0]
    return state, "patch 1 x 4 x 4.*, the spec asks for toy_videomae .*patch 2 x 4 x 4"


def deeper(model):
    state = without_head(model)
    extra = {key.replace("blocks.2.", "blocks.3."): t for key, t in state.items()}
    return state | extra, "13 unexpected tensors: blocks.3"


def missing_block(model):
    state = {key: t for key, t in without_head(model).items() if not key.startswith("blocks.1.")}
    return state, "13 missing tensors: blocks.1"


def missing_key_projection(model):
    state = hub_videomae(model)
    del state["videomae.encoder.layer.0.attention.attention.key.weight"]
    return state, "1 missing tensor: blocks.0.attn.qkv.weight"


def scalars(model):
    return {key: torch.tensor(1.0) for key in hub_videomae(model)}, "these are no ViT weights"


def key_bias(model):
    state = without_head(model)
    state["blocks.0.attn.qkv.bias"] = torch.zeros(48)
    return state, "1 unexpected tensor: blocks.0.attn.qkv.bias"


def nan(model):
    state = without_head(model)
    return state | {"blocks.0.norm1.bias": torch.full((16,), torch.nan)}, "with NaN or infinite"


BAD = (swin_weights, images_for_videos, deeper, missing_block, missing_key_projection, scalars,
       key_bias, nan)  # fmt: skip


@pytest.mark.parametrize("make_bad", BAD, ids=lambda maker: maker.__name__)
def test_bad_file_is_refused_by_name_and_changes_nothing(make_bad, toy_videomae, make, tmp_path):
    state, message = make_bad(make(toy_videomae))
    save_file({key: tensor.contiguous().clone() for key, tensor in state.items()}, tmp_path / "bad")
    fresh = make(toy_videomae)
    before = {key: tensor.clone() for key, tensor in fresh.state_dict().items()}
    with pytest.raises(CheckpointError, match=message) as caught:
        load_backbone(fresh, tmp_path / "bad")
    assert str(caught.value).startswith(str(tmp_path / "bad"))
    assert "\n" not in str(caught.value)
    assert all(torch.equal(fresh.state_dict()[key], before[key]) for key in before)


@pytest.mark.parametrize("shape", [(1, 18, 16), (2, 17, 16), (1, 1, 16), (17, 16), (1, 17, 8)])
def test_positions_that_are_no_square_are_refused(shape, toy_mae, make, tmp_path):
    content = pre_trained_mae(make(toy_mae))
    content["model"]["pos_embed"] = torch.zeros(shape)
    torch.save(content, tmp_path / "bad.pth")
    with pytest.raises(CheckpointError, match="1 tensor of another shape: pos_embed is"):
        load_backbone(make(toy_mae), tmp_path / "bad.pth")


def test_weights_that_read_the_mean_are_refused_where_the_class_token_is_read(make, tmp_path):
    model = make(get_arch("vit_nano_mae_mean"))
    torch.save(fine_tuned_mae(model), tmp_path / "mean.pth")
    with pytest.raises(CheckpointError, match="the architecture for that is vit_nano_mae_mean"):
        load_backbone(make(get_arch("vit_nano_mae")), tmp_path / "mean.pth")


def test_swin_asked_for_a_vit_file_says_which_it_is(make, tmp_path):
    torch.save(pre_trained_mae(make(get_arch("vit_nano_mae"))), tmp_path / "vit.pth")
    swin = build_model(get_arch("swin3d_nano"), 2)
    with pytest.raises(CheckpointError, match=r"are vit_nano_mae \(.* asks for swin3d_nano"):
        load_backbone(swin, tmp_path / "vit.pth")


@pytest.mark.parametrize("name", [name for name in ARCHS if name.startswith("vit_b")])
def test_wrong_size_is_told_by_its_name(name, tmp_path):
    with torch.device("meta"):
        state = build_model(get_arch(name), 2).state_dict()
        large = build_model(get_arch(name.replace("vit_b", "vit_l")), 2)
    torch.save({k: torch.zeros(1).expand(t.shape) for k, t in state.items()}, tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match=r"are vit_b_.*depth 12.* asks for vit_l_.*depth 24"):
        load_backbone(large, tmp_path / "b.pth")
