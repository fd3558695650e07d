"""Position tuning, Table 1 of the paper: some kinds of the backbone's own parameters."""

from dataclasses import dataclass
from typing import ClassVar

from vpetl_ray.errors import VpetlError
from vpetl_ray.models.own_tensors import KINDS, OwnTensor
from vpetl_ray.petl.checks import check_names
from vpetl_ray.petl.method import Arch
from vpetl_ray.petl.own_method import OwnMethod


@dataclass(frozen=True, kw_only=True)
class PositionConfig(OwnMethod):
    """Train some of the backbone's positions in place; the paper's table has one at a time."""

    name: ClassVar[str] = "position"
    identity_at_start: ClassVar[bool] = True

    kinds: tuple[str, ...]
    """Any of norm1, qkv, rel_pos, proj, norm2, fc1, fc2, downsample."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.kinds, tuple | list):
            raise VpetlError(
                f"position.kinds: must be a list of {', '.join(KINDS)}, got {self.kinds!r}"
            )
        check_names("position.kinds", self.kinds, KINDS, "kind")
        object.__setattr__(self, "kinds", tuple(kind for kind in KINDS if kind in self.kinds))

    @property
    def is_empty(self) -> bool:
        """Whether these settings train nothing anywhere."""
        return not self.kinds or super().is_empty

    def check(self, arch: Arch) -> None:
        """Raise a VpetlError if a stage or a kind does not exist."""
        super().check(arch)
        known = kinds_of(arch)
        for kind in self.kinds:
            if kind not in known:
                raise VpetlError(
                    f"position.kinds: {arch.name} has no {kind}; it has {', '.join(known)}"
                )

    def trains(self, tensor: OwnTensor) -> bool:
        """Whatever is of a chosen kind."""
        return tensor.kind in self.kinds


def kinds_of(arch: Arch) -> tuple[str, ...]:
    """Name the kinds that the backbone has: no ViT has position tables or merging."""
    found = {tensor.kind for tensor in arch.own_tensors()}
    return tuple(kind for kind in KINDS if kind in found)
