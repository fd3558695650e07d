"""The leaves of the spec's models: `Given` values, and `Searched` ones that may be domains.

Both carry a kind. A domain is written `{choice: [..]}`, `{int: [low, high]}`,
`{float: [low, high]}` or `{subset: [..]}`, its members being of that kind.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_core import PydanticCustomError, core_schema

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

    def read(self, raw: object) -> Domain:
        """Return the domain, or raise a `Wrong`."""
        if isinstance(raw, Domain):
            return raw
        if isinstance(raw, dict):
            return read_domain(self.kind, raw)
        return Fixed(value=self.kind.read(raw))


_DOMAIN_KEYS = frozenset({"choice", "int", "float", "subset"})
_OPTIONS: Mapping[str, frozenset[str]] = {
    "choice": frozenset(),
    "int": frozenset({"log", "step"}),
    "float": frozenset({"log"}),
    "subset": frozenset({"min"}),
}


def read_domain(kind: Kind, raw: Mapping[str, Any]) -> Domain:
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


def _read_subset(kind: Kind, raw: Mapping[str, Any]) -> Domain:
    if not isinstance(kind, Several):
        raise Wrong(f"must be {kind.allowed}, not a subset")
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


def plain_domain(domain: Domain) -> Any:
    """Write a domain as YAML does."""
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
