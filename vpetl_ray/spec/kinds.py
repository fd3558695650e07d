"""What one value of a spec may be, and the sentence that says so when it is not.

Every leaf of the spec's models carries a kind: `Given(kind)` where the value is fixed,
`Searched(kind)` where it may be a domain as well. The kind reads what YAML gave, and explains.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, ClassVar

from pydantic_core import PydanticCustomError, core_schema

from vpetl_ray.spec.document import INVALID
from vpetl_ray.tuning.domains import Choice, Domain, Fixed, FloatRange, IntRange, Subset, Value

MAX_SHOWN = 60


class Wrong(Exception):  # noqa: N818 - it is a list of sentences, caught where it is raised
    """Sentences about a value: where in it (keys and indices), and what is wrong there."""

    def __init__(self, text: str, at: tuple[str | int, ...] = ()) -> None:
        super().__init__(text)
        self.found: list[tuple[tuple[str | int, ...], str]] = [(at, text)]

    @classmethod
    def all_of(cls, found: list[tuple[tuple[str | int, ...], str]]) -> Wrong:
        """Several sentences at once."""
        wrong = cls(found[0][1])
        wrong.found = found
        return wrong


@dataclass(frozen=True, kw_only=True)
class Kind(ABC):
    """What a value may be."""

    nullable: bool = False
    """Whether `null` is a value."""

    domains: ClassVar[tuple[str, ...]] = ("choice",)
    """The domains that make sense for it."""

    def read(self, raw: object) -> Any:  # noqa: ANN401 - the kind decides the type
        """The value, or a `Wrong` that says what it must be."""
        if raw is None:
            if self.nullable:
                return None
            raise Wrong("is empty; give it a value or leave the key out")
        return self._read(raw)

    @abstractmethod
    def _read(self, raw: object) -> Any:  # noqa: ANN401
        """Read what is not null."""

    @property
    @abstractmethod
    def allowed(self) -> str:
        """What is allowed, to follow `must be`."""

    def wrong(self, raw: object) -> Wrong:
        """The usual sentence."""
        return Wrong(f"must be {self.allowed}, got {show(raw)}")


@dataclass(frozen=True, kw_only=True)
class Whole(Kind):
    """A whole number."""

    low: int
    high: int | None = None
    words: tuple[str, ...] = ()
    domains: ClassVar[tuple[str, ...]] = ("choice", "int")

    @property
    def allowed(self) -> str:
        bounds = f"of at least {self.low}" if self.high is None else f"from {self.low} to"
        high = "" if self.high is None else f" {self.high}"
        return _or_words(self.words, f"a whole number {bounds}{high}")

    def _read(self, raw: object) -> int | str:
        if isinstance(raw, str) and raw in self.words:
            return raw
        if not isinstance(raw, int) or isinstance(raw, bool) or raw < self.low:
            raise self.wrong(raw)
        if self.high is not None and raw > self.high:
            raise self.wrong(raw)
        return raw


@dataclass(frozen=True, kw_only=True)
class Number(Kind):
    """A number; `above` and `below` are not included, `low` and `high` are."""

    low: float | None = None
    above: float | None = None
    high: float | None = None
    below: float | None = None
    words: tuple[str, ...] = ()
    domains: ClassVar[tuple[str, ...]] = ("choice", "float")

    @property
    def allowed(self) -> str:
        bounds = [
            (self.low, "of at least"),
            (self.above, "above"),
            (self.high, "at most"),
            (self.below, "below"),
        ]
        said = [f"{words} {bound:g}" for bound, words in bounds if bound is not None]
        return _or_words(self.words, " ".join(["a number", " and ".join(said)]).strip())

    def _read(self, raw: object) -> float | str:
        if isinstance(raw, str) and raw in self.words:
            return raw
        if not isinstance(raw, int | float) or isinstance(raw, bool):
            raise self.wrong(raw)
        # False for NaN too, which is neither above nor below anything.
        fits = (
            (self.low is None or raw >= self.low)
            and (self.above is None or raw > self.above)
            and (self.high is None or raw <= self.high)
            and (self.below is None or raw < self.below)
            and abs(raw) < float("inf")
        )
        if not fits:
            raise self.wrong(raw)
        return float(raw)


@dataclass(frozen=True, kw_only=True)
class Word(Kind):
    """One of some words."""

    options: tuple[str, ...]

    @property
    def allowed(self) -> str:
        return f"one of {', '.join(self.options)}"

    def _read(self, raw: object) -> str:
        if isinstance(raw, str) and raw in self.options:
            return raw
        raise Wrong(
            f"{show(raw)} is not one of {', '.join(self.options)}{nearest(raw, self.options)}"
        )


@dataclass(frozen=True, kw_only=True)
class Flag(Kind):
    """True or false."""

    allowed: ClassVar[str] = "true or false"  # type: ignore[misc]

    def _read(self, raw: object) -> bool:
        if isinstance(raw, bool):
            return raw
        raise self.wrong(raw)


@dataclass(frozen=True, kw_only=True)
class Text(Kind):
    """A piece of text on one line."""

    what: str = "text on one line"
    max_length: int = 1000

    @property
    def allowed(self) -> str:
        return self.what

    def _read(self, raw: object) -> str:
        if not isinstance(raw, str) or not raw.strip() or len(raw) > self.max_length:
            raise self.wrong(raw)
        if not raw.isprintable():
            raise self.wrong(raw)
        return raw


@dataclass(frozen=True, kw_only=True)
class Several(Kind):
    """A list of different items; a tuple in their own order once it is read."""

    item: Kind
    order: tuple[object, ...] | None = None
    """The order in which items are written; None sorts them."""
    words: tuple[str, ...] = ()
    """Words that may stand in place of the list."""
    domains: ClassVar[tuple[str, ...]] = ("choice", "subset")

    @property
    def allowed(self) -> str:
        options = getattr(self.item, "options", None)
        items = (
            f"a list of {', '.join(options)}" if options else f"a list, each {self.item.allowed}"
        )
        return _or_words(self.words, items)

    def _read(self, raw: object) -> tuple[Any, ...] | str:
        if isinstance(raw, str) and raw in self.words:
            return raw
        if not isinstance(raw, list | tuple):
            raise self.wrong(raw)
        return self.ordered(read_items(self.item, raw, ()))

    def ordered(self, items: list[Any]) -> tuple[Any, ...]:
        """In the order in which the items are always written."""
        key = None if self.order is None else self.order.index
        return tuple(sorted(items, key=key))


def read_items(kind: Kind, raw: object, at: tuple[str | int, ...]) -> list[Any]:
    """Read every item of a list; all that is wrong with them is reported at once."""
    if not isinstance(raw, list | tuple):
        raise Wrong(f"must be a list, got {show(raw)}", at)
    items: list[Any] = []
    found: list[tuple[tuple[str | int, ...], str]] = []
    for i, entry in enumerate(raw):
        try:
            item = kind.read(entry)
        except Wrong as wrong:
            found += [((*at, i, *deeper), text) for deeper, text in wrong.found]
            continue
        if any(item == other and type(item) is type(other) for other in items):
            found.append(((*at, i), f"{show(entry)} is listed twice"))
        items.append(item)
    if found:
        raise Wrong.all_of(found)
    return items


def show(raw: object) -> str:
    """A value as a message shows it: short, on one line, numbers without quotes."""
    if isinstance(raw, bool):
        return "true" if raw else "false"
    if raw is None:
        return "nothing"
    if isinstance(raw, int):
        digits = str(raw)
        return f"{raw:,}".replace(",", " ") if len(digits) <= MAX_SHOWN else f"{digits[:20]}..."
    text = repr(raw)
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 3]}..."


def nearest(raw: object, options: tuple[str, ...] | list[str]) -> str:
    """`; did you mean 'swin3d_b'?`, or nothing where nothing is near."""
    near = get_close_matches(str(raw)[:MAX_SHOWN], options, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


@dataclass(frozen=True)
class Given:
    """Marks a leaf of a model: a fixed value of this kind."""

    kind: Kind

    def read(self, raw: object) -> Any:  # noqa: ANN401
        """The value, or a `Wrong`."""
        if isinstance(raw, dict) and set(raw) & _DOMAIN_KEYS:
            raise Wrong("is not searched; give it one value")
        return self.kind.read(raw)

    def __get_pydantic_core_schema__(self, source: object, handler: object) -> Any:  # noqa: ANN401, ARG002
        return core_schema.no_info_plain_validator_function(_told_to_pydantic(self.read))


@dataclass(frozen=True)
class Searched(Given):
    """Marks a leaf of a model: a value of this kind, or a domain of such values."""

    def read(self, raw: object) -> Domain:
        """The domain, or a `Wrong`."""
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
    """Read `{choice: [..]}`, `{int: [lo, hi], log: true}`, `{float: [lo, hi]}`, `{subset: [..]}`."""
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
        found = [((key,), f"unknown key {show(key)}{hint}") for key in unknown]
        raise Wrong.all_of(found)  # type: ignore[arg-type]
    if any(value is INVALID for value in raw.values()):
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


def _read_end(kind: Kind, raw: object, at: tuple[str | int, ...], *, log: bool) -> Any:  # noqa: ANN401
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


def _option(raw: Mapping[str, Any], key: str, kind: Kind, *, default: Any) -> Any:  # noqa: ANN401
    if key not in raw:
        return default
    try:
        return kind.read(raw[key])
    except Wrong as wrong:
        raise Wrong(f"{key} {wrong}", (key,)) from wrong


def _told_to_pydantic(read: Any) -> Any:  # noqa: ANN401
    def validate(raw: object) -> object:
        try:
            return read(raw)
        except Wrong as wrong:
            # Braces are pydantic's placeholders.
            text = str(wrong).replace("{", "(").replace("}", ")")
            raise PydanticCustomError("value", text) from wrong  # type: ignore[arg-type]

    return validate


def _or_words(words: tuple[str, ...], rest: str) -> str:
    return " or ".join([*(repr(word) for word in words), rest])


def _show_keys(raw: Mapping[str, Any]) -> str:
    keys: Iterator[str] = (str(key) for key in raw)
    return show(", ".join(keys)) if raw else "an empty mapping"


def plain_domain(domain: Domain) -> Value | dict[str, Any]:
    """A domain as YAML writes it."""
    match domain:
        case Fixed(value=value):
            return _plain(value)
        case Choice(options=options):
            return {"choice": [_plain(option) for option in options]}
        case Subset(items=items, min_size=min_size):
            return {"subset": list(items), **({"min": min_size} if min_size else {})}
        case FloatRange():
            return {"float": [domain.low, domain.high], **({"log": True} if domain.log else {})}
    step = {"step": domain.step} if domain.step != 1 else {}
    log = {"log": True} if domain.log else {}
    return {"int": [domain.low, domain.high], **log, **step}


def _plain(value: Value) -> Any:  # noqa: ANN401
    return list(value) if isinstance(value, tuple) else value
