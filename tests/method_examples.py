"""Examples of every PETL method. The contract tests of petl and of training run over all of them.

A test checks that no method of the table is left out: a new one needs an example here, no test.
"""

from vpetl_ray.errors import VpetlError
from vpetl_ray.models.arch import Arch
from vpetl_ray.petl.methods import (
    AdapterConfig,
    BitFitConfig,
    FullConfig,
    LoraConfig,
    MethodConfig,
    PattConcatConfig,
    PattConfig,
    PattNoZConfig,
    PositionConfig,
    PrefixConfig,
    PromptConfig,
    StAdapterConfig,
)

EXAMPLES: dict[str, MethodConfig] = {
    "adapter parallel": AdapterConfig(d_bottle=3),
    "adapter sequential": AdapterConfig(d_bottle=3, placement="sequential", activation="gelu"),
    "adapter learned scale": AdapterConfig(d_bottle=2, scale="learned", stages=(2,)),
    "patt k v": PattConfig(targets=("k", "v"), d_bottle=4),
    "patt q v": PattConfig(targets=("q", "v"), d_bottle=4, activation="relu"),
    "patt q k v learned": PattConfig(targets=("q", "k", "v"), d_bottle=2, scale="learned"),
    "patt v stage 3": PattConfig(targets=("v",), d_bottle=2, stages=(3,)),
    "full": FullConfig(),
    "full stage 3": FullConfig(stages=(3,)),
    "position qkv": PositionConfig(kinds=("qkv",)),
    "position norms and mlp": PositionConfig(kinds=("fc2", "norm1", "norm2", "fc1"), stages=(2, 3)),
    "position rel_pos proj": PositionConfig(kinds=("rel_pos", "proj")),
    "position downsample": PositionConfig(kinds=("downsample",)),
    "bitfit": BitFitConfig(),
    "lora q v": LoraConfig(targets=("q", "v"), rank=2),
    "lora everywhere": LoraConfig(
        targets=("q", "k", "v", "proj", "fc1", "fc2"), rank=2, alpha="learned"
    ),
    "lora fc1 alpha stage 2": LoraConfig(targets=("fc1",), rank=3, alpha=6.0, stages=(2,)),
    "st_adapter": StAdapterConfig(d_bottle=3),
    "st_adapter sequential 3x3x3": StAdapterConfig(
        d_bottle=2, kernel="3x3x3", placement="sequential", scale="learned", activation="tanh"
    ),
    "prefix": PrefixConfig(num_tokens=3, d_middle=4),
    "patt_concat": PattConcatConfig(d_bottle=3),
    "patt_concat learned stage 3": PattConcatConfig(d_bottle=2, scale="learned", stages=(3,)),
    "patt_no_z": PattNoZConfig(targets=("k", "v"), d_bottle=3),
    "patt_no_z of few tokens": PattNoZConfig(
        targets=("q", "v"), d_bottle=3, num_tokens=7, scale="learned"
    ),
    "prompt deep": PromptConfig(num_tokens=3),
    "prompt shallow": PromptConfig(num_tokens=20, depth="shallow", stages=(1,)),
    "prompt overlapping": PromptConfig(num_tokens=3, way="overlap", stages=(2, 3)),
    "prefix learned relu": PrefixConfig(
        num_tokens=3, d_middle=4, activation="relu", scale="learned"
    ),
    "patt blocks 1 6 stages 2 3": PattConfig(
        targets=("k", "v"), d_bottle=2, stages=(2, 3), blocks=(1, 6)
    ),
    "prompt shallow blocks 2 5 6": PromptConfig(
        num_tokens=20, depth="shallow", scale="learned", blocks=(2, 5, 6)
    ),
    "bitfit blocks 1 5": BitFitConfig(blocks=(1, 5)),
    "bitfit with rel_pos stages 1 3": BitFitConfig(rel_pos=True, stages=(1, 3)),
}
"""One or more of each, on any backbone of three stages that it fits."""


def examples_for(arch: Arch) -> dict[str, MethodConfig]:
    """Those that fit: a ViT has no tables of relative positions and no merging."""
    return {name: config for name, config in EXAMPLES.items() if _fits(config, arch)}


def _fits(config: MethodConfig, arch: Arch) -> bool:
    try:
        config.check(arch)
    except VpetlError:
        return False
    return True
