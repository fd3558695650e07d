"""Full tuning: every parameter of the backbone. The baseline that PETL is measured against."""

from dataclasses import dataclass
from typing import ClassVar

from vpetl_ray.models.own_tensors import OwnTensor
from vpetl_ray.petl.own_method import OwnMethod


@dataclass(frozen=True, kw_only=True)
class FullConfig(OwnMethod):
    """Train the backbone itself: all of it, or some of its stages."""

    name: ClassVar[str] = "full"
    identity_at_start: ClassVar[bool] = True

    def trains(self, tensor: OwnTensor) -> bool:
        """Every one."""
        return True
