"""BitFit: the biases of the backbone alone (Ben Zaken et al. 2022, arXiv 2106.10199)."""

from dataclasses import dataclass
from typing import ClassVar

from vpetl_ray.models.own_tensors import OwnTensor
from vpetl_ray.petl.checks import check_flag
from vpetl_ray.petl.own_method import OwnMethod


@dataclass(frozen=True, kw_only=True)
class BitFitConfig(OwnMethod):
    """Train every bias that the backbone has, those of its norms included."""

    name: ClassVar[str] = "bitfit"
    identity_at_start: ClassVar[bool] = True

    rel_pos: bool = False
    """Whether tables of relative positions count as biases; a backbone without has none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_flag("bitfit.rel_pos", self.rel_pos)

    def trains(self, tensor: OwnTensor) -> bool:
        """Biases, and position tables if they are wanted."""
        return tensor.is_bias or (self.rel_pos and tensor.kind == "rel_pos")
