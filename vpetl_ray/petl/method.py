"""What a PETL method is: a configuration that knows what it trains, where, and how much.

A method sees block sites and seams, never a backbone by its name, so it fits every family whose
blocks offer the seams. A new one is a file in `methods/` with one such class, and a line in the
table there; the contract tests then run on it.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from typing import Any, ClassVar, Protocol, Self, TypeVar

import torch
from torch import nn

from vpetl_ray.errors import VpetlError
from vpetl_ray.models import arch_base, backbone, blocks
from vpetl_ray.models.arch import BlockSite
from vpetl_ray.models.own_tensors import OwnTensor
from vpetl_ray.petl.checks import check_whole_number
from vpetl_ray.petl.seeding import seeded

# Of any family: methods rely on block sites and seams alone.
Arch = arch_base.Arch
Backbone = backbone.Backbone
Block = blocks.Block


@dataclass(frozen=True, kw_only=True)
class Branch:
    """A new module in a seam of the backbone."""

    name: str
    """Unique; the module's tensors are called `<name>.<parameter>`."""
    stage: int
    """Stage of the seam, from 1."""
    seam: nn.ModuleList
    """Where the module goes."""
    module: nn.Module
    """Called as the seam calls its members, most often as `module(input, output) -> output`."""
    layer: nn.Linear | None = None
    """The frozen layer beside it, where the module can be merged into its weight."""

    def parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield what is trained, by name."""
        for name, parameter in self.module.named_parameters():
            yield f"{self.name}.{name}", parameter


@dataclass(frozen=True, kw_only=True)
class Unfrozen:
    """A parameter that the backbone has already, trained in place."""

    name: str
    """`backbone.<name in the model>`."""
    stage: int
    """Stage it belongs to, from 1 (what stands before the first counts as the first)."""
    parameter: nn.Parameter

    def parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield what is trained, by name."""
        yield self.name, self.parameter


Placement = Branch | Unfrozen
M = TypeVar("M")


class Method(Protocol):
    """A method with its settings; implementations are frozen, keyword-only dataclasses."""

    name: ClassVar[str]
    """What users write; a key of `METHODS`."""
    identity_at_start: ClassVar[bool]
    """Whether the model with the method, untrained, computes what it computes without."""

    @property
    def is_empty(self) -> bool:
        """Whether these settings train nothing anywhere."""

    def check(self, arch: Arch) -> None:
        """Raise a VpetlError if the settings do not fit the architecture."""

    def canonical(self, arch: Arch) -> Self:
        """Write what these settings build on this architecture in one way."""

    def stages_of(self, arch: Arch) -> frozenset[int]:
        """Name the stages in which something is trained."""

    def count(self, arch: Arch) -> dict[str, int]:
        """Trainable parameters by part, by arithmetic alone."""

    def place(self, model: Backbone, seed: int) -> Iterator[Placement]:
        """Build what is trained, initialised by the seed; the model is not changed."""


@dataclass(frozen=True, kw_only=True)
class StageMethod(ABC):
    """A method that is placed by stages."""

    name: ClassVar[str]
    identity_at_start: ClassVar[bool]

    stages: tuple[int, ...] | None = field(default=None)
    """Stages that get it, from 1; by default all."""

    def __post_init__(self) -> None:
        if self.stages is None:
            return
        if isinstance(self.stages, str) or not isinstance(self.stages, tuple | list):
            raise VpetlError(f"{self.name}.stages: must be a list of stages, got {self.stages!r}")
        for stage in self.stages:
            check_whole_number(f"{self.name}.stages", stage, at_least=1)
        object.__setattr__(self, "stages", tuple(sorted(set(self.stages))))

    @property
    def is_empty(self) -> bool:
        """Whether these settings train nothing anywhere."""
        return self.stages == ()

    def check(self, arch: Arch) -> None:
        """Raise a VpetlError if a stage does not exist."""
        for stage in self.stages or ():
            if stage > arch.num_stages:
                raise VpetlError(
                    f"{self.name}.stages: stage {stage} does not exist; "
                    f"{arch.name} has stages 1 to {arch.num_stages}"
                )

    def canonical(self, arch: Arch) -> Self:
        """With `stages` left out where it names them all."""
        is_all = len(self.stages_of(arch)) == arch.num_stages
        return replace(self, stages=None if is_all else self.stages)

    def stages_of(self, arch: Arch) -> frozenset[int]:
        """Name the stages in which something is trained."""
        if self.is_empty:
            return frozenset()
        return frozenset(range(1, arch.num_stages + 1) if self.stages is None else self.stages)

    @abstractmethod
    def count(self, arch: Arch) -> dict[str, int]:
        """Trainable parameters by stage, by arithmetic alone."""

    @abstractmethod
    def place(self, model: Backbone, seed: int) -> Iterator[Placement]:
        """Build what is trained, initialised by the seed; the model is not changed."""


