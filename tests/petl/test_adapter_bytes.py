from pathlib import Path

import pytest
import torch

from vpetl_ray.models.arch import get_arch
from vpetl_ray.models.backbone import Backbone
from vpetl_ray.petl.adapter_bytes import count_adapter_bytes
from vpetl_ray.petl.adapter_file import save_adapter
from vpetl_ray.petl.attach import attach
from vpetl_ray.petl.config import PetlConfig
from vpetl_ray.petl.methods import AdapterConfig, BitFitConfig, FullConfig, MethodConfig, PattConfig

FACTS = {"trial": "t0007", "seed": 3, "classes": ["brush hair", 'the "wave"', "größer\n"]}


def file_bytes(folder: Path, model: Backbone, config: PetlConfig) -> int:
    attached = attach(model, config, seed=0)
    save_adapter(folder / "adapter.safetensors", attached, FACTS)
    attached.detach()
    return (folder / "adapter.safetensors").stat().st_size


def counted(model: Backbone, config: PetlConfig) -> int:
    return count_adapter_bytes(config, model.arch, model.head.out_features, FACTS)


@pytest.mark.every_backbone
def test_bytes_are_those_of_the_file(tmp_path: Path, model: Backbone, method: MethodConfig):
    config = PetlConfig(methods=(method,))
    assert counted(model, config) == file_bytes(tmp_path, model, config)


@pytest.mark.parametrize(
    "config",
    [
        PetlConfig(),
        PetlConfig(methods=(AdapterConfig(d_bottle=3),), train_classifier=False),
        PetlConfig(methods=(FullConfig(stages=(3,)), BitFitConfig())),
        PetlConfig(methods=(AdapterConfig(d_bottle=3), PattConfig(targets=("v",), d_bottle=9))),
    ],
    ids=["linear probe", "frozen classifier", "one tensor of two methods", "two methods"],
)
def test_bytes_of_what_is_put_together(tmp_path: Path, model: Backbone, config: PetlConfig):
    assert counted(model, config) == file_bytes(tmp_path, model, config)


def test_counting_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    count_adapter_bytes(PetlConfig(methods=(AdapterConfig(d_bottle=8),)), get_arch("swin3d_t"), 51)
    assert torch.equal(torch.get_rng_state(), before)
