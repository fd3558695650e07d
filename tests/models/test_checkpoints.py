import dataclasses
import os
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from vpetl_ray.errors import CheckpointError
from vpetl_ray.models.arch import get_arch
from vpetl_ray.models.checkpoints import load_backbone, save_backbone, weights_fingerprint
from vpetl_ray.models.swin_weights import resize_table
from vpetl_ray.models.video_swin import VideoSwin

VIDEO = (1, 3, 8, 24, 24)


@pytest.fixture
def fresh(toy_arch):
    torch.manual_seed(1)
    return VideoSwin(toy_arch, 5).eval()


def as_published(model):
    """The state dict in the layout of the Video Swin authors' files."""
    state = {}
    for key, tensor in model.state_dict().items():
        is_head = key.startswith("head.")
        state[key.replace("head", "cls_head.fc_cls") if is_head else f"backbone.{key}"] = tensor
    for site, _ in model.block_modules():
        key = f"layers.{site.stage - 1}.blocks.{site.block - 1}.attn.relative_position_index"
        state[f"backbone.{key}"] = torch.zeros(4, 4, dtype=torch.long)
    return {"meta": {"epoch": 30, "config": "text"}, "state_dict": state, "optimizer": {"lr": 0.1}}


def as_image_weights(model, side):
    """A 2D Swin's state dict with a window of `side`, whose patch kernel `model` would inflate."""
    state = dict(model.state_dict())
    state["patch_embed.proj.weight"] = state["patch_embed.proj.weight"].sum(2)
    for key in [key for key in state if key.endswith("bias_table")]:
        state[key] = torch.randn((2 * side - 1) ** 2, state[key].shape[1])
        prefix = key.removesuffix("relative_position_bias_table")
        state[f"{prefix}relative_position_index"] = torch.zeros(side**2, side**2)
    state["layers.0.blocks.1.attn_mask"] = torch.zeros(4, 9, 9)
    return {"model": state}


def backbone_state(model):
    return {key: t for key, t in model.state_dict().items() if not key.startswith("head.")}


def assert_same(state, other):
    assert state.keys() == other.keys()
    assert all(torch.equal(state[key], other[key]) for key in state)


def test_published_file_loads_by_its_own_keys(toy, fresh, tmp_path):
    torch.save(as_published(toy), tmp_path / "swin.pth")
    head = fresh.head.weight.clone()
    report = load_backbone(fresh, tmp_path / "swin.pth")
    assert report.format == "Video Swin"
    assert report.num_parameters == sum(t.numel() for t in backbone_state(toy).values())
    assert_same(backbone_state(fresh), backbone_state(toy))
    assert torch.equal(fresh.head.weight, head)
    assert "classifier of 5 classes was left out" in report.notes[0]


def test_classifier_is_loaded_when_asked_for(toy, fresh, tmp_path):
    torch.save(as_published(toy), tmp_path / "swin.pth")
    assert load_backbone(fresh, tmp_path / "swin.pth", load_head=True).has_loaded_head
    assert_same(fresh.state_dict(), toy.state_dict())


def test_classifier_of_other_width_is_refused_only_when_asked_for(toy, toy_arch, tmp_path):
    save_backbone(toy, tmp_path / "w.safetensors", with_head=True)
    other = VideoSwin(toy_arch, 12)
    load_backbone(other, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=r"classifier is 5 x .*, the model has 12 x"):
        load_backbone(other, tmp_path / "w.safetensors", load_head=True)


def test_torchvision_file_gives_the_same_logits(fresh, toy_arch, torchvision_twin, tmp_path):
    peer = torchvision_twin(toy_arch, 5)
    torch.save(peer.state_dict(), tmp_path / "tv.pth")
    assert load_backbone(fresh, tmp_path / "tv.pth", load_head=True).format.startswith("torchv")
    video = torch.randn(VIDEO)
    with torch.no_grad():
        assert torch.allclose(fresh(video), peer(video), atol=1e-4)


