import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpetl_ray.models.arch import get_arch
from vpetl_ray.models.backbone import Backbone
from vpetl_ray.models.build import build_model
from vpetl_ray.petl.attach import attach
from vpetl_ray.petl.config import PetlConfig
from vpetl_ray.petl.count import count_trainable
from vpetl_ray.petl.methods import (
    AdapterConfig,
    BitFitConfig,
    FullConfig,
    MethodConfig,
    PattConfig,
    PositionConfig,
    PromptConfig,
)
from vpetl_ray.petl.own_method import OwnMethod

SWIN_B = get_arch("swin3d_b")
ADAPTER = AdapterConfig(d_bottle=64)
SSV2, HMDB51 = 174, 51


def patt(d_bottle: int, targets: str = "kv") -> PattConfig:
    return PattConfig(targets=tuple(targets), d_bottle=d_bottle)


def position(kind: str) -> PositionConfig:
    return PositionConfig(kinds=(kind,))


# Worked out by hand from the definitions of the paper.
EXACT = {
    "full, SSv2": ((FullConfig(),), True, SSV2, 87_817_334),
    "full, HMDB51": ((FullConfig(),), True, HMDB51, 87_691_259),
    "backbone alone": ((FullConfig(),), False, SSV2, 87_638_984),
    "fc, SSv2": ((), True, SSV2, 178_350),
    "fc, HMDB51": ((), True, HMDB51, 52_275),
    "adapter 64, SSv2": ((ADAPTER,), True, SSV2, 1_732_014),
    "adapter 64, HMDB51": ((ADAPTER,), True, HMDB51, 1_605_939),
    "patt 32, SSv2": ((patt(32),), True, SSV2, 1_358_254),
    "patt 64, SSv2": ((patt(64),), True, SSV2, 2_514_094),
    "patt 128, SSv2": ((patt(128),), True, SSV2, 4_825_774),
    "patt 256, SSv2": ((patt(256),), True, SSV2, 9_449_134),
    "bapat 32, SSv2": ((ADAPTER, patt(32)), True, SSV2, 2_911_918),
    "bapat 64, SSv2": ((ADAPTER, patt(64)), True, SSV2, 4_067_758),
    "bapat 128, SSv2": ((ADAPTER, patt(128)), True, SSV2, 6_379_438),
    "bapat 256, SSv2": ((ADAPTER, patt(256)), True, SSV2, 11_002_798),
    "bapat 128 on q k v, SSv2": ((ADAPTER, patt(128, "qkv")), True, SSV2, 7_931_566),
    "position proj": ((position("proj"),), False, SSV2, 6_991_616),
    "position qkv": ((position("qkv"),), False, SSV2, 20_974_848),
    "position rel_pos": ((position("rel_pos"),), False, SSV2, 953_160),
    "position fc1": ((position("fc1"),), False, SSV2, 27_966_464),
    "position fc2": ((position("fc2"),), False, SSV2, 27_930_368),
    "position downsample": ((position("downsample"),), False, SSV2, 2_759_680),
    "position norm1": ((position("norm1"),), False, SSV2, 24_064),
    "position norm2": ((position("norm2"),), False, SSV2, 24_064),
    "bitfit": ((BitFitConfig(),), False, SSV2, 137_216),
    "bitfit rel_pos, SSv2": ((BitFitConfig(rel_pos=True),), True, SSV2, 1_268_726),
    "bitfit and norm1": ((BitFitConfig(), position("norm1")), False, SSV2, 137_216 + 12_032),
    "bitfit and full": ((BitFitConfig(), FullConfig()), False, SSV2, 87_638_984),
}


@pytest.mark.parametrize(("methods", "classifier", "classes", "exact"), EXACT.values(), ids=EXACT)
def test_count_is_the_papers_to_the_last_digit(
    methods: tuple[MethodConfig, ...], classifier: bool, classes: int, exact: int
):
    config = PetlConfig(methods=methods, train_classifier=classifier)
    assert count_trainable(config, SWIN_B, classes).total == exact


