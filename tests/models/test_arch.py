import json
from dataclasses import asdict

import pytest
import torch

from vpetl_ray.errors import VpetlError
from vpetl_ray.models.arch import ARCHS, SwinArch, count_backbone, get_arch
from vpetl_ray.models.build import build_model


@pytest.mark.parametrize("name", ARCHS)
def test_counted_parameters_equal_those_of_the_built_model(name):
    with torch.device("meta"):
        model = build_model(get_arch(name), 7)
    built = sum(p.numel() for p in model.parameters()) - sum(
        p.numel() for p in model.head.parameters()
    )
    assert count_backbone(get_arch(name)) == built


def test_swin_b_counts_what_the_paper_counts():
    arch = get_arch("swin3d_b")
    assert count_backbone(arch) == 87_638_984
    assert sum(site.dim for site in arch.blocks()) == 12_032
    assert arch.num_features == 1024


def test_block_sites_are_one_based_and_in_order_of_depth():
    sites = get_arch("swin3d_t").blocks()
    assert [site.index for site in sites] == list(range(12))
    assert (sites[0].stage, sites[0].block, sites[0].dim) == (1, 1, 96)
    last = sites[-1]
    assert (last.stage, last.block, last.dim, last.num_heads, last.mlp_dim) == (4, 2, 768, 24, 3072)
    assert last.window_tokens == 8 * 7 * 7


def test_unknown_architecture_names_the_nearest_and_all():
    with pytest.raises(VpetlError, match=r"did you mean swin3d_.*known are swin3d_nano.*swin3d_l"):
        get_arch("swin3d_x")


def test_architecture_survives_json():
    arch = get_arch("swin3d_b_w16")
    assert SwinArch.from_dict(json.loads(json.dumps(asdict(arch)))) == arch
