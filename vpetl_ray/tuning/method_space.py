"""The part of a search space that one method is: its fields, their domains, what is active.

A field has one domain, or one for every stage; then its paths end in `.stage1`, `.stage2`, ...,
and only those are asked for in whose stage the method is. The gates are asked first: what turns
the method on and off, and where it goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from itertools import product
from typing import Any, TypeAlias

from vpetl_ray.models.arch import Arch
from vpetl_ray.petl.methods import METHODS, MethodConfig
from vpetl_ray.petl.places import Places, block_sites
from vpetl_ray.tuning.domains import Choice, Domain, Fixed, FloatRange, Subset, Value

Values: TypeAlias = Mapping[str, Value]
Picker: TypeAlias = Callable[[str, Domain], Value]


@dataclass(frozen=True, kw_only=True)
class MethodFields:
    """What a space knows about one method."""

    config: Callable[..., MethodConfig]
    """The method's config class; its fields are the paths below `petl.<method>`."""
    gates: tuple[str, ...]
    """Asked first, in this order; the first that is empty or false turns the method off."""
    counted: tuple[str, ...]
    """Fields besides stages and blocks that change the number of trainable parameters."""


def _method_fields(name: str, gates: str = "", counted: str = "") -> MethodFields:
    return MethodFields(
        config=METHODS[name],
        gates=("enabled", *gates.split(), "stages", "blocks"),
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


SIZES = ("d_bottle", "rank", "num_tokens", "d_middle")
"""Fields that say how large a method is; none of its size means that it is off."""


class MethodSpace:
    """One method in a space.

    Args:
        name: a key of `METHOD_FIELDS`.
        arch: the backbone, for its stages and blocks.
        given: field to domain; `<field>.stage<number>` for every stage in place of a field. What
            is left out has its default; `blocks` is no field unless it is given.

    Attributes:
        domains: every field and its domain, gates first.
        per_stage: the fields that have a domain for every stage.

    Raises:
        ValueError: a field that the method has not, or a required one that is missing, or blocks
            beside stages that do not hold them or are searched too.
    """

    def __init__(self, name: str, arch: Arch, given: Mapping[str, Domain]) -> None:
        self.name = name
        self.arch = arch
        known = METHOD_FIELDS[name]
        self.config = known.config
        self.gates = known.gates
        self.counted = known.counted
        self.domains: dict[str, Domain] = {}
        self.per_stage: tuple[str, ...] = ()
        self._add(dict(given))
        self._check_blocks()

    def path(self, field: str) -> str:
        """Write `petl.patt.d_bottle.stage1`."""
        return f"petl.{self.name}.{field}"

    @property
    def where(self) -> str:
        """The field that says where the method goes."""
        return "blocks" if "blocks" in self.domains else "stages"

    def walk(self, pick: Picker, values: dict[str, Value]) -> bool:
        """Ask for every active field; False where that turns out to be off."""
        stages: tuple[int, ...] = ()
        for field, domain in self.domains.items():
            if (stage := stage_of(field)) is not None and stage not in stages:
                continue
            value = values[self.path(field)] = pick(self.path(field), domain)
            if field in self.gates and not value:
                return False
            if field == self.where:
                stages = self.stages_at(value)
        return True

    def is_on(self, values: Values) -> bool:
        """No gate is closed by `values`."""
        return all(values.get(self.path(gate), True) for gate in self.gates)

    def off_values(self) -> dict[str, Value] | None:
        """Return the shortest values that turn it off; None if it is always on."""
        values: dict[str, Value] = {}
        for gate in (gate for gate in self.gates if gate in self.domains):
            domain = self.domains[gate]
            off = next((member for member in (False, ()) if domain.contains(member)), None)
            if off is not None:
                return {**values, self.path(gate): off}
            values[self.path(gate)] = next(iter(grid_members(domain, 1)))
        return None

    def stages_at(self, where: Value) -> tuple[int, ...]:
        """Name the stages in which a value of the field `where` puts it."""
        chosen = where if isinstance(where, tuple) else ()
        if self.where == "stages":
            return chosen
        return tuple(sorted(Places.of(chosen).stages(self.arch)))

    def configs(self, active: Values) -> Iterator[MethodConfig]:
        """Build what active values say, one config a stage where a field has values by stage."""
        chosen = {f: active[self.path(f)] for f in self.domains if self.path(f) in active}
        yield from self.configs_of(chosen)

    def configs_of(self, chosen: Mapping[str, Value]) -> Iterator[MethodConfig]:
        """Build what these values of active fields say; `enabled` does not matter."""
        shared = {f: v for f, v in chosen.items() if f != "enabled" and stage_of(f) is None}
        if not self.per_stage:
            yield self.config(**shared)
            return
        for stage in self.stages_at(chosen[self.where]):
            own = {field: chosen[f"{field}.stage{stage}"] for field in self.per_stage}
            yield self.config(**{**shared, **own, "stages": (stage,)})

    def options(self, points: int) -> Iterator[dict[str, Value]]:
        """Every config of it once, off included, with `points` values of a continuous range."""
        off = self.off_values()
        if off is not None:
            yield off
        gates = [field for field in self.domains if field in self.gates]
        members = [[m for m in grid_members(self.domains[f], points) if m] for f in gates]
        for chosen in product(*members):
            values = dict(zip(gates, chosen, strict=True))
            stages = self.stages_at(values[self.where])
            rest = [f for f in self.domains if f not in gates and stage_of(f) in (None, *stages)]
            for others in product(*(grid_members(self.domains[f], points) for f in rest)):
                all_of_it = {**values, **dict(zip(rest, others, strict=True))}
                yield {self.path(field): value for field, value in all_of_it.items()}

    def _add(self, given: dict[str, Domain]) -> None:
        for field, default in self._defaults().items():
            stages = range(1, self.arch.num_stages + 1)
            own = [f"{field}.stage{stage}" for stage in stages]
            if field not in self.gates and own[0] in given:
                self.per_stage += (field,)
                self.domains.update({key: given.pop(key) for key in own if key in given})
            elif field in given or default is not None:
                self.domains[field] = given.pop(field, default)  # type: ignore[arg-type]
            elif field != "blocks":
                raise ValueError(f"{self.path(field)} has no default and must be given")
        missing = {f"{f}.stage{s}" for f in self.per_stage for s in stages} - set(self.domains)
        if missing:
            raise ValueError(f"{self.path(min(missing))} is missing beside those of other stages")
        if given:
            raise ValueError(f"no config has {', '.join(sorted(map(self.path, given)))}")

    def _defaults(self) -> dict[str, Domain | None]:
        """Return the domain of every field where nothing is given: gates first, all stages, on."""
        every_stage = tuple(range(1, self.arch.num_stages + 1))
        defaults = {**dict.fromkeys(self.gates), **field_defaults(self.config), "blocks": None}
        return {**defaults, "enabled": Fixed(value=True), "stages": Fixed(value=every_stage)}

    def _check_blocks(self) -> None:
        if "blocks" not in self.domains:
            return
        stages = self.domains["stages"]
        if stages.size != 1:
            raise ValueError(f"{self.path('blocks')}: the stages are searched too")
        named = named_items(stages)
        inside = {site.index + 1 for site in block_sites(self.arch) if site.stage in named}
        outside = named_items(self.domains["blocks"]) - inside
        if outside:
            raise ValueError(f"{self.path('blocks')}: {min(outside)} is in none of the stages")


def stage_of(field: str) -> int | None:
    """Tell the stage of `d_bottle.stage2`; None for a field of all stages."""
    _, found, stage = field.partition(".stage")
    return int(stage) if found else None


def is_size(path: str) -> bool:
    """Whether a path of a space is a method's size, of all stages or of one."""
    return not set(SIZES).isdisjoint(path.split("."))


def base_of(field: str) -> str:
    """Write `d_bottle` for `d_bottle.stage2`."""
    return field.partition(".stage")[0]


def named_items(domain: Domain) -> set[int]:
    """Every stage or block that some member of the domain has."""
    if isinstance(domain, Subset):
        return set(domain.items)  # type: ignore[arg-type]
    members = domain.options if isinstance(domain, Choice) else grid_members(domain, 1)
    return {item for member in members if isinstance(member, tuple) for item in member}


def grid_members(domain: Domain, points: int) -> Iterator[Value]:
    """Every member of a discrete domain, `points` of a continuous one."""
    if isinstance(domain, FloatRange):
        return iter(domain.points(points))
    return iter(domain.members())


def field_defaults(config: Callable[..., Any]) -> dict[str, Domain | None]:
    """Give the default of every field of a dataclass; None where it has none."""
    return {
        field.name: None if field.default is MISSING else Fixed(value=field.default)
        for field in fields(config)  # type: ignore[arg-type]
    }
