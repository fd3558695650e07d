"""Full tuning: every parameter of the backbone. The baseline that PETL is measured against."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Self

from vpetl_ray.models.arch import count_backbone
from vpetl_ray.petl.method import Arch, Backbone, Placement, Unfrozen


@dataclass(frozen=True, kw_only=True)
class FullConfig:
    """Train the backbone itself, all of it."""

    name: ClassVar[str] = "full"
    identity_at_start: ClassVar[bool] = True

    @property
    def is_empty(self) -> bool:
        """Never."""
        return False

    def check(self, arch: Arch) -> None:
        """Fit every architecture."""

    def canonical(self, arch: Arch) -> Self:
        """There is one way to write it."""
        return self

    def stages_of(self, arch: Arch) -> frozenset[int]:
        """All."""
        return frozenset(range(1, arch.num_stages + 1))

    def count(self, arch: Arch) -> dict[str, int]:
        """Count the whole backbone; the classifier is counted for itself."""
        return {"full.backbone": count_backbone(arch)}

    def place(self, model: Backbone, seed: int) -> Iterator[Placement]:
        """Every parameter but the classifier's."""
        classifier = set(model.head.parameters())
        for name, parameter in model.named_parameters():
            if parameter not in classifier:
                yield Unfrozen(name=f"backbone.{name}", stage=1, parameter=parameter)
