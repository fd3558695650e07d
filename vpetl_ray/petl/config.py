"""What a trial adds to the frozen backbone: any number of methods, and whether the head learns."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, Self

from vpetl_ray.errors import VpetlError
from vpetl_ray.petl.checks import describe_unknown
from vpetl_ray.petl.method import Arch, method_to_dict
from vpetl_ray.petl.methods import METHODS, FullConfig, MethodConfig
from vpetl_ray.petl.own_method import OwnMethod
from vpetl_ray.petl.places import Places


@dataclass(frozen=True, kw_only=True)
class PetlConfig:
    """Which methods, where, how wide, how strong.

    A method may appear more than once if no block has it twice: per-stage widths are written so.
    """

    methods: tuple[MethodConfig, ...] = ()
    """The methods that are on."""
    train_classifier: bool = True
    """Whether the classifier is trained, or stays at its random start."""

    def check(self, arch: Arch) -> None:
        """Check that this fits the architecture.

        Raises:
            VpetlError: a stage or block does not exist, or has a method twice.

        """
        taken: dict[str, Places] = {}
        by_blocks = {method.name for method in self.methods if method.blocks is not None}
        for method in self.methods:
            method.check(arch)
            places, before = method.places(arch), taken.get(method.name, Places())
            if twice := places & before:
                block = f"{method.name}.blocks: block {min(twice.blocks, default=0)}"
                stage = f"{method.name}.stages: stage {min(twice.stages(arch))}"
                where = block if method.name in by_blocks and twice.blocks else stage
                raise VpetlError(f"{where} has it already")
            taken[method.name] = before | places

    def canonical(self, arch: Arch) -> Self:
        """Write what this builds in one way: sorted, equal parts joined, empty ones dropped."""
        order = list(METHODS)
        written = [
            (order.index(method.name), sorted(places.blocks), sorted(places.edges), method)
            for settings, everywhere in _trained_places(self.methods, arch).items()
            for method in settings.at(everywhere, arch)
            if (places := method.places(arch))
        ]
        written.sort(key=lambda entry: entry[:-1])
        return replace(self, methods=tuple(entry[-1] for entry in written))

    def key(self, arch: Arch) -> str:
        """16 hexadecimal digits that are equal exactly if the same thing is built."""
        return self.canonical(arch).key_as_written(arch)

    def key_as_written(self, arch: Arch) -> str:
        """Return the `key` of what is canonical already, for callers that make thousands."""
        text = json.dumps({"arch": arch.name, **self.to_dict()}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, and all that `from_dict` needs."""
        return {
            "methods": [method_to_dict(method) for method in self.methods],
            "train_classifier": self.train_classifier,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote, or what a person did.

        Raises:
            VpetlError: an unknown key, method or value; the message names it and the nearest.

        """
        known = {"methods", "train_classifier"}
        for key in values:
            if key not in known:
                raise VpetlError(f"petl: unknown key {describe_unknown(key, sorted(known))}")
        train_classifier = values.get("train_classifier", True)
        if not isinstance(train_classifier, bool):
            raise VpetlError(f"train_classifier: must be true or false, got {train_classifier!r}")
        methods = values.get("methods", ())
        if not isinstance(methods, list | tuple):
            raise VpetlError(f"methods: must be a list, got {methods!r}")
        return cls(
            methods=tuple(make_method(entry) for entry in methods),
            train_classifier=train_classifier,
        )


def make_method(values: Mapping[str, Any]) -> MethodConfig:
    """Build a method's config from its name and settings.

    Args:
        values: `name`, a key of `METHODS`, and the fields of its config; lists for tuples.

    Raises:
        VpetlError: an unknown method or setting, a missing one, or a bad value.

    """
    if not isinstance(values, Mapping) or "name" not in values:
        raise VpetlError(f"methods: each needs a name, one of {', '.join(METHODS)}; got {values!r}")
    settings = dict(values)
    name = settings.pop("name")
    if name not in METHODS:
        raise VpetlError(f"methods: unknown method {describe_unknown(name, tuple(METHODS))}")
    method: Any = METHODS[name]  # its fields are checked here, their values by the class
    allowed = {f.name: f for f in fields(method)}
    for key in settings:
        if key not in allowed:
            raise VpetlError(f"{name}: unknown key {describe_unknown(key, tuple(allowed))}")
    missing = [key for key in _required(method) if key not in settings]
    if missing:
        raise VpetlError(f"{name}: {', '.join(missing)} must be given")
    made: MethodConfig = method(
        **{k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
    )
    return made


def _required(method: Any) -> list[str]:
    return [f.name for f in fields(method) if f.default is MISSING and f.default_factory is MISSING]


def _trained_places(methods: tuple[MethodConfig, ...], arch: Arch) -> dict[MethodConfig, Places]:
    """Join methods that differ in their places alone: settings, and where they are."""
    full = Places()
    for method in methods:
        if isinstance(method, FullConfig):
            full |= method.places(arch)
    joined: dict[MethodConfig, Places] = {}
    for method in methods:
        places = method.places(arch)
        if isinstance(method, OwnMethod) and not isinstance(method, FullConfig):
            places -= full  # nothing is left to train there
        settings = method.unplaced()
        joined[settings] = joined.get(settings, Places()) | places
    return joined
