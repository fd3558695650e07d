"""One config or two of every method of the table, as they are tried on the demo."""

from __future__ import annotations

from benchmarks.demo_task.configs import Entry
from vpetl_ray.petl.config import PetlConfig
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

KV = ("k", "v")
IN_DEMO_TABLE = ("linear probe", "adapter 32", "PATT(K,V) 32", "full tuning")
"""The configs, rates and seed of `demo_task`: they must come out in its order."""


def _entry(name: str, methods: tuple[MethodConfig, ...], *rates: float) -> Entry:
    return Entry(name=name, petl=PetlConfig(methods=methods), rates=rates)


ENTRIES = (
    _entry("linear probe", (), 1e-2, 3e-2),
    _entry("adapter 32", (AdapterConfig(d_bottle=32, scale=1.0),), 5e-3, 1e-2),
    _entry(
        "adapter 32 sequential",
        (AdapterConfig(d_bottle=32, scale=1.0, placement="sequential"),),
        5e-3,
        1e-2,
    ),
    _entry("ST-Adapter 16", (StAdapterConfig(d_bottle=16),), 5e-3, 1e-2),
    _entry("PATT(K,V) 32", (PattConfig(targets=KV, d_bottle=32),), 5e-3, 1e-2),
    _entry("PATT concat(K,V) 32", (PattConcatConfig(d_bottle=32),), 5e-3, 1e-2),
    _entry("PATT no-Z(K,V) 32", (PattNoZConfig(targets=KV, d_bottle=32),), 1e-2, 2e-2),
    _entry("prefix 8, d_middle 16", (PrefixConfig(num_tokens=8, d_middle=16),), 2e-2, 5e-2),
    _entry("VPT deep 8, prepended", (PromptConfig(num_tokens=8),), 5e-2, 2e-1),
    _entry("VPT shallow 8, prepended", (PromptConfig(num_tokens=8, depth="shallow"),), 5e-2, 2e-1),
    _entry("VPT deep 8, overlapping", (PromptConfig(num_tokens=8, way="overlap"),), 5e-2, 2e-1),
    _entry("LoRA(Q,V) 8", (LoraConfig(targets=("q", "v"), rank=8),), 5e-3, 1e-2),
    _entry(
        "LoRA everywhere 4",
        (LoraConfig(targets=("q", "k", "v", "proj", "fc1", "fc2"), rank=4),),
        1e-2,
    ),
    _entry("BitFit", (BitFitConfig(),), 5e-3, 2e-2),
    _entry("norms alone", (PositionConfig(kinds=("norm1", "norm2")),), 2e-2),
    _entry("QKV alone", (PositionConfig(kinds=("qkv",)),), 3e-3),
    _entry(
        "adapter 16 + PATT(K,V) 16",
        (AdapterConfig(d_bottle=16, scale=1.0), PattConfig(targets=KV, d_bottle=16)),
        1e-2,
    ),
    _entry("full tuning", (FullConfig(),), 1e-3),
)
