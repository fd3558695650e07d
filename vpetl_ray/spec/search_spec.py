"""A search space file as a value: the spec, and the space that it describes."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PrivateAttr

from vpetl_ray.data.catalogue import get_source
from vpetl_ray.data.config import DataConfig
from vpetl_ray.errors import DataError, SpecError
from vpetl_ray.models.arch import Arch, count_backbone, get_arch
from vpetl_ray.results.objectives import ALWAYS, COSTS, OBJECTIVES, Known, costs_of
from vpetl_ray.spec.document import Document
from vpetl_ray.spec.document import Path as KeyPath
from vpetl_ray.spec.dump import spec_to_dict, spec_to_yaml
from vpetl_ray.spec.kinds import Whole
from vpetl_ray.spec.leaves import Given
from vpetl_ray.spec.petl_sections import PetlSection
from vpetl_ray.spec.section import Section
from vpetl_ray.spec.sections import (
    DEMO_WEIGHTS,
    BackboneSection,
    BudgetSection,
    DataSection,
    ResourcesSection,
    SearchSection,
    TrackingSection,
    TrainingSection,
)
from vpetl_ray.spec.space_tree import space_tree, start_values
from vpetl_ray.spec.special_kinds import Name, SomeOf, budget_in_parameters
from vpetl_ray.spec.start_list import chosen_entries, list_mistake
from vpetl_ray.tuning.halving import Halving, default_rungs
from vpetl_ray.tuning.samplers import LIST, QUEUED
from vpetl_ray.tuning.space import Space
from vpetl_ray.tuning.space_size import smallest_values
from vpetl_ray.tuning.start import StartPlan, StartTrial, num_queued, plan_start

LINEAR_PROBE = "linear_probe"
"""The start config that no search goes without: what a front has to beat."""
DEFAULT_TRIALS = 30
"""Where a sampler could propose for ever."""


class SearchSpec(Section):
    """A whole search space file, checked, with every default filled in."""

    name: Annotated[str, Given(Name())] = Field(
        description="Name of the search and of its results folder; by default the file's."
    )
    seed: Annotated[int, Given(Whole(low=0, high=2**32 - 1))] = Field(
        default=0, description="Of everything that is drawn."
    )
    data: DataSection = Field(default_factory=DataSection, description="The videos.")
    backbone: BackboneSection = Field(
        default_factory=BackboneSection, description="The frozen network."
    )
    petl: PetlSection = Field(
        default_factory=PetlSection, description="What is added to it and searched."
    )
    training: TrainingSection = Field(description="How every trial is trained.")
    budget: BudgetSection = Field(default_factory=BudgetSection, description="The limit.")
    objectives: Annotated[tuple[str, ...], Given(SomeOf(options=OBJECTIVES, required=ALWAYS))] = (
        Field(
            default=ALWAYS,
            description="What the front is a front of: top1 up, all others down. "
            + " ".join(f"{cost.name}: {cost.meaning}." for cost in COSTS.values()),
        )
    )
    search: SearchSection = Field(default_factory=SearchSection, description="The sampler.")
    resources: ResourcesSection = Field(
        default_factory=ResourcesSection, description="CPUs and GPUs."
    )
    tracking: TrackingSection = Field(default_factory=TrackingSection, description="MLflow.")

    _document: Document | None = PrivateAttr(default=None)
    """The text it was read from, for the lines in messages."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SearchSpec) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash(self.name)

    @cached_property
    def arch(self) -> Arch:
        """The backbone's architecture."""
        return get_arch(self.backbone.arch)

    @property
    def uses_demo_weights(self) -> bool:
        """Whether the backbone is the one that comes along."""
        return self.backbone.weights == DEMO_WEIGHTS

    def data_config(self) -> DataConfig:
        """Return what the data floor needs to know."""
        given = {name: getattr(self.data, name) for name in DataSection.model_fields}
        given.pop("num_classes")
        return DataConfig(**given)

    def space(self, num_classes: int | None = None) -> Space:
        """Build the space that is searched.

        Args:
            num_classes: of the data; by default what the spec says.

        Raises:
            SpecError: the number of classes is not known.
        """
        tree = space_tree(self.petl, self.training, self.arch)
        return Space(arch=self.arch, num_classes=self.classes(num_classes), tree=tree)

    def classes(self, num_classes: int | None = None) -> int:
        """Return `num_classes`, else what the spec says; a SpecError if neither does."""
        known = num_classes or self._known_classes
        if known is None:
            raise SpecError(
                "data.num_classes: is needed where the data set is not opened; give it a number"
            )
        return known

    @property
    def knows_classes(self) -> bool:
        """Whether the number of classes is known without opening the data."""
        return self._known_classes is not None

    @property
    def _known_classes(self) -> int | None:
        return self.data.num_classes or get_source(self.data.source).num_classes

    def budget_limit(self, num_classes: int | None = None) -> int:
        """Return the most trainable parameters allowed; without a budget, those of the largest."""
        given = self.given_budget
        return self.space(num_classes).summary().largest if given is None else given

    @property
    def given_budget(self) -> int | None:
        """The budget as a number of parameters; None is no limit."""
        return budget_in_parameters(self.budget.trainable_params, count_backbone(self.arch))

    def check_budget(self, num_classes: int | None = None) -> None:
        """Check that the budget allows the smallest config, and that a list is in the space.

        Args:
            num_classes: of the data; by default what the spec says.

        Raises:
            SpecError: it does not; or the data has not as many classes as the spec says.
        """
        self.check_classes(num_classes)
        mistake = budget_mistake(self.budget, self.space(num_classes))
        if mistake:
            raise SpecError(self._sentence(("budget", "trainable_params"), mistake))
        self.start_plan(num_classes)

    def check_classes(self, num_classes: int | None) -> None:
        """Check that the data has as many classes as the spec says, where both are known.

        Raises:
            SpecError: it has not.
        """
        stated = self.data.num_classes
        if None not in (num_classes, stated) and num_classes != stated:
            text = f"the data has {num_classes} classes, the spec says {stated}"
            raise SpecError(self._sentence(("data", "num_classes"), text))

    def check_files(self) -> None:
        """Check that the data and the weights file exist; how the data lie is checked later.

        Raises:
            SpecError: one of them does not.
        """
        if missing := self.missing_files():
            raise SpecError("\n".join(missing))

    def missing_files(self) -> list[str]:
        """Say of the data and of the weights file that it does not exist; nothing where it does."""
        missing = []
        if self.data.path is not None and not Path(self.data.path).exists():
            try:
                self.data_config().list_videos()  # it knows what should be there
            except DataError as error:
                text = str(error).removeprefix("data.path: ")
                missing.append(self._sentence(("data", "path"), text))
        if not self.uses_demo_weights and not Path(self.backbone.weights).is_file():
            text = f"no file {self.backbone.weights}"
            missing.append(self._sentence(("backbone", "weights"), text))
        return missing

    def costs(self, known: Known | None = None) -> tuple[str, ...]:
        """Name the objectives beside top-1 and parameters, all or what is known at one time."""
        return costs_of(self.objectives, known)

    @property
    def is_list(self) -> bool:
        """Whether the start configs are all that is trained."""
        return self.search.sampler == LIST

    def num_trials(self, num_classes: int | None = None) -> int:
        """Return how many configs are trained: as many as wanted, of a grid or list at most all.

        Args:
            num_classes: of the data; by default what the spec says.
        """
        wanted, sampler = self.search.trials, self.search.sampler
        if sampler not in QUEUED:
            return wanted or DEFAULT_TRIALS
        start = self.start_plan(num_classes).trials
        every = num_queued(self.space(num_classes), start, sampler, budget=self.given_budget)
        return every if wanted is None else min(wanted, every)

    def start_plan(self, num_classes: int | None = None) -> StartPlan:
        """Find the configs that the search begins with, and say which ones it cannot.

        Raises:
            SpecError: a list has a config that is not in the space or over the budget, or the
                same one twice.
        """
        entries: list[str | StartTrial] = [
            entry
            if isinstance(entry, str)
            else StartTrial(entry["name"], start_values(entry, self.petl, self.arch))
            for entry in chosen_entries(self.search)
        ]
        if not self.is_list and LINEAR_PROBE not in entries:
            entries.insert(0, LINEAR_PROBE)
        space = self.space(num_classes)
        plan = plan_start(space, entries, budget=self.given_budget)
        if self.is_list and (mistake := list_mistake(space, plan, self.given_budget)):
            raise SpecError(self._sentence(("search", "start"), mistake))
        return plan

    @property
    def fewest_epochs(self) -> int:
        """Epochs of the shortest trial."""
        return min(int(epochs) for epochs in self.training.epochs.members())  # type: ignore[arg-type]

    def halving(self) -> Halving | None:
        """Return the rungs at which trials are compared; None trains each to its end."""
        chosen = self.search.halving
        if chosen is None:
            return None
        rungs = default_rungs(self.fewest_epochs) if chosen.rungs == "auto" else chosen.rungs
        return Halving(
            rungs,
            eta=chosen.eta,
            variant=chosen.variant,
            promote=chosen.promote,
            spread=chosen.spread,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values as YAML has them, every default filled in."""
        return spec_to_dict(self)

    def to_yaml(self) -> str:
        """Write the resolved spec as a file; `load_spec` reads an equal one from it."""
        return spec_to_yaml(self)

    def _sentence(self, path: KeyPath, text: str) -> str:
        where = f"{self._document.where(path)}: " if self._document else ""
        return f"{where}{'.'.join(map(str, path))}: {text}"


def budget_mistake(budget: BudgetSection, space: Space) -> str | None:
    """Say what is wrong with the budget of this space; None if nothing is."""
    num_backbone = count_backbone(space.arch)
    limit = budget_in_parameters(budget.trainable_params, num_backbone)
    if limit is None:
        return None
    smallest = space.build(smallest_values(space))
    count = space.count(smallest)
    if limit >= count:
        return None
    got = spaced(limit)
    if isinstance(budget.trainable_params, str):
        of = f" of {spaced(num_backbone)}" if "%" in budget.trainable_params else ""
        got = f"{budget.trainable_params}{of} = {got}"
    return (
        f"must be at least {spaced(count)} (the smallest config of this space: "
        f"{smallest.describe()}), got {got}"
    )


def spaced(number: int) -> str:
    """Write `1 234 567`."""
    return f"{number:,}".replace(",", " ")
