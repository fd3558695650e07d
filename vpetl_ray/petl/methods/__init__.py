"""The table of PETL methods: what a user may name, and the class that holds it."""

from collections.abc import Mapping

from vpetl_ray.petl.method import Method
from vpetl_ray.petl.methods.adapter import AdapterConfig
from vpetl_ray.petl.methods.bitfit import BitFitConfig
from vpetl_ray.petl.methods.full import FullConfig
from vpetl_ray.petl.methods.lora import LoraConfig
from vpetl_ray.petl.methods.patt import PattConfig
from vpetl_ray.petl.methods.patt_concat import PattConcatConfig
from vpetl_ray.petl.methods.patt_no_z import PattNoZConfig
from vpetl_ray.petl.methods.position import PositionConfig
from vpetl_ray.petl.methods.prefix import PrefixConfig
from vpetl_ray.petl.methods.prompt import PromptConfig
from vpetl_ray.petl.methods.st_adapter import StAdapterConfig

MethodConfig = (
    AdapterConfig
    | PattConfig
    | FullConfig
    | PositionConfig
    | BitFitConfig
    | LoraConfig
    | StAdapterConfig
    | PrefixConfig
    | PattConcatConfig
    | PattNoZConfig
    | PromptConfig
)

METHODS: Mapping[str, type[MethodConfig]] = {
    method.name: method
    for method in (
        AdapterConfig,
        PattConfig,
        FullConfig,
        PositionConfig,
        BitFitConfig,
        LoraConfig,
        StAdapterConfig,
        PrefixConfig,
        PattConcatConfig,
        PattNoZConfig,
        PromptConfig,
    )
}

__all__ = [
    "METHODS",
    "AdapterConfig",
    "BitFitConfig",
    "FullConfig",
    "LoraConfig",
    "Method",
    "MethodConfig",
    "PattConcatConfig",
    "PattConfig",
    "PattNoZConfig",
    "PositionConfig",
    "PrefixConfig",
    "PromptConfig",
    "StAdapterConfig",
]
