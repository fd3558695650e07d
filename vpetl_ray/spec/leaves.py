"""The leaves of the spec's models: `Given` values, and `Searched` ones that may be domains.

Both carry a kind. A domain is written `{choice: [..]}`, `{int: [low, high]}`,
`{float: [low, high]}` or `{subset: [..]}`, its members being of that kind; where a leaf may have a
value for every stage, also `{per_stage: ..}`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_core import PydanticCustomError, core_schema

from vpetl_ray.spec.by_arch import ALL, PER_STAGE, AnyOfAll, PerStage, SpecDomain, Unresolved
from vpetl_ray.spec.document import INVALID
from vpetl_ray.spec.kinds import Flag, Kind, Several, Whole, Wrong, read_items, show
from vpetl_ray.tuning.domains import Choice, Domain, Fixed, FloatRange, IntRange, Subset, Value


@dataclass(frozen=True)
class Given:
    """Marks a leaf of a model: a fixed value of this kind."""

    kind: Kind

    def read(self, raw: object) -> Any:
        """Return the value, or raise a `Wrong`."""
        if isinstance(raw, dict) and set(raw) & _DOMAIN_KEYS:
            raise Wrong("is not searched; give it one value")
        return self.kind.read(raw)

    def __get_pydantic_core_schema__(self, source: object, handler: object) -> Any:
        return core_schema.no_info_plain_validator_function(_told_to_pydantic(self.read))


@dataclass(frozen=True)
class Searched(Given):
    """Marks a leaf of a model: a value of this kind, or a domain of such values."""

    per_stage: bool = False
    """Whether every stage may have a value or domain of its own."""

    def read(self, raw: object) -> SpecDomain:
        """Return the domain, or raise a `Wrong`."""
        if isinstance(raw, Domain | Unresolved):
            return raw
        if isinstance(raw, dict) and self.per_stage and PER_STAGE in raw:
            return _read_per_stage(self.kind, raw)
        return _read_one(self.kind, raw)


_DOMAIN_KEYS = frozenset({"choice", "int", "float", "subset"})
_OPTIONS: Mapping[str, frozenset[str]] = {
    "choice": frozenset(),
    "int": frozenset({"log", "step"}),
    "float": frozenset({"log"}),
    "subset": frozenset({"min"}),
}


def _read_one(kind: Kind, raw: object) -> SpecDomain:
    return read_domain(kind, raw) if isinstance(raw, dict) else Fixed(value=kind.read(raw))


def _read_per_stage(kind: Kind, raw: Mapping[str, Any]) -> PerStage:
    unknown = [key for key in raw if key != PER_STAGE]
    if unknown:
        raise Wrong(f"unknown key {show(unknown[0])} beside per_stage", (unknown[0],))
    given = raw[PER_STAGE]
    if not isinstance(given, list):
        return PerStage(domains=(_read_own(kind, given, (PER_STAGE,)),))
    if not given:
        raise Wrong("an empty list; give a value or domain for each stage", (PER_STAGE,))
    domains: list[Domain] = []
    found: list[tuple[tuple[str | int, ...], str]] = []
    for i, entry in enumerate(given):
        try:
            domains.append(_read_own(kind, entry, (PER_STAGE, i)))
        except Wrong as wrong:
            found += wrong.found
    if found:
        raise Wrong.all_of(found)
    return PerStage(domains=tuple(domains), is_list=True)


def _read_own(kind: Kind, raw: object, at: tuple[str | int, ...]) -> Domain:
    """Read the value or domain of one stage."""
    try:
        domain = _read_one(kind, raw)
    except Wrong as wrong:
        raise Wrong.all_of([((*at, *deeper), text) for deeper, text in wrong.found]) from wrong
    assert isinstance(domain, Domain), "a number has no word for every stage or block"
    return domain


def read_domain(kind: Kind, raw: Mapping[str, Any]) -> SpecDomain:
    """Read `{choice: [..]}`, `{int: [..], log: true}`, `{float: [..]}` or `{subset: [..]}`."""
    given = sorted(set(raw) & _DOMAIN_KEYS)
    examples = " or ".join(f"{{{name}: ...}}" for name in kind.domains)
    if len(given) != 1:
        raise Wrong(f"must be {kind.allowed}, or {examples}; got {_show_keys(raw)}")
    name = given[0]
    if name not in kind.domains:
        raise Wrong(f"cannot be {{{name}: ...}}; write {examples}, or {kind.allowed}", (name,))
    unknown = [key for key in raw if key != name and key not in _OPTIONS[name]]
    if unknown:
        options = sorted(_OPTIONS[name])
        hint = f"; beside {name} there can be {', '.join(options)}" if options else ""
        found: list[tuple[tuple[str | int, ...], str]] = [
            ((key,), f"unknown key {show(key)}{hint}") for key in unknown
        ]
        raise Wrong.all_of(found)
    nested = [entry for value in raw.values() if isinstance(value, list) for entry in value]
    if any(entry is INVALID for entry in (*raw.values(), *nested)):
        raise Wrong("", (name,))
    try:
        return _READERS[name](kind, raw)
    except ValueError as error:
        raise Wrong(str(error), (name,)) from error


def _read_choice(kind: Kind, raw: Mapping[str, Any]) -> Domain:
    options = read_items(kind, raw["choice"], ("choice",))
    if not options:
        raise Wrong(f"an empty choice; list at least one value, each {kind.allowed}", ("choice",))
    return Choice(options=tuple(options))


def _read_range(kind: Kind, raw: Mapping[str, Any]) -> Domain:
    name = "int" if "int" in raw else "float"
    ends = raw[name]
    if not isinstance(ends, list) or len(ends) != 2:
        raise Wrong(f"a range is [smallest, largest], got {show(ends)}", (name,))
    for i, end in enumerate(ends):
        if isinstance(end, bool | str) or (name == "int" and not isinstance(end, int)):
            article = "a whole number" if name == "int" else "a number"
            raise Wrong(f"the end of a range must be {article}, got {show(end)}", (name, i))
    log = _option(raw, "log", Flag(), default=False)
    low, high = (_read_end(kind, end, (name, i), log=log) for i, end in enumerate(ends))
    if name == "float":
        return FloatRange(low=float(low), high=float(high), log=log)
    step = _option(raw, "step", Whole(low=1), default=1)
    return IntRange(low=low, high=high, log=log, step=step)


def _read_end(kind: Kind, raw: object, at: tuple[str | int, ...], *, log: bool) -> Any:
    if log and isinstance(raw, int | float) and raw <= 0:
        raise Wrong(f"a log range must start above 0, got {show(raw)}", at)
    try:
        return kind.read(raw)
    except Wrong as wrong:
        raise Wrong(str(wrong), at) from wrong


def _read_subset(kind: Kind, raw: Mapping[str, Any]) -> SpecDomain:
    if not isinstance(kind, Several):
        raise Wrong(f"must be {kind.allowed}, not a subset")
    if ALL in kind.words and isinstance(raw["subset"], str):
        if raw["subset"] != ALL:
            raise Wrong(f"must be a list or {ALL!r}, got {show(raw['subset'])}", ("subset",))
        return AnyOfAll(min_size=_option(raw, "min", Whole(low=0), default=0))
    items = kind.ordered(read_items(kind.item, raw["subset"], ("subset",)))
    if not items:
        raise Wrong(f"an empty subset; it needs {kind.allowed}", ("subset",))
    min_size = _option(raw, "min", Whole(low=0, high=len(items)), default=0)
    return Subset(items=items, min_size=min_size)


_READERS = {
    "choice": _read_choice,
    "int": _read_range,
    "float": _read_range,
    "subset": _read_subset,
}


def _option(raw: Mapping[str, Any], key: str, kind: Kind, *, default: Any) -> Any:
    if key not in raw:
        return default
    try:
        return kind.read(raw[key])
    except Wrong as wrong:
        raise Wrong(f"{key} {wrong}", (key,)) from wrong


def _told_to_pydantic(read: Any) -> Any:
    def validate(raw: object) -> object:
        try:
            return read(raw)
        except Wrong as wrong:
            # Braces are pydantic's placeholders.
            text = str(wrong).replace("{", "(").replace("}", ")")
            raise PydanticCustomError("value", text) from wrong

    return validate


def _show_keys(raw: Mapping[str, Any]) -> str:
    keys: Iterator[str] = (str(key) for key in raw)
    return show(", ".join(keys)) if raw else "an empty mapping"


def plain_domain(domain: SpecDomain) -> Any:
    """Write a domain as YAML does."""
    if isinstance(domain, PerStage):
        plain = [plain_domain(own) for own in domain.domains]
        return {PER_STAGE: plain if domain.is_list else plain[0]}
    if isinstance(domain, AnyOfAll):
        return {"subset": ALL, **({"min": domain.min_size} if domain.min_size else {})}
    return _plain_members(domain)


def _plain_members(domain: Domain) -> Any:
    match domain:
        case Fixed(value=value):
            return _plain(value)
        case Choice(options=options):
            return {"choice": [_plain(option) for option in options]}
        case Subset(items=items, min_size=min_size):
            return {"subset": list(items), **({"min": min_size} if min_size else {})}
        case FloatRange(low=low, high=high, log=log):
            return {"float": [low, high], **({"log": True} if log else {})}
        case IntRange(low=low, high=high, log=log, step=step):
            suffix = {"log": True} if log else {"step": step} if step != 1 else {}
            return {"int": [low, high], **suffix}
    raise TypeError(f"{domain} is no domain that YAML can write")


def _plain(value: Value) -> Any:
    return list(value) if isinstance(value, tuple) else value