def test_image_weights_are_inflated_so_that_a_still_video_gives_the_image_tokens(
    toy, fresh, tmp_path
):
    torch.save(as_image_weights(toy, 3), tmp_path / "swin2d.pth")
    report = load_backbone(fresh, tmp_path / "swin2d.pth")
    assert report.format == "2D Swin"
    image = torch.randn(1, 3, 1, 24, 24)
    kernel = torch.load(tmp_path / "swin2d.pth")["model"]["patch_embed.proj.weight"]
    bias = toy.patch_embed.proj.bias
    with torch.no_grad():
        expected = torch.nn.functional.conv2d(image[:, :, 0], kernel, bias, stride=4)
        tokens = fresh.patch_embed(image.expand(-1, -1, 2, -1, -1))
        normed = toy.patch_embed.norm(expected.permute(0, 2, 3, 1))
    assert torch.allclose(tokens[:, 0], normed, atol=1e-4)
    table = fresh.layers[0].blocks[0].attn.relative_position_bias_table.view(7, 25, -1)
    source = torch.load(tmp_path / "swin2d.pth")["model"][
        "layers.0.blocks.0.attn.relative_position_bias_table"
    ]
    assert all(torch.equal(table[t], source) for t in range(7))


def test_image_weights_of_another_window_are_resized(toy, fresh, tmp_path):
    torch.save(as_image_weights(toy, 6), tmp_path / "swin2d.pth")
    load_backbone(fresh, tmp_path / "swin2d.pth")
    source = torch.load(tmp_path / "swin2d.pth")["model"][
        "layers.1.blocks.0.attn.relative_position_bias_table"
    ]
    grid = source.T.view(1, 4, 11, 11)
    expected = torch.nn.functional.interpolate(grid, size=(5, 5), mode="bicubic")
    table = fresh.layers[1].blocks[0].attn.relative_position_bias_table.view(7, 25, 4)
    assert torch.allclose(table[3], expected.view(4, 25).T, atol=1e-6)


def test_longer_window_is_cut_without_change_for_clips_that_fit(toy, toy_arch, fresh, tmp_path):
    long = VideoSwin(dataclasses.replace(toy_arch, window_size=(7, 3, 3)), 5).eval()
    torch.nn.init.normal_(long.layers[0].blocks[1].attn.relative_position_bias_table)
    save_backbone(long, tmp_path / "long.safetensors", with_head=True)
    report = load_backbone(fresh, tmp_path / "long.safetensors", load_head=True)
    assert "window (7, 3, 3) were fitted to (4, 3, 3)" in report.notes[0]
    video = torch.randn(VIDEO)  # 4 tokens of time
    with torch.no_grad():
        assert torch.allclose(fresh(video), long(video), atol=1e-5)


def test_table_resized_to_a_longer_window_repeats_its_outermost_offsets():
    table = torch.arange(3.0)[:, None]
    assert resize_table(table, (2, 1, 1), (4, 1, 1)).flatten().tolist() == [0, 0, 0, 1, 2, 2, 2]


@pytest.mark.parametrize("dtype", [None, torch.float16], ids=["fp32", "fp16"])
def test_saved_backbone_comes_back(toy, fresh, tmp_path, dtype):
    path = save_backbone(toy, tmp_path / "w.safetensors", metadata={"made": "by me"}, dtype=dtype)
    report = load_backbone(fresh, path)
    assert report.metadata["made"] == "by me"
    assert report.dtype == ("float32" if dtype is None else "float16")
    assert fresh.head.weight.dtype == fresh.norm.weight.dtype == torch.float32
    expected = {k: t.to(dtype).float() if dtype else t for k, t in backbone_state(toy).items()}
    assert_same(backbone_state(fresh), expected)
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def test_branches_are_neither_saved_nor_asked_for(toy, fresh, tmp_path, add_branch):
    plain = weights_fingerprint(toy)
    add_branch(toy.layers[0].blocks[0].mlp_branches)
    path = save_backbone(toy, tmp_path / "w.safetensors")
    assert not [key for key in load_file(path) if "branches" in key]
    load_backbone(toy, path)
    assert weights_fingerprint(toy) == plain