@dataclass(frozen=True, kw_only=True)
class BlockMethod(StageMethod):
    """A method that puts branches into every block of the chosen stages."""

    @abstractmethod
    def count_block(self, site: BlockSite) -> int:
        """Trainable parameters in one block."""

    @abstractmethod
    def branches(
        self, site: BlockSite, block: Block, generator: torch.Generator
    ) -> Iterator[Branch]:
        """Build what goes into one block, drawn from the generator."""

    def count(self, arch: Arch) -> dict[str, int]:
        """Trainable parameters by stage, by arithmetic alone."""
        parts: dict[str, int] = {}
        for site in self.sites(arch):
            key = f"{self.name}.stage{site.stage}"
            parts[key] = parts.get(key, 0) + self.count_block(site)
        return parts

    def place(self, model: Backbone, seed: int) -> Iterator[Placement]:
        """Put branches into the blocks of the chosen stages."""
        chosen = set(self.sites(model.arch))
        for site, block in model.block_modules():
            if site in chosen:
                yield from self.branches(site, block, seeded(seed, self.name, site.index))

    def branch_name(self, site: BlockSite) -> str:
        """Name the branch of a block."""
        return f"{self.name}.stage{site.stage}.block{site.block}"

    def sites(self, arch: Arch) -> list[BlockSite]:
        """Every block that gets the method."""
        stages = self.stages_of(arch)
        return [site for site in arch.blocks() if site.stage in stages]


@dataclass(frozen=True, kw_only=True)
class SeamMethod(BlockMethod):
    """A method that puts one branch into one seam of a block."""

    @abstractmethod
    def seam(self, block: Block) -> nn.ModuleList:
        """Where in the block the branch goes."""

    @abstractmethod
    def build(self, site: BlockSite, generator: torch.Generator) -> nn.Module:
        """Build the branch for one block, drawn from the generator."""

    def branches(
        self, site: BlockSite, block: Block, generator: torch.Generator
    ) -> Iterator[Branch]:
        """Build the one branch."""
        yield Branch(
            name=self.branch_name(site),
            stage=site.stage,
            seam=self.seam(block),
            module=self.build(site, generator),
        )


@dataclass(frozen=True, kw_only=True)
class OwnMethod(StageMethod):
    """A method that trains tensors which the backbone has already, in place."""

    @abstractmethod
    def trains(self, tensor: OwnTensor) -> bool:
        """Whether it trains this tensor, in a stage that is chosen."""

    def own_tensors(self, arch: Arch) -> list[OwnTensor]:
        """Every tensor that is trained."""
        stages = super().stages_of(arch)
        tensors = _own_tensors(arch)
        return [tensor for tensor in tensors if tensor.stage in stages and self.trains(tensor)]

    def stages_of(self, arch: Arch) -> frozenset[int]:
        """Name the stages in which something is trained."""
        return frozenset(tensor.stage for tensor in self.own_tensors(arch))

    def count(self, arch: Arch, *, but: Collection[str] = ()) -> dict[str, int]:
        """Trainable parameters by stage, without the tensors that are named in `but`."""
        parts: dict[str, int] = {}
        for tensor in self.own_tensors(arch):
            if tensor.name not in but:
                key = f"{self.name}.stage{tensor.stage}"
                parts[key] = parts.get(key, 0) + tensor.size
        return parts

    def place(self, model: Backbone, seed: int) -> Iterator[Placement]:
        """Every tensor that is trained, in the model's order."""
        stages = {tensor.name: tensor.stage for tensor in self.own_tensors(model.arch)}
        for name, parameter in model.named_parameters():
            if name in stages:
                yield Unfrozen(name=f"backbone.{name}", stage=stages[name], parameter=parameter)


@lru_cache(maxsize=8)
def _own_tensors(arch: Arch) -> tuple[OwnTensor, ...]:
    return arch.own_tensors()


def at_stages(method: M, stages: tuple[int, ...] | None) -> M:
    """Put the same method into other stages, if it has any to choose."""
    return replace(method, stages=stages) if isinstance(method, StageMethod) else method


def method_to_dict(method: Method) -> dict[str, Any]:
    """JSON-able: the method's name and every setting."""
    values = {f.name: getattr(method, f.name) for f in fields(method)}  # type: ignore[arg-type]
    plain = {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}
    return {"name": method.name, **plain}
