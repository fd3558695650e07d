"""Placement by blocks: where tensors are, and that equal builds have equal keys."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpetl_ray.errors import VpetlError
from vpetl_ray.models.arch import get_arch
from vpetl_ray.models.backbone import Backbone
from vpetl_ray.petl.attach import attach
from vpetl_ray.petl.config import PetlConfig, make_method
from vpetl_ray.petl.count import count_trainable
from vpetl_ray.petl.method import method_to_dict
from vpetl_ray.petl.methods import (
    AdapterConfig,
    BitFitConfig,
    FullConfig,
    PattConfig,
    PositionConfig,
    PromptConfig,
)

NANO = get_arch("swin3d_nano")
SWIN_B = get_arch("swin3d_b")


def adapter(**where):
    return AdapterConfig(d_bottle=2, **where)


def key(*methods, arch=NANO):
    return PetlConfig(methods=methods).key(arch)


@pytest.mark.every_backbone
def test_a_branch_is_in_the_chosen_blocks_and_in_no_other(model: Backbone):
    config = PetlConfig(methods=(adapter(blocks=(2, 6)),), train_classifier=False)
    attached = attach(model, config, seed=0)
    filled = [s.index + 1 for s, block in model.block_modules() if len(block.mlp_branches)]
    assert filled == [2, 6]
    assert attached.first_depth == 0
    assert {name.rsplit(".", 2)[0] for name in attached.trainable} == {
        "adapter.stage1.block2",
        "adapter.stage3.block2",
    }


@pytest.mark.every_backbone
def test_own_tensors_of_blocks_are_those_inside_of_them(model: Backbone):
    config = PetlConfig(methods=(FullConfig(blocks=(3, 4)),), train_classifier=False)
    attached = attach(model, config, seed=0)
    blocks = [block for site, block in model.block_modules() if site.stage == 2]
    inside = {p for block in blocks for p in block.parameters()}
    assert set(attached.trainable.values()) == inside
    assert attached.first_depth == 1


def test_a_block_that_does_not_exist_is_refused():
    config = PetlConfig(methods=(PattConfig(targets=("k",), d_bottle=1, blocks=(25,)),))
    with pytest.raises(VpetlError) as caught:
        config.check(SWIN_B)
    sentence = "patt.blocks: block 25 does not exist; swin3d_b has blocks 1 to 24"
    assert str(caught.value) == sentence


def test_a_block_that_has_the_method_already_is_refused():
    twice = PetlConfig(methods=(adapter(blocks=(1, 3)), AdapterConfig(d_bottle=4, stages=(2,))))
    with pytest.raises(VpetlError, match=r"adapter\.blocks: block 3 has it already"):
        twice.check(NANO)
    PetlConfig(methods=(adapter(blocks=(1, 3)), AdapterConfig(d_bottle=4, blocks=(4,)))).check(NANO)


def test_blocks_that_are_no_list_are_refused():
    with pytest.raises(VpetlError, match=r"adapter\.blocks: must be a list of blocks, got '12'"):
        make_method({"name": "adapter", "d_bottle": 1, "blocks": "12"})


def test_a_config_without_blocks_is_written_as_before_there_were_any():
    assert "blocks" not in method_to_dict(adapter(stages=(1,)))
    assert method_to_dict(adapter(blocks=(3, 1)))["blocks"] == [1, 3]


SAME = {
    "whole stages are stages": [(adapter(stages=(1, 3)),), (adapter(blocks=(1, 2, 5, 6)),)],
    "all blocks are all": [
        (adapter(),),
        (adapter(blocks=(1, 2, 3, 4, 5, 6)),),
        (adapter(blocks=(1, 3, 5)), adapter(blocks=(2, 4, 6))),
        (adapter(stages=(1,)), adapter(stages=(2, 3), blocks=(1, 3, 4, 5, 6))),
    ],
    "both are what is in both": [
        (adapter(stages=(2,), blocks=(1, 3)),),
        (adapter(blocks=(3,)),),
    ],
    "nothing in both is nothing": [(adapter(stages=(1,), blocks=(3,)),), ()],
    "no block is nothing": [(BitFitConfig(blocks=()),), ()],
    "a stage and a part of another": [
        (adapter(stages=(1,)), adapter(blocks=(3,))),
        (adapter(blocks=(1, 2, 3)),),
    ],
    "position without anything between blocks": [
        (PositionConfig(kinds=("qkv",), stages=(2,)),),
        (PositionConfig(kinds=("qkv",), blocks=(3, 4)),),
    ],
    "the first of each stage are shallow prompts": [
        (PromptConfig(num_tokens=2, depth="shallow"),),
        (PromptConfig(num_tokens=2, blocks=(1, 3, 5)),),
        (PromptConfig(num_tokens=2, depth="shallow", blocks=(1, 3, 5, 6)),),
    ],
    "in a block that is trained in full nothing is left for biases": [
        (FullConfig(blocks=(1, 2)), BitFitConfig(blocks=(2, 3))),
        (FullConfig(blocks=(1, 2)), BitFitConfig(blocks=(3,))),
    ],
}
OTHER = {
    "blocks leave out what is between them": [
        (FullConfig(stages=(1,)),),
        (FullConfig(blocks=(1, 2)),),
    ],
    "all blocks are not all of a backbone": [
        (BitFitConfig(),),
        (BitFitConfig(blocks=(1, 2, 3, 4, 5, 6)),),
    ],
    "one block or another": [(adapter(blocks=(1,)),), (adapter(blocks=(2,)),)],
    "biases between blocks that are trained in full": [
        (FullConfig(blocks=(1, 2)), BitFitConfig(stages=(1,))),
        (FullConfig(blocks=(1, 2)),),
    ],
}


@pytest.mark.parametrize("spellings", SAME.values(), ids=SAME)
def test_spellings_of_one_build_have_one_key(spellings):
    assert len({key(*methods) for methods in spellings}) == 1


@pytest.mark.parametrize("builds", OTHER.values(), ids=OTHER)
def test_other_builds_have_other_keys(builds):
    counts = {count_trainable(PetlConfig(methods=ms), NANO, 5).total for ms in builds}
    assert len({key(*methods) for methods in builds}) == len(builds)
    assert len(counts) > 1 or len(builds[0][0].blocks) == 1


blocks = st.one_of(st.none(), st.lists(st.integers(1, 6), unique=True).map(tuple))
stages = st.one_of(st.none(), st.lists(st.integers(1, 3), unique=True).map(tuple))


@settings(max_examples=300, deadline=None)
@given(stages=stages, blocks=blocks, other=blocks, is_own=st.booleans())
def test_key_is_equal_exactly_where_the_same_is_trained(stages, blocks, other, is_own):
    make = BitFitConfig if is_own else adapter
    one, two = make(stages=stages, blocks=blocks), make(blocks=other)
    is_same = one.places(NANO) == two.places(NANO)
    assert (key(one) == key(two)) == is_same
    (canonical,) = PetlConfig(methods=(one,)).canonical(NANO).methods or (make(blocks=()),)
    assert canonical.places(NANO) == one.places(NANO)
