"""The table of PETL methods: what a user may name, and the class that holds it."""

from collections.abc import Mapping

from vpetl_ray.petl.method import Method
from vpetl_ray.petl.methods.adapter import AdapterConfig
from vpetl_ray.petl.methods.bitfit import BitFitConfig
from vpetl_ray.petl.methods.full import FullConfig
from vpetl_ray.petl.methods.patt import PattConfig
from vpetl_ray.petl.methods.position import PositionConfig

MethodConfig = AdapterConfig | PattConfig | FullConfig | PositionConfig | BitFitConfig

METHODS: Mapping[str, type[MethodConfig]] = {
    method.name: method
    for method in (
        AdapterConfig,
        PattConfig,
        FullConfig,
        PositionConfig,
        BitFitConfig,
    )
}

__all__ = [
    "METHODS",
    "AdapterConfig",
    "BitFitConfig",
    "FullConfig",
    "Method",
    "MethodConfig",
    "PattConfig",
    "PositionConfig",
]
