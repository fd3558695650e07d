"""The sections of a search space file below `petl`: one for every method, and the last layer.

What methods have in common is written once: `MethodSection` says where, and the fields of the
same name (`Width`, `Scale`, `Activation`) may be the same things.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, TypeAlias

from pydantic import Field

from vpetl_ray.models.own_tensors import KINDS
from vpetl_ray.petl.bottleneck import ACTIVATIONS
from vpetl_ray.petl.methods.adapter import PLACEMENTS
from vpetl_ray.petl.methods.lora import TARGETS as LORA_TARGETS
from vpetl_ray.petl.methods.patt import TARGETS
from vpetl_ray.petl.methods.prompt import DEPTHS, WAYS
from vpetl_ray.petl.methods.st_adapter import KERNELS
from vpetl_ray.spec.kinds import Flag, Number, Several, Whole, Word
from vpetl_ray.spec.leaves import Searched
from vpetl_ray.spec.section import Section
from vpetl_ray.tuning.domains import Domain, Fixed, Value

_COUNT = Whole(low=1, high=65_536)
_SCALE = Number(above=0, words=("learned",))

Switch: TypeAlias = Annotated[Domain, Searched(Flag())]
Stages: TypeAlias = Annotated[Domain, Searched(Several(item=Whole(low=1, high=64), words=("all",)))]
Blocks: TypeAlias = Annotated[
    Domain, Searched(Several(item=Whole(low=1, high=1024), words=("all",)))
]
Width: TypeAlias = Annotated[Domain, Searched(_COUNT, per_stage=True)]
Scale: TypeAlias = Annotated[Domain, Searched(_SCALE, per_stage=True)]
Activation: TypeAlias = Annotated[Domain, Searched(Word(options=tuple(ACTIVATIONS)))]
Placement: TypeAlias = Annotated[Domain, Searched(Word(options=PLACEMENTS))]
Targets: TypeAlias = Annotated[Domain, Searched(Several(item=Word(options=TARGETS), order=TARGETS))]


def _field(description: str, *, default: Value) -> Any:
    return Field(default=Fixed(value=default), description=description)


def _switch(*, what: str = "") -> Any:
    also = f"; no {what} turns it off too" if what else ""
    return _field(f"Whether it is there{also}.", default=True)


def _width() -> Any:
    return Field(description="Width of the bottleneck.")


def _scale(default: float) -> Any:
    return _field("The factor s: a number, or learned.", default=default)


def _activation(default: str, where: str = "Between the two projections.") -> Any:
    return _field(where, default=default)


def _placement() -> Any:
    return _field("parallel: beside the MLP. sequential: after it.", default="parallel")


def _targets() -> Any:
    return _field("Which of q, k, v it is added to.", default=("k", "v"))


class MethodSection(Section):
    """What every method has: a switch, and where it goes."""

    enabled: Switch = _switch()
    stages: Stages = _field("Stages whose blocks get it, from 1.", default="all")
    blocks: Blocks = _field(
        "Blocks of these stages that get it, from 1 over the whole network.", default="all"
    )


class OwnSection(MethodSection):
    """What methods have that train the backbone's own parameters."""

    stages: Stages = _field("Stages in which it is, from 1.", default="all")
    blocks: Blocks = _field(
        "Blocks of these stages in which it is, from 1 over the whole network; what is outside of "
        "blocks (merging, patch embedding, last norm) is trained where this is all.",
        default="all",
    )


class PattSection(MethodSection):
    """PATT: a bottleneck of its own beside the queries, keys and values of attention."""

    enabled: Switch = _switch(what="target")
    targets: Targets = _targets()
    d_bottle: Width = _width()
    scale: Scale = _scale(0.8)
    activation: Activation = _activation("tanh")


class AdapterSection(MethodSection):
    """Adapter: a bottleneck beside or after the MLP of a block."""

    placement: Placement = _placement()
    d_bottle: Width = _width()
    scale: Scale = _scale(0.1)
    activation: Activation = _activation("relu")


class StAdapterSection(MethodSection):
    """ST-Adapter: an adapter with a depth-wise convolution over time and space in its middle."""

    placement: Placement = _placement()
    d_bottle: Width = _width()
    kernel: Annotated[Domain, Searched(Word(options=tuple(KERNELS)))] = _field(
        "Size along time, height and width.", default="3x1x1"
    )
    scale: Scale = _scale(1.0)
    activation: Activation = _activation("gelu", "Behind the convolution.")