def test_fingerprint_is_the_same_for_a_model_and_any_file_of_it(toy, toy_arch, tmp_path):
    fingerprint = weights_fingerprint(toy)
    own = save_backbone(toy, tmp_path / "w.safetensors")
    torch.save(as_published(toy), tmp_path / "swin.pth")
    assert weights_fingerprint(own) == fingerprint
    assert weights_fingerprint(tmp_path / "swin.pth", toy_arch) == fingerprint
    with torch.no_grad():
        toy.head.weight.add_(1)
        assert weights_fingerprint(toy) == fingerprint
        toy.norm.bias.add_(1e-3)
        assert weights_fingerprint(toy) != fingerprint


def test_fingerprint_of_a_published_file_needs_no_architecture(tmp_path):
    nano = VideoSwin(get_arch("swin3d_nano"), 3)
    torch.save(as_published(nano), tmp_path / "nano.pth")
    assert weights_fingerprint(tmp_path / "nano.pth") == weights_fingerprint(nano)


# What must be refused. Each maker writes a bad file and returns what the message must say.


def missing_file(path, _toy):
    return "no such weights file"


def folder(path, _toy):
    path.mkdir()
    return "is a folder"


def empty_file(path, _toy):
    path.touch()
    return "neither a safetensors nor a torch file"


def text_file(path, _toy):
    path.write_text("version https://git-lfs.github.com/spec/v1\n")
    return "neither a safetensors nor a torch file"


def truncated_torch_file(path, toy):
    torch.save(as_published(toy), path)
    path.write_bytes(path.read_bytes()[:-5000])
    return "truncated or corrupt torch file"


def truncated_legacy_file(path, toy):
    torch.save(as_published(toy), path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:5000])
    return "truncated or corrupt torch file"


def truncated_safetensors(path, toy):
    save_backbone(toy, path)
    path.write_bytes(path.read_bytes()[:-100])
    return "truncated or corrupt safetensors"


def safetensors_with_lying_header(path, _toy):
    path.write_bytes((2**60).to_bytes(8, "little") + b'{"a": 1}')
    return "truncated or corrupt safetensors"


def no_weights_inside(path, _toy):
    torch.save({"epoch": 3, "lr": 0.1}, path)
    return r"holds no weights \(its keys: epoch, lr\)"


def a_list(path, _toy):
    torch.save([1, 2], path)
    return "holds a list"


def another_network(path, _toy):
    save_file({"conv1.weight": torch.zeros(3), "fc.bias": torch.zeros(2)}, path)
    return r"no Swin weights \(first keys: conv1.weight, fc.bias\)"


def wrong_architecture(path, _toy):
    save_backbone(VideoSwin(get_arch("swin3d_nano"), 3), path)
    return r"these weights are swin3d_nano \(embed_dim 32, depths 2,2,2, .* asks for toy"


def missing_tensors(path, toy):
    state = backbone_state(toy)
    del state["layers.0.blocks.0.norm1.weight"], state["norm.bias"]
    save_file(state, path)
    return "2 missing tensors: layers.0.blocks.0.norm1.weight, norm.bias"


def unexpected_tensors(path, toy):
    save_file(backbone_state(toy) | {f"extra.{i}": torch.zeros(1) for i in range(9)}, path)
    return "9 unexpected tensors: extra.0, extra.1, extra.2, extra.3, extra.4 and 4 more"


def other_shape(path, toy):
    save_file(backbone_state(toy) | {"norm.bias": torch.zeros(31)}, path)
    return "1 tensor of another shape: norm.bias is 31, needed is 32"


