"""The table of PETL methods: what a user may name, and the class that holds it."""

from collections.abc import Mapping

from vpetl_ray.petl.method import Method
from vpetl_ray.petl.methods.adapter import AdapterConfig
from vpetl_ray.petl.methods.full import FullConfig
from vpetl_ray.petl.methods.patt import PattConfig

MethodConfig = AdapterConfig | PattConfig | FullConfig

METHODS: Mapping[str, type[MethodConfig]] = {
    method.name: method for method in (AdapterConfig, PattConfig, FullConfig)
}

__all__ = ["METHODS", "AdapterConfig", "FullConfig", "Method", "MethodConfig", "PattConfig"]
