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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from itertools import product
from typing import TYPE_CHECKING, Any, TypeAlias

from optuna.distributions import BaseDistribution
from optuna.trial import BaseTrial

from vpetl_ray.errors import VpetlError
from vpetl_ray.models.arch import Arch
from vpetl_ray.petl.config import PetlConfig
from vpetl_ray.petl.count import count_trainable
from vpetl_ray.petl.method import method_to_dict
from vpetl_ray.petl.methods import METHODS, MethodConfig
from vpetl_ray.training.recipe import Recipe
from vpetl_ray.tuning.domains import Domain, Fixed, FloatRange, Scalar, Value, as_domain, label

if TYPE_CHECKING:
    from vpetl_ray.tuning.space_size import SpaceSummary

Values: TypeAlias = Mapping[str, Value]
Picker: TypeAlias = Callable[[str, Domain], Value]

GRID_POINTS = 3
"""Values of a continuous range in a grid."""
CLASSIFIER = "petl.classifier.train"
OPTIMIZER = "training.optimizer"
PROBE_ONLY = frozenset({"training.probe_epochs", "training.probe_learning_rate"})
NOT_FOR_PROBE = frozenset({"training.epochs", "training.learning_rate", "training.drop_path"})
"""Without effect where only the classifier is trained; see `FineTuning`."""
_WHAT = ("targets", "kinds")
_WIDTHS = ("d_bottle", "rank", "num_tokens", "d_middle")
"""Fields that say in a few words what a method is set to."""


class NothingToTrain(VpetlError):  # noqa: N818 - reads as what it says where it is caught
    """Every method is off and the classifier is frozen: not a config of any space."""


@dataclass(frozen=True, kw_only=True)
class MethodFields:
    """What a space knows about one method."""

    config: Callable[..., MethodConfig]
    """The method's config class; its fields are the paths below `petl.<method>`."""
    gates: tuple[str, ...]
    """Asked first, in this order; the first that is empty or false turns the method off."""
    counted: tuple[str, ...]
    """Fields besides the stages that change the number of trainable parameters."""


def _method_fields(name: str, gates: str = "", counted: str = "") -> MethodFields:
    return MethodFields(
        config=METHODS[name],
        gates=("enabled", *gates.split(), "stages"),
        counted=tuple(counted.split()),
    )


