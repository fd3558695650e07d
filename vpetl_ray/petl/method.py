"""What a PETL method is: a configuration that knows what it trains, where, and how much.

A method sees block sites and seams, never a backbone by its name, so it fits every family whose
blocks offer the seams. A new one is a file in `methods/` with one such class, and a line in the
table there; the contract tests then run on it.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import nn

from vpetl_ray.errors import VpetlError
from vpetl_ray.models import arch_base, backbone, blocks
from vpetl_ray.models.arch import BlockSite
from vpetl_ray.models.work import BlockWork
from vpetl_ray.petl.checks import check_whole_number
from vpetl_ray.petl.places import Places, block_sites
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

    def places(self, arch: Arch) -> Places:
        """Tell where something is trained."""

    def stages_of(self, arch: Arch) -> frozenset[int]:
        """Name the stages in which something is trained."""

    def unplaced(self) -> Self:
        """Give the same settings without a word on where."""

    def at(self, places: Places, arch: Arch) -> list[Self]:
        """Write these settings at exactly these places in one way, most often as one config."""

    def count(self, arch: Arch) -> dict[str, int]:
        """Trainable parameters by part, by arithmetic alone."""

    def place(self, model: Backbone, seed: int) -> Iterator[Placement]:
        """Build what is trained, initialised by the seed; the model is not changed."""


@dataclass(frozen=True, kw_only=True)
class StageMethod(ABC):
    """A method that is placed by stages, by blocks, or by both: then into what is in both."""

    name: ClassVar[str]
    identity_at_start: ClassVar[bool]

    stages: tuple[int, ...] | None = field(default=None)
    """Stages that get it, from 1; by default all."""
    blocks: tuple[int, ...] | None = field(default=None)
    """Blocks that get it, from 1 over the whole network; by default all of the stages."""

    def __post_init__(self) -> None:
        self._tidy("stages")
        self._tidy("blocks")

    def _tidy(self, key: str) -> None:
        """Check and sort the numbers of stages or blocks."""
        numbers = getattr(self, key)
        if numbers is None:
            return
        if isinstance(numbers, str) or not isinstance(numbers, tuple | list):
            raise VpetlError(f"{self.name}.{key}: must be a list of {key}, got {numbers!r}")
        for number in numbers:
            check_whole_number(f"{self.name}.{key}", number, at_least=1)
        object.__setattr__(self, key, tuple(sorted(set(numbers))))

    @property
    def is_empty(self) -> bool:
        """Whether these settings train nothing anywhere."""
        return () in (self.stages, self.blocks)

    def check(self, arch: Arch) -> None:
        """Raise a VpetlError if a stage or block does not exist."""
        numbers = {"stage": arch.num_stages, "block": len(block_sites(arch))}
        for what, last in numbers.items():
            for number in getattr(self, f"{what}s") or ():
                if number > last:
                    raise VpetlError(
                        f"{self.name}.{what}s: {what} {number} does not exist; "
                        f"{arch.name} has {what}s 1 to {last}"
                    )

    def chosen_blocks(self, arch: Arch) -> list[BlockSite]:
        """Every block of the stages and blocks that are named."""
        return [
            site
            for site in block_sites(arch)
            if (self.stages is None or site.stage in self.stages)
            and (self.blocks is None or site.index + 1 in self.blocks)
        ]

    @abstractmethod
    def places(self, arch: Arch) -> Places:
        """Tell where something is trained."""

    def stages_of(self, arch: Arch) -> frozenset[int]:
        """Name the stages in which something is trained."""
        return self.places(arch).stages(arch)

    def unplaced(self) -> Self:
        """Give the same settings without a word on where."""
        return replace(self, stages=None, blocks=None)

    def at(self, places: Places, arch: Arch) -> list[Self]:
        """Write these settings at exactly these places in one way, most often as one config.

        Whole stages are written as stages. It takes two configs where a stage is meant with what
        is outside of its blocks, and of another stage some blocks. Of a stage of which that is
        meant and not all blocks, the others are named too: nothing else can say it, and it comes
        only of what full tuning has been taken from.
        """
        unplaced = self.unplaced()
        everywhere = unplaced.places(arch)
        whole: list[int] = []
        blocks: set[int] = set()
        for stage in sorted(places.stages(arch)):
            here = places.in_stage(stage, arch)
            if here.edges or here == everywhere.in_stage(stage, arch):
                whole.append(stage)
            else:
                blocks |= here.blocks
        if blocks and not places.edges:
            whole, blocks = [], set(places.blocks)
        is_all = len(whole) == arch.num_stages
        parts = [replace(unplaced, stages=None if is_all else tuple(whole))] if whole else []
        return parts + ([replace(unplaced, blocks=tuple(blocks))] if blocks else [])

    @abstractmethod
    def count(self, arch: Arch) -> dict[str, int]:
        """Trainable parameters by stage, by arithmetic alone."""

    @abstractmethod
    def place(self, model: Backbone, seed: int) -> Iterator[Placement]:
        """Build what is trained, initialised by the seed; the model is not changed."""


@dataclass(frozen=True, kw_only=True)
class BlockMethod(StageMethod):
    """A method that puts branches into every block that is chosen."""

    @abstractmethod
    def count_block(self, site: BlockSite) -> int:
        """Trainable parameters in one block."""

    @abstractmethod
    def block_flops(self, site: BlockSite, work: BlockWork, qkv_rows: int) -> int:
        """Count the FLOPs of what is added to one block, for one clip.

        Args:
            site: the block.
            work: how many rows its layers see.
            qkv_rows: rows through the projection to queries, keys and values: the attended ones,
                and those that another method sends through it.

        """

    def further_tokens(self, work: BlockWork) -> int:
        """Tell how many keys and values every window gets beside its own."""
        return 0

    def further_qkv_rows(self) -> int:
        """Tell how many rows of its own the method sends through a block's QKV projection."""
        return 0

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
        """Put branches into the chosen blocks."""
        chosen = set(self.sites(model.arch))
        for site, block in model.block_modules():
            if site in chosen:
                yield from self.branches(site, block, seeded(seed, self.name, site.index))

    def branch_name(self, site: BlockSite) -> str:
        """Name the branch of a block."""
        return f"{self.name}.stage{site.stage}.block{site.block}"

    def sites(self, arch: Arch) -> list[BlockSite]:
        """Every block that gets the method."""
        return [] if self.is_empty else self.chosen_blocks(arch)

    def places(self, arch: Arch) -> Places:
        """Tell where something is trained."""
        return Places.of(site.index + 1 for site in self.sites(arch))


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


def method_to_dict(method: Method) -> dict[str, Any]:
    """JSON-able: the method's name and every setting; `blocks` only where some are named."""
    values = {f.name: getattr(method, f.name) for f in fields(method)}  # type: ignore[arg-type]
    if values["blocks"] is None:
        del values["blocks"]  # configs from before there were blocks keep their keys
    plain = {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}
    return {"name": method.name, **plain}
