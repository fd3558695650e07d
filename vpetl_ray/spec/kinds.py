"""What one value of a spec may be, and the sentence that says so when it is not.

A kind reads what YAML gave for one value, and explains what it must be.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, ClassVar

from vpetl_ray.spec.document import INVALID

MAX_SHOWN = 60
MAX_ITEMS = 1000
"""In one list; more are a mistake or an attack."""


class Wrong(Exception):  # noqa: N818 - it is a list of sentences, caught where it is raised
    """Sentences about a value: where in it (keys and indices), and what is wrong there.

    An empty sentence is about something that has been complained about already.
    """

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

    def read(self, raw: object) -> Any:
        """Return the value, or raise a `Wrong` that says what it must be."""
        if raw is INVALID:
            raise Wrong("")
        if raw is None:
            if self.nullable:
                return None
            raise Wrong("is empty; give it a value or leave the key out")
        return self._read(raw)

    @abstractmethod
    def _read(self, raw: object) -> Any:
        """Read what is not null."""

    @property
    def allowed(self) -> str:
        """What is allowed, to follow `must be`."""
        return self._allowed()

    @abstractmethod
    def _allowed(self) -> str: ...

    def wrong(self, raw: object) -> Wrong:
        """Say the usual sentence."""
        return Wrong(f"must be {self.allowed}, got {show(raw)}")


@dataclass(frozen=True, kw_only=True)
class Whole(Kind):
    """A whole number."""

    low: int
    high: int | None = None
    words: tuple[str, ...] = ()
    domains: ClassVar[tuple[str, ...]] = ("choice", "int")

    def _allowed(self) -> str:
        bounds = f"of at least {self.low}"
        if self.high is not None:
            bounds = f"from {self.low} to {show(self.high)}"
        return _or_words(self.words, f"a whole number {bounds}")

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

    def _allowed(self) -> str:
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

    def _allowed(self) -> str:
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

    def _allowed(self) -> str:
        return "true or false"

    def _read(self, raw: object) -> bool:
        if isinstance(raw, bool):
            return raw
        raise self.wrong(raw)


@dataclass(frozen=True, kw_only=True)
class Text(Kind):
    """A piece of text on one line."""

    what: str = "text on one line"
    max_length: int = 1000

    def _allowed(self) -> str:
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

    def _allowed(self) -> str:
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
    if len(raw) > MAX_ITEMS:
        raise Wrong(f"has {show(len(raw))} items; at most {show(MAX_ITEMS)} are allowed", at)
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
    """Write a value as messages show it: short, on one line, numbers without quotes."""
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
    """Write `; did you mean 'swin3d_b'?`, or nothing where nothing is near."""
    near = get_close_matches(str(raw)[:MAX_SHOWN], options, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _or_words(words: tuple[str, ...], rest: str) -> str:
    return " or ".join([*(repr(word) for word in words), rest])