def nan_weights(path, toy):
    save_file(backbone_state(toy) | {"norm.bias": torch.full((32,), torch.nan)}, path)
    return "1 tensor with NaN or infinite values: norm.bias"


def integer_weights(path, toy):
    save_file(backbone_state(toy) | {"norm.bias": torch.zeros(32, dtype=torch.int8)}, path)
    return r"1 tensor not stored as .* floats: norm.bias \(torch.int8\)"


def scalars(path, toy):
    save_file({key: torch.tensor(1.0) for key in backbone_state(toy)}, path)
    return "no Swin weights"


@pytest.mark.parametrize(
    "make_file",
    [
        missing_file,
        folder,
        empty_file,
        text_file,
        truncated_torch_file,
        truncated_legacy_file,
        truncated_safetensors,
        safetensors_with_lying_header,
        no_weights_inside,
        a_list,
        another_network,
        wrong_architecture,
        missing_tensors,
        unexpected_tensors,
        other_shape,
        nan_weights,
        integer_weights,
        scalars,
    ],
    ids=lambda maker: maker.__name__,
)
def test_bad_file_is_refused_by_name_and_changes_nothing(make_file, toy, fresh, tmp_path):
    path = tmp_path / "weights"
    message = make_file(path, toy)
    before = {key: tensor.clone() for key, tensor in fresh.state_dict().items()}
    with pytest.raises(CheckpointError, match=message) as caught:
        load_backbone(fresh, path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert_same(fresh.state_dict(), before)


class Intruder:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return subprocess.check_call, (["touch", str(self.target)],)


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
def test_pickle_with_code_is_refused_and_not_run(toy, fresh, tmp_path, is_zip):
    content = {"state_dict": toy.state_dict(), "hook": Intruder(tmp_path / "ran")}
    torch.save(content, tmp_path / "evil.pth", _use_new_zipfile_serialization=is_zip)
    with pytest.raises(CheckpointError, match=r"pickled code \(\w+.check_call\)"):
        load_backbone(fresh, tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


def test_relative_path_is_told_as_an_absolute_one(fresh, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=f"{tmp_path}{os.sep}gone.pth"):
        load_backbone(fresh, "gone.pth")


def test_wrong_size_of_swin_is_told_by_its_name(tmp_path):
    with torch.device("meta"):
        state = VideoSwin(get_arch("swin3d_b"), 2).state_dict()
    torch.save({k: torch.zeros(1).expand(t.shape) for k, t in state.items()}, tmp_path / "b.pth")
    with torch.device("meta"):
        model = VideoSwin(get_arch("swin3d_t"), 2)
    with pytest.raises(
        CheckpointError, match=r"are swin3d_b \(embed_dim 128, depths 2,2,18,2,.* asks for swin3d_t"
    ):
        load_backbone(model, tmp_path / "b.pth")


def test_saving_into_a_folder_that_is_not_there_is_told(toy, tmp_path):
    with pytest.raises(CheckpointError, match="cannot be written"):
        save_backbone(toy, tmp_path / "gone" / "w.safetensors")


def test_table_of_a_larger_square_window_is_resized_over_space(toy, toy_arch, fresh, tmp_path):
    """As of files for images of 384 pixels, whose windows are 12 wide."""
    wide = VideoSwin(dataclasses.replace(toy_arch, window_size=(4, 5, 5)), 5)
    save_backbone(wide, tmp_path / "wide.safetensors")
    report = load_backbone(fresh, tmp_path / "wide.safetensors")
    assert "window (4, 5, 5) were fitted to (4, 3, 3)" in report.notes[0]
    source, table = (
        model.layers[0].blocks[0].attn.relative_position_bias_table for model in (wide, fresh)
    )
    images = source.detach().view(7, 9, 9, 2).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(images, size=(5, 5), mode="bicubic")
    assert torch.allclose(table.view(7, 5, 5, 2), expected.permute(0, 2, 3, 1), atol=1e-6)
