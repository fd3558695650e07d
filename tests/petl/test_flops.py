from itertools import combinations

import pytest
import torch
from torch import Tensor

from vpetl_ray.models import blocks
from vpetl_ray.models.arch import get_arch
from vpetl_ray.models.backbone import Backbone
from vpetl_ray.models.counted import flop_counter
from vpetl_ray.petl.attach import attach
from vpetl_ray.petl.config import PetlConfig
from vpetl_ray.petl.flops import count_forward_flops
from vpetl_ray.petl.methods import (
    AdapterConfig,
    LoraConfig,
    MethodConfig,
    PattConfig,
    PattNoZConfig,
    PrefixConfig,
    PromptConfig,
)


def torch_counts(model: Backbone, config: PetlConfig, video: Tensor) -> int:
    attached = attach(model, config, seed=0)
    try:
        with torch.no_grad(), flop_counter() as counter:
            model(video)
        return int(counter.get_total_flops())
    finally:
        attached.detach()


def ours(model: Backbone, config: PetlConfig, video: Tensor) -> int:
    t, h, w = video.shape[2:]
    return count_forward_flops(config, model.arch, model.head.out_features, (t, h, w))


@pytest.mark.every_backbone
def test_flops_are_those_that_torch_counts(model: Backbone, method: MethodConfig, video: Tensor):
    config = PetlConfig(methods=(method,))
    assert ours(model, config, video[:1]) == torch_counts(model, config, video[:1])


@pytest.mark.every_backbone
@pytest.mark.parametrize("size", [(4, 24, 40), (6, 20, 36), (16, 64, 64)], ids=str)
def test_flops_follow_the_size_of_the_clip(
    model: Backbone, size: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
):
    """As the architecture has them: that a CPU multiplies padding once is not counted."""
    monkeypatch.setattr(blocks, "is_plain", lambda: False)
    video = torch.zeros(1, 3, *size)
    config = PetlConfig(methods=(PattConfig(targets=("k", "v"), d_bottle=3),))
    assert ours(model, config, video) == torch_counts(model, config, video)


TOGETHER = {
    "prompt": PromptConfig(num_tokens=3),
    "patt": PattConfig(targets=("q", "v"), d_bottle=4, stages=(1, 3)),
    "patt_no_z": PattNoZConfig(targets=("k",), d_bottle=3),
    "lora": LoraConfig(targets=("k", "fc2"), rank=2),
    "prefix": PrefixConfig(num_tokens=2, d_middle=4),
    "adapter": AdapterConfig(d_bottle=5),
}


@pytest.mark.parametrize("names", list(combinations(TOGETHER, 2)), ids="+".join)
def test_methods_that_meet_in_a_block_are_counted_together(
    model: Backbone, video: Tensor, names: tuple[str, str]
):
    config = PetlConfig(methods=tuple(TOGETHER[name] for name in names))
    assert ours(model, config, video[:1]) == torch_counts(model, config, video[:1])


def test_video_swin_b_has_the_flops_that_its_paper_says():
    # Table 1 of arXiv 2106.13230: 282 GFLOPs a view of 32 x 224 x 224, a multiply-add being one.
    flops = count_forward_flops(PetlConfig(), get_arch("swin3d_b"), 400, (32, 224, 224))
    assert flops / 2e9 == pytest.approx(282, rel=0.01)


def test_counting_builds_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.nn.Module, "__init__", None)
    config = PetlConfig(methods=(AdapterConfig(d_bottle=64),))
    assert count_forward_flops(config, get_arch("vit_l_videomae"), 174, (16, 224, 224)) > 10**12