class LoraSection(MethodSection):
    """LoRA: a low-rank pair beside linear layers of a block; it can be merged into them."""

    enabled: Switch = _switch(what="target")
    targets: Annotated[
        Domain, Searched(Several(item=Word(options=LORA_TARGETS), order=LORA_TARGETS))
    ] = _field("Which layers it is beside, a pair each.", default=("q", "v"))
    rank: Width = Field(description="Rank of each pair.")
    alpha: Annotated[Domain, Searched(replace(_SCALE, nullable=True), per_stage=True)] = _field(
        "alpha / rank is the factor; null: a factor of 1. learned: it is trained.", default=None
    )


class PrefixSection(MethodSection):
    """Prefix-tuning: keys and values of learned tokens, in front of those of every window."""

    num_tokens: Width = Field(description="Learned tokens of a block.")
    d_middle: Width = Field(
        description="Width between the two layers that lead to keys, and to values."
    )
    scale: Scale = _field("Factor on keys and values: a number, or learned.", default=1.0)
    activation: Activation = _activation("tanh", "Between the two layers.")


class PromptSection(MethodSection):
    """Prompt-tuning (VPT): learned tokens that go through a block's own norm and attention."""

    num_tokens: Width = Field(description="Learned tokens of a block.")
    depth: Annotated[Domain, Searched(Word(options=DEPTHS))] = _field(
        "deep: in every block. shallow: in the first of each of its stages.", default="deep"
    )
    way: Annotated[Domain, Searched(Word(options=WAYS))] = _field(
        "prepend: in front of a window's tokens. overlap: in place of the first.", default="prepend"
    )
    scale: Scale = _field("Factor behind the norm: a number, or learned.", default=1.0)


class PattConcatSection(MethodSection):
    """PATT by concatenation: keys and values of further tokens, one for each of a window's."""

    d_bottle: Width = _width()
    scale: Scale = _scale(0.8)
    activation: Activation = _activation("tanh")


class PattNoZSection(MethodSection):
    """PATT without Z: it reads learned tokens in place of the block's own."""

    enabled: Switch = _switch(what="target")
    targets: Targets = _targets()
    d_bottle: Width = _width()
    num_tokens: Annotated[Domain, Searched(replace(_COUNT, nullable=True), per_stage=True)] = (
        _field("Learned tokens; null: as many as a window has.", default=None)
    )
    scale: Scale = _scale(0.8)
    activation: Activation = _activation("tanh")


class PositionSection(OwnSection):
    """Position tuning: some of the backbone's own parameters, by kind."""

    enabled: Switch = _switch(what="kind")
    kinds: Annotated[Domain, Searched(Several(item=Word(options=KINDS), order=KINDS))] = Field(
        description="What is trained: norms, projections, tables of relative positions, MLP "
        "layers, merging between stages. A ViT has no rel_pos and no downsample."
    )


class BitFitSection(OwnSection):
    """BitFit: the backbone's own biases."""

    rel_pos: Switch = _field("Whether tables of relative positions count as biases.", default=False)


class FullSection(OwnSection):
    """Full tuning: all of the backbone's own parameters."""


class ClassifierSection(Section):
    """The last layer."""

    train: Switch = _field(
        "Whether it is trained; with every method off it always is, if it may be.", default=True
    )


class PetlSection(Section):
    """What is added to the backbone and trained; a method that is not named is not searched."""

    patt: PattSection | None = Field(default=None, description="Parallel attention (PATT).")
    adapter: AdapterSection | None = Field(default=None, description="Adapter.")
    st_adapter: StAdapterSection | None = Field(default=None, description="ST-Adapter.")
    lora: LoraSection | None = Field(default=None, description="LoRA.")
    prefix: PrefixSection | None = Field(default=None, description="Prefix-tuning.")
    prompt: PromptSection | None = Field(default=None, description="Prompt-tuning.")
    patt_concat: PattConcatSection | None = Field(
        default=None, description="PATT by concatenation."
    )
    patt_no_z: PattNoZSection | None = Field(default=None, description="PATT without Z.")
    position: PositionSection | None = Field(default=None, description="Position tuning.")
    bitfit: BitFitSection | None = Field(default=None, description="BitFit.")
    full: FullSection | None = Field(default=None, description="Full tuning.")
    classifier: ClassifierSection = Field(
        default_factory=ClassifierSection, description="The last layer."
    )