@pytest.mark.parametrize("targets", ["qk", "kv", "qv"])
def test_any_two_targets_cost_the_same(targets: str):
    config = PetlConfig(methods=(ADAPTER, patt(128, targets)))
    assert count_trainable(config, SWIN_B, SSV2).total == 6_379_438


def test_parts_say_where_the_parameters_are():
    config = PetlConfig(methods=(patt(2), AdapterConfig(d_bottle=1, stages=(4,))))
    parts = count_trainable(config, SWIN_B, HMDB51).parts
    assert list(parts) == [
        *(f"patt.stage{stage}" for stage in (1, 2, 3, 4)),
        "adapter.stage4",
        "classifier",
    ]
    assert parts["patt.stage1"] == 2 * (128 * 2 + 2 + 2 * 128 * 2 + 2 * 128)
    assert parts["adapter.stage4"] == 2 * (1024 + 1 + 1024 + 1024)


def subsets(*items: object) -> st.SearchStrategy[tuple[object, ...]]:
    return st.lists(st.sampled_from(items), unique=True).map(tuple)


scales = st.one_of(st.just("learned"), st.floats(0.01, 10))
stages = st.one_of(st.none(), subsets(1, 2, 3))
blocks = st.one_of(st.none(), subsets(1, 2, 3, 4, 5, 6))
activations = st.sampled_from(["relu", "gelu", "tanh"])
patts = st.builds(
    PattConfig,
    targets=subsets("q", "k", "v"),
    d_bottle=st.integers(1, 40),
    scale=scales,
    activation=activations,
    stages=stages,
    blocks=blocks,
)
adapters = st.builds(
    AdapterConfig,
    d_bottle=st.integers(1, 40),
    scale=scales,
    placement=st.sampled_from(["parallel", "sequential"]),
    activation=activations,
    stages=stages,
    blocks=blocks,
)
prompts = st.builds(
    PromptConfig,
    num_tokens=st.integers(1, 5),
    depth=st.sampled_from(["deep", "shallow"]),
    scale=scales,
    stages=stages,
    blocks=blocks,
)
positions = st.builds(
    PositionConfig,
    kinds=subsets("norm1", "qkv", "proj", "norm2", "fc1", "fc2"),
    stages=stages,
    blocks=blocks,
)
bitfits = st.builds(BitFitConfig, rel_pos=st.booleans(), stages=stages, blocks=blocks)
fulls = st.builds(FullConfig, stages=stages, blocks=blocks)
configs = st.builds(
    lambda classifier, *methods: PetlConfig(
        methods=tuple(m for m in methods if m is not None), train_classifier=classifier
    ),
    st.booleans(),
    st.one_of(st.none(), patts),
    st.one_of(st.none(), adapters),
    st.one_of(st.none(), st.none(), prompts),
    st.one_of(st.none(), st.none(), positions),
    st.one_of(st.none(), st.none(), bitfits),
    st.one_of(st.none(), st.none(), st.none(), fulls),
)

MODELS = {
    name: build_model(get_arch(name), 7)
    for name in ("swin3d_nano", "vit_nano_mae", "vit_nano_videomae")
}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
@settings(max_examples=30, deadline=None)
@given(config=configs)
def test_count_by_arithmetic_equals_the_built_model(model: Backbone, config: PetlConfig):
    arch = model.arch
    count = count_trainable(config, arch, 7)
    canonical = config.canonical(arch)
    again = count_trainable(canonical, arch, 7)
    assert again.total == count.total
    if sum(isinstance(method, OwnMethod) for method in config.methods) < 2:
        assert set(again.parts.items()) == {item for item in count.parts.items() if item[1]}
    assert canonical.canonical(arch) == canonical
    if count.total == 0:
        return
    attached = attach(model, config, seed=0)
    try:
        built = sum(p.numel() for p in model.parameters() if p.requires_grad)
        assert built == count.total
        assert {p for p in model.parameters() if p.requires_grad} == set(
            attached.trainable.values()
        )
    finally:
        attached.detach()
