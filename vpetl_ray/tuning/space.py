"""The search space: which values exist, which of them are active together, what they build.

A space is a flat table from path (`petl.patt.d_bottle`) to domain. *Values* are one choice from
it, active paths only: a width has no value where its method is off, a learning rate none where
only the classifier is trained. So two ways of writing the same config are the same values.

`suggest` asks an Optuna trial for values, `build` turns them into what a worker trains, and
`config_columns` into one row of a table. The counting is in `space_size`, the configs that a
search begins with are in `start`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from optuna.distributions import BaseDistribution
from optuna.trial import BaseTrial

from vpetl_ray.errors import VpetlError
from vpetl_ray.models.arch import Arch
from vpetl_ray.petl.config import PetlConfig
from vpetl_ray.petl.count import count_trainable
from vpetl_ray.petl.method import method_to_dict
from vpetl_ray.petl.methods import MethodConfig
from vpetl_ray.training.recipe import Recipe
from vpetl_ray.tuning.domains import Domain, Fixed, Scalar, Value, as_domain, label
from vpetl_ray.tuning.method_space import (
    METHOD_FIELDS,
    SIZES,
    MethodSpace,
    Picker,
    Values,
    field_defaults,
    grid_members,
)

if TYPE_CHECKING:
    from vpetl_ray.tuning.space_size import SpaceSummary

GRID_POINTS = 3
"""Values of a continuous range in a grid."""
CLASSIFIER = "petl.classifier.train"
OPTIMIZER = "training.optimizer"
PROBE_ONLY = frozenset({"training.probe_epochs", "training.probe_learning_rate"})
NOT_FOR_PROBE = frozenset({"training.epochs", "training.learning_rate", "training.drop_path"})
"""Without effect where only the classifier is trained; see `FineTuning`."""
_WHAT = ("targets", "kinds")


class NothingToTrain(VpetlError):  # noqa: N818 - reads as what it says where it is caught
    """Every method is off and the classifier is frozen: not a config of any space."""


@dataclass(frozen=True, kw_only=True)
class TrialConfig:
    """One config of a space, ready to be trained."""

    petl: PetlConfig
    """Which methods, where, how wide, how strong, and whether the classifier is trained."""
    recipe: Recipe
    """How it is trained."""
    values: Values
    """The active values it was built from."""
    key: str
    """Equal exactly for configs that build and train the same."""

    @property
    def is_probe(self) -> bool:
        """Only the classifier is trained."""
        return not self.petl.methods

    def describe(self) -> str:
        """Say the PETL part in a few words: `patt(kv) 8, adapter 4 stage 1+3`."""
        if self.is_probe:
            return "linear probe"
        words = [_describe_method(method) for method in self.petl.methods]
        return ", ".join(words + ([] if self.petl.train_classifier else ["classifier frozen"]))


class Space:
    """The configs that a search may propose.

    Args:
        arch: the backbone, for its stages and for counting.
        num_classes: outputs of the classifier.
        tree: path to domain, or to a plain value that is then fixed. Paths are
            `petl.<method>.<field>` (with `.stage1` and so on behind it, where every stage has a
            domain of its own), `petl.classifier.train` and `training.<field of Recipe>`. A method
            without any path is not in the space; what is left out has its default.

    Raises:
        ValueError: a path that no config has, or a required one that is missing.
    """

    def __init__(self, *, arch: Arch, num_classes: int, tree: Mapping[str, Domain | Value]) -> None:
        self.arch = arch
        self.num_classes = num_classes
        given = {path: as_domain(value) for path, value in tree.items()}
        self.domains: dict[str, Domain] = {}
        self.methods: dict[str, MethodSpace] = {}
        for name in METHOD_FIELDS:
            prefix = f"petl.{name}."
            paths = [path for path in given if path.startswith(prefix)]
            if paths:
                fields = {path.removeprefix(prefix): given.pop(path) for path in paths}
                method = self.methods[name] = MethodSpace(name, arch, fields)
                self.domains.update({method.path(f): d for f, d in method.domains.items()})
        self._add("", {CLASSIFIER: Fixed(value=True)}, given)
        self._add("training.", _recipe_defaults(), given)
        if given:
            raise ValueError(f"no config has {', '.join(sorted(given))}")

    @property
    def columns(self) -> tuple[str, ...]:
        """Every path, in the order in which they are asked for."""
        return tuple(self.domains)

    @property
    def searched(self) -> tuple[str, ...]:
        """The paths that are not fixed."""
        return tuple(p for p, domain in self.domains.items() if not isinstance(domain, Fixed))

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """Optuna's view of every searched path, as if all were active."""
        merged: dict[str, BaseDistribution] = {}
        for path, domain in self.domains.items():
            merged.update(domain.distributions(path))
        return merged

    def suggest(self, trial: BaseTrial, *, ask_inactive: bool = False) -> Values:
        """Ask `trial` for values, parents before what depends on them.

        Args:
            trial: an Optuna trial; `optuna.trial.FixedTrial(params)` turns stored params back
                into values.
            ask_inactive: ask for every path and drop what is inactive, for samplers that model
                only what all trials have in common.
        """
        if not ask_inactive:
            return self.walk(lambda path, domain: domain.suggest(trial, path))
        asked = {path: domain.suggest(trial, path) for path, domain in self.domains.items()}
        return self.walk(lambda path, _: asked[path])

    def walk(self, pick: Picker) -> Values:
        """Ask `pick` for the value of every active path, in order, and for no other."""
        values: dict[str, Value] = {}
        is_probe = True
        for method in self.methods.values():
            is_probe &= not method.walk(pick, values)
        classifier = self.domains[CLASSIFIER]
        # With every method off the classifier is all there is; asking would waste a proposal.
        forced = is_probe and True in classifier.members()
        values[CLASSIFIER] = True if forced else pick(CLASSIFIER, classifier)
        for path, domain in self.domains.items():
            if path.startswith("training.") and self._is_used(path, values, is_probe=is_probe):
                values[path] = pick(path, domain)
        return values

    def build(self, values: Values) -> TrialConfig:
        """Build what `values` say to train. Fixed paths may be left out, inactive ones are ignored.

        Raises:
            NothingToTrain: every method is off and the classifier is frozen.
            ValueError: a value is missing or not in its domain.
        """
        active = self.walk(lambda path, domain: _checked(path, domain, values))
        on = (method for method in self.methods.values() if method.is_on(active))
        methods = tuple(config for method in on for config in method.configs(active))
        train_classifier = bool(active[CLASSIFIER])
        petl = PetlConfig(methods=methods, train_classifier=train_classifier).canonical(self.arch)
        if not petl.methods and not train_classifier:
            raise NothingToTrain("every method is off and the classifier is frozen")
        recipe = self._recipe(active)
        return TrialConfig(petl=petl, recipe=recipe, values=active, key=self._key(petl, active))

    def count(self, config: TrialConfig) -> int:
        """Trainable parameters of `config`, by arithmetic."""
        return count_trainable(config.petl, self.arch, self.num_classes).total

    def params_for(self, values: Values) -> dict[str, Scalar]:
        """Return the Optuna params that make `suggest` return `values`, to be enqueued."""
        params: dict[str, Scalar] = {}
        for path, value in values.items():
            params.update(self.domains[path].params(path, value))
        return params

    def config_columns(self, values: Values) -> dict[str, Scalar]:
        """Return one row of a table: every path, subsets as `kv` or `1+3`, None where inactive."""
        return {path: label(values.get(path)) for path in self.domains}

    def to_json(self, values: Values) -> dict[str, Any]:
        """Return `values` for `json.dumps`; `from_json` reads them back."""
        return {p: list(v) if isinstance(v, tuple) else v for p, v in values.items()}

    def from_json(self, stored: Mapping[str, Any]) -> Values:
        """Read what `to_json` wrote."""
        return {p: tuple(v) if isinstance(v, list) else v for p, v in stored.items()}

    def summary(self, budget: int | None = None) -> SpaceSummary:
        """Say how large the space is, what its configs cost, and how many the budget allows."""
        from vpetl_ray.tuning.space_size import summarise  # noqa: PLC0415 - it imports this file

        return summarise(self, budget)

    def grid(self, points: int = GRID_POINTS) -> Iterator[Values]:
        """Every config once, with `points` values in place of each continuous range."""
        per_method = [list(method.options(points)) for method in self.methods.values()]
        for chosen in product(*per_method):
            petl = {path: value for option in chosen for path, value in option.items()}
            is_probe = not any(self.is_on(name, petl) for name in self.methods)
            for train in self._classifier_options(is_probe=is_probe):
                for training in self._training_options(points, is_probe=is_probe):
                    yield {**petl, CLASSIFIER: train, **training}

    def training_domains(self, *, is_probe: bool, optimizer: Value) -> dict[str, Domain]:
        """Return the training paths that have an effect under this optimiser."""
        values = {OPTIMIZER: optimizer}
        return {
            path: domain
            for path, domain in self.domains.items()
            if path.startswith("training.") and self._is_used(path, values, is_probe=is_probe)
        }

    def _add(
        self, prefix: str, defaults: Mapping[str, Domain | None], given: dict[str, Domain]
    ) -> None:
        for field, default in defaults.items():
            path = prefix + field
            domain = given.pop(path, default)
            if domain is None:
                raise ValueError(f"{path} has no default and must be given")
            self.domains[path] = domain

    def is_on(self, name: str, values: Values) -> bool:
        """No gate of the method is closed by `values`."""
        return self.methods[name].is_on(values)

    def _is_used(self, path: str, values: Values, *, is_probe: bool) -> bool:
        if path in (NOT_FOR_PROBE if is_probe else PROBE_ONLY):
            return False
        return path != "training.momentum" or values.get(OPTIMIZER) == "sgd"

    def _recipe(self, active: Values) -> Recipe:
        """Give unused fields a value all the same, the same one in every config."""
        training: dict[str, Any] = {
            path.removeprefix("training."): active.get(path, next(iter(grid_members(domain, 1))))
            for path, domain in self.domains.items()
            if path.startswith("training.")
        }
        return Recipe(**training)

    def _key(self, petl: PetlConfig, active: Values) -> str:
        training = {p: v for p, v in active.items() if p.startswith("training.")}
        text = json.dumps([petl.key_as_written(self.arch), sorted(training.items())])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _classifier_options(self, *, is_probe: bool) -> list[Value]:
        members = list(grid_members(self.domains[CLASSIFIER], 1))
        return [m for m in members if m] if is_probe else members

    def _training_options(self, points: int, *, is_probe: bool) -> Iterator[dict[str, Value]]:
        for optimizer in grid_members(self.domains[OPTIMIZER], 1):
            used = self.training_domains(is_probe=is_probe, optimizer=optimizer)
            used[OPTIMIZER] = Fixed(value=optimizer)
            for chosen in product(*(grid_members(domain, points) for domain in used.values())):
                yield dict(zip(used, chosen, strict=True))


def _checked(path: str, domain: Domain, values: Values) -> Value:
    if path not in values:
        if isinstance(domain, Fixed):
            return domain.value
        raise ValueError(f"{path} has no value")
    if not domain.contains(values[path]):
        raise ValueError(f"{path}: {values[path]!r} is not in its domain {domain}")
    return values[path]


def _recipe_defaults() -> dict[str, Domain | None]:
    # The optimiser comes first: it decides whether a momentum is asked for.
    return {"optimizer": None, **field_defaults(Recipe)}


def _describe_method(method: MethodConfig) -> str:
    values = method_to_dict(method)
    what = "".join(f"({label(tuple(values[key]))})" for key in _WHAT if key in values)
    widths = "".join(f" {values[key]}" for key in SIZES if values.get(key) is not None)
    where = "".join(
        f" {key.removesuffix('s')} {label(tuple(values[key]))}"
        for key in ("stages", "blocks")
        if values.get(key)
    )
    return f"{method.name}{what}{widths}{where}"
