"""Trainable parameters of a config by arithmetic: the price is known before anything is built."""

from collections.abc import Mapping
from dataclasses import dataclass

from vpetl_ray.petl.config import PetlConfig
from vpetl_ray.petl.method import Arch
from vpetl_ray.petl.own_method import OwnMethod

CLASSIFIER = "classifier"
"""The part that is the classifier."""


@dataclass(frozen=True, kw_only=True)
class Count:
    """Trainable parameters, part by part."""

    parts: Mapping[str, int]
    """E.g. `patt.stage1`, `adapter.stage2`, `classifier`; a part that trains nothing is absent."""

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.parts.values())


def count_trainable(config: PetlConfig, arch: Arch, num_classes: int) -> Count:
    """Count what `attach` would make trainable, without building it.

    Raises:
        VpetlError: the config does not fit the architecture.

    """
    config.check(arch)
    parts: dict[str, int] = {}
    counted: set[str] = set()
    for method in config.methods:
        if isinstance(method, OwnMethod):
            # What two of them train is one tensor all the same.
            parts.update(method.count(arch, but=counted))
            counted.update(tensor.name for tensor in method.own_tensors(arch))
        else:
            parts.update(method.count(arch))
    if config.train_classifier:
        parts[CLASSIFIER] = count_classifier(arch, num_classes)
    return Count(parts=parts)


def count_classifier(arch: Arch, num_classes: int) -> int:
    """Weights and biases of the last layer."""
    return (arch.num_features + 1) * num_classes