METHOD_FIELDS: Mapping[str, MethodFields] = {
    "patt": _method_fields("patt", "targets", "targets d_bottle scale"),
    "adapter": _method_fields("adapter", counted="d_bottle scale"),
    "st_adapter": _method_fields("st_adapter", counted="d_bottle kernel scale"),
    "lora": _method_fields("lora", "targets", "targets rank alpha"),
    "prefix": _method_fields("prefix", counted="num_tokens d_middle scale"),
    "prompt": _method_fields("prompt", counted="num_tokens depth scale"),
    "patt_concat": _method_fields("patt_concat", counted="d_bottle scale"),
    "patt_no_z": _method_fields("patt_no_z", "targets", "targets d_bottle scale num_tokens"),
    "position": _method_fields("position", "kinds", "kinds"),
    "bitfit": _method_fields("bitfit", counted="rel_pos"),
    "full": _method_fields("full"),
}
"""In the order in which a trial is asked for them."""


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
            `petl.<method>.<field>`, `petl.classifier.train` and `training.<field of Recipe>`. A
            method without any path is not in the space; what is left out has its default.

    Raises:
        ValueError: a path that no config has, or a required one that is missing.
    """

    def __init__(self, *, arch: Arch, num_classes: int, tree: Mapping[str, Domain | Value]) -> None:
        self.arch = arch
        self.num_classes = num_classes
        given = {path: as_domain(value) for path, value in tree.items()}
        self.domains: dict[str, Domain] = {}
        self.methods: dict[str, MethodFields] = {}
        for name, method in METHOD_FIELDS.items():
            if any(path.startswith(f"petl.{name}.") for path in given):
                self.methods[name] = method
                self._add(f"petl.{name}.", _method_defaults(method, arch), given)
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
        for name in self.methods:
            is_probe &= not self._walk_method(name, pick, values)
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
        methods = tuple(m for name in self.methods if (m := self._method(name, active)))
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
        per_method = [list(self._method_options(name, points)) for name in self.methods]
        for chosen in product(*per_method):
            petl = {path: value for option in chosen for path, value in option.items()}
            is_probe = not any(self.is_on(name, petl) for name in self.methods)
            for train in self._classifier_options(is_probe=is_probe):
                for training in self._training_options(points, is_probe=is_probe):
                    yield {**petl, CLASSIFIER: train, **training}

    def off_values(self, name: str) -> dict[str, Value] | None:
        """Return the shortest values that turn the method off; None if it is always on."""
        values: dict[str, Value] = {}
        for gate in self.methods[name].gates:
            path = f"petl.{name}.{gate}"
            domain = self.domains.get(path)
            if domain is None:
                continue
            off = next((member for member in (False, ()) if domain.contains(member)), None)
            if off is not None:
                return {**values, path: off}
            values[path] = next(iter(grid_members(domain, 1)))
        return None

    def field_domains(self, name: str) -> dict[str, Domain]:
        """Return the method's fields and their domains, gates first."""
        prefix = f"petl.{name}."
        return {p.removeprefix(prefix): d for p, d in self.domains.items() if p.startswith(prefix)}

    def method_config(self, name: str, field_values: Mapping[str, Value]) -> MethodConfig:
        """Build the method's config with these fields; `enabled` is not one of them."""
        wanted = {f: v for f, v in field_values.items() if f != "enabled"}
        return self.methods[name].config(**wanted)

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

    def _walk_method(self, name: str, pick: Picker, values: dict[str, Value]) -> bool:
        gates = self.methods[name].gates
        for field, domain in self.field_domains(name).items():
            path = f"petl.{name}.{field}"
            values[path] = pick(path, domain)
            if field in gates and not values[path]:
                return False
        return True

    def is_on(self, name: str, values: Values) -> bool:
        """No gate of the method is closed by `values`."""
        return all(values.get(f"petl.{name}.{gate}", True) for gate in self.methods[name].gates)

    def _is_used(self, path: str, values: Values, *, is_probe: bool) -> bool:
        if path in (NOT_FOR_PROBE if is_probe else PROBE_ONLY):
            return False
        return path != "training.momentum" or values.get(OPTIMIZER) == "sgd"

    def _method(self, name: str, active: Values) -> MethodConfig | None:
        if not self.is_on(name, active):
            return None
        prefix = f"petl.{name}."
        chosen = {p.removeprefix(prefix): v for p, v in active.items() if p.startswith(prefix)}
        return self.method_config(name, chosen)

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
        text = json.dumps([petl.key(self.arch), sorted(training.items())])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _method_options(self, name: str, points: int) -> Iterator[dict[str, Value]]:
        off = self.off_values(name)
        if off is not None:
            yield off
        gates = self.methods[name].gates
        domains = self.field_domains(name)
        paths = [f"petl.{name}.{field}" for field in domains]
        members = [
            [m for m in grid_members(domain, points) if m or field not in gates]
            for field, domain in domains.items()
        ]
        for chosen in product(*members):
            yield dict(zip(paths, chosen, strict=True))

    def _classifier_options(self, *, is_probe: bool) -> list[Value]:
        members = list(grid_members(self.domains[CLASSIFIER], 1))
        return [m for m in members if m] if is_probe else members

    def _training_options(self, points: int, *, is_probe: bool) -> Iterator[dict[str, Value]]:
        for optimizer in grid_members(self.domains[OPTIMIZER], 1):
            used = self.training_domains(is_probe=is_probe, optimizer=optimizer)
            used[OPTIMIZER] = Fixed(value=optimizer)
            for chosen in product(*(grid_members(domain, points) for domain in used.values())):
                yield dict(zip(used, chosen, strict=True))


def grid_members(domain: Domain, points: int) -> Iterator[Value]:
    """Every member of a discrete domain, `points` of a continuous one."""
    if isinstance(domain, FloatRange):
        return iter(domain.points(points))
    return iter(domain.members())


def _checked(path: str, domain: Domain, values: Values) -> Value:
    if path not in values:
        if isinstance(domain, Fixed):
            return domain.value
        raise ValueError(f"{path} has no value")
    if not domain.contains(values[path]):
        raise ValueError(f"{path}: {values[path]!r} is not in its domain {domain}")
    return values[path]


def _method_defaults(method: MethodFields, arch: Arch) -> dict[str, Domain | None]:
    """Return the domain of every field where nothing is given: gates first, all stages, on."""
    every_stage = tuple(range(1, arch.num_stages + 1))
    defaults: dict[str, Domain | None] = dict.fromkeys(method.gates)
    defaults.update(_field_defaults(method.config))
    del defaults["blocks"]  # a space has that path only where it is given
    return {**defaults, "enabled": Fixed(value=True), "stages": Fixed(value=every_stage)}


def _recipe_defaults() -> dict[str, Domain | None]:
    # The optimiser comes first: it decides whether a momentum is asked for.
    return {"optimizer": None, **_field_defaults(Recipe)}


def _field_defaults(config: Callable[..., Any]) -> dict[str, Domain | None]:
    return {
        field.name: None if field.default is MISSING else Fixed(value=field.default)
        for field in fields(config)  # type: ignore[arg-type]
    }


def _describe_method(method: MethodConfig) -> str:
    values = method_to_dict(method)
    what = "".join(f"({label(tuple(values[key]))})" for key in _WHAT if key in values)
    widths = "".join(f" {values[key]}" for key in _WIDTHS if values.get(key) is not None)
    stages = f" stage {label(tuple(values['stages']))}" if values.get("stages") else ""
    return f"{method.name}{what}{widths}{stages}"
