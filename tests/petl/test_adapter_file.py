from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from vpetl_ray.errors import CheckpointError
from vpetl_ray.models.arch import get_arch
from vpetl_ray.models.backbone import Backbone
from vpetl_ray.models.build import build_model
from vpetl_ray.petl.adapter_file import load_adapter, read_header, save_adapter
from vpetl_ray.petl.attach import attach
from vpetl_ray.petl.config import PetlConfig
from vpetl_ray.petl.methods import AdapterConfig, MethodConfig, PattConfig

PATT = PattConfig(targets=("q", "v"), d_bottle=4, scale="learned", stages=(2, 3))


@pytest.fixture
def saved(tmp_path: Path, model: Backbone, video: torch.Tensor) -> tuple[Path, torch.Tensor]:
    return _save(tmp_path, model, video, PATT)


def _save(
    folder: Path, model: Backbone, video: torch.Tensor, method: MethodConfig
) -> tuple[Path, torch.Tensor]:
    config = PetlConfig(methods=(method,), train_classifier=False)
    attached = attach(model, config, seed=0)
    with torch.no_grad():
        for parameter in attached.trainable.values():
            parameter.add_(0.1)
        logits = model(video)
    path = folder / "adapter.safetensors"
    save_adapter(path, attached, {"trial": "t0007", "top1": 81.5})
    attached.detach()
    return path, logits


@pytest.mark.every_backbone
def test_loaded_adapter_gives_the_logits_that_were_saved(
    tmp_path: Path, model: Backbone, video: torch.Tensor, method: MethodConfig
):
    path, logits = _save(tmp_path, model, video, method)
    attached = load_adapter(path, model)
    with torch.no_grad():
        assert torch.equal(model(video), logits)
    assert attached.config.methods == (method,)


def test_file_is_small_whole_and_says_what_it_is(saved: tuple[Path, torch.Tensor]):
    path, _ = saved
    header = read_header(path)
    assert header["arch"] == "swin3d_nano"
    assert header["extra"] == {"trial": "t0007", "top1": 81.5}
    assert PetlConfig.from_dict(header["config"]).methods == (PATT,)
    assert path.stat().st_size < 60_000
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_other_backbone_weights_are_refused_unless_told(
    saved: tuple[Path, torch.Tensor], model: Backbone
):
    torch.manual_seed(99)
    other = build_model(model.arch, model.head.out_features)
    with pytest.raises(CheckpointError, match="other backbone weights"):
        load_adapter(saved[0], other)
    assert all(p.requires_grad for p in other.parameters())
    load_adapter(saved[0], other, check_backbone=False)


def test_another_architecture_or_number_of_classes_is_refused(
    saved: tuple[Path, torch.Tensor], model: Backbone
):
    with pytest.raises(CheckpointError, match="num_classes 5, this model has 6"):
        load_adapter(saved[0], build_model(model.arch, 6))
    with pytest.raises(CheckpointError, match="arch swin3d_nano, this model has swin3d_t"):
        load_adapter(saved[0], build_model(get_arch("swin3d_t"), 5))


def test_what_is_no_adapter_file_is_refused(
    saved: tuple[Path, torch.Tensor], model: Backbone, tmp_path: Path
):
    torn, foreign = tmp_path / "torn.safetensors", tmp_path / "foreign.safetensors"
    torn.write_bytes(saved[0].read_bytes()[:100])
    save_file({"x": torch.zeros(1)}, foreign)
    for path, message in (
        (tmp_path / "absent.safetensors", "there is no such file"),
        (torn, "cannot be read"),
        (foreign, "is no adapter file"),
        (tmp_path, "cannot be read"),
    ):
        with pytest.raises(CheckpointError, match=message):
            load_adapter(path, model)


def test_adapter_config_is_attached_whatever_stages_it_has(
    tmp_path: Path, model: Backbone, video: torch.Tensor
):
    path, logits = _save(tmp_path, model, video, AdapterConfig(d_bottle=3, stages=(1,)))
    load_adapter(path, model)
    with torch.no_grad():
        assert torch.equal(model(video), logits)
