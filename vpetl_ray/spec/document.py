"""YAML text as plain values, every one with its line; nothing in the text is ever executed.

The text is read event by event, so that depth, size, aliases and tags are refused before anything
is built from them. Plain words are read as YAML 1.2 does: `on`, `off`, `yes` and `no` are words,
and `1e-3` is a number.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import yaml

from vpetl_ray.errors import SpecError

Path: TypeAlias = tuple[str | int, ...]

MAX_BYTES = 1_000_000
MAX_EVENTS = 50_000
MAX_DEPTH = 16
MAX_NUMBER_LENGTH = 40

INVALID = object()
"""Stands for a value that has been complained about already."""

_WORDS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_INT = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"([-+]?\.(inf|Inf|INF))|(\.(nan|NaN|NAN))")


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong with a document."""

    path: Path
    """Keys from the top; empty for the document itself."""
    text: str
    """The rest of the sentence."""
    at: Path = ()
    """Where below the path, for its line; messages do not show it."""
    line: int | None = None
    """Where it was read, if that is not where the path stands."""


@dataclass
class Document:
    """The values of a YAML text and the line of each."""

    name: str
    """What messages call it: the path as the user gave it."""
    data: dict[str, Any] = field(default_factory=dict)
    lines: dict[Path, int] = field(default_factory=dict)
    overridden: set[Path] = field(default_factory=set)
    """Paths given by `--set`; everything below them is too."""
    problems: list[Problem] = field(default_factory=list)

    def where(self, path: Path) -> str:
        """Say `file.yaml:14`, the nearest line that is known, or `in --set`."""
        if self.is_overridden(path):
            return "in --set"
        for length in range(len(path), -1, -1):
            if path[:length] in self.lines:
                return f"{self.name}:{self.lines[path[:length]]}"
        return self.name

    def is_overridden(self, path: Path) -> bool:
        """Whether the value was given by `--set`."""
        return any(path[:length] in self.overridden for length in range(len(path) + 1))

    def line(self, path: Path) -> int:
        """Return, for sorting messages, the nearest known line, 0 if there is none."""
        known = (self.lines.get(path[:n]) for n in range(len(path), -1, -1))
        return next((line for line in known if line is not None), 0)


def read_document(content: bytes, name: str) -> Document:
    """Read a YAML mapping.

    Args:
        content: the file as it is.
        name: what messages call it.

    Raises:
        SpecError: it is not YAML, or holds what a spec may not hold; the message has the line.
    """
    if len(content) > MAX_BYTES:
        raise SpecError(f"{name}: is larger than {MAX_BYTES:,} bytes; a spec is a page of text")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise SpecError(f"{name}:{line}: is not UTF-8 text") from error
    document = Document(name=name)
    document.data = _Reader(document).read(text)
    return document


def read_value(text: str, name: str) -> Any:
    """Read the value of a `--set`, by the same rules.

    Raises:
        SpecError: it is not YAML.
    """
    document = Document(name=name)
    value = _Reader(document).read_any(text)
    if document.problems:
        raise SpecError(f"{name}: {document.problems[0].text}")
    return value


class _Reader:
    """Builds the values of one text from its events."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._name = document.name

    def read(self, text: str) -> dict[str, Any]:
        data = self.read_any(text)
        if data is None:
            raise SpecError(f"{self._name}: is empty; a spec starts with `name: ...`")
        if not isinstance(data, dict):
            raise SpecError(f"{self._name}:1: must be a mapping of sections, not {_kind(data)}")
        return data

    def read_any(self, text: str) -> Any:
        try:
            return self._read_stream(text)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            where = f"{self._name}:{mark.line + 1}" if mark else self._name
            raise SpecError(f"{where}: is not YAML: {error.problem}") from error
        except yaml.reader.ReaderError as error:
            line = text[: error.position].count("\n") + 1
            raise SpecError(f"{self._name}:{line}: has a character that YAML forbids") from error
        except (ValueError, OverflowError) as error:
            # PyYAML lets these through for numbers in escapes and directives that are out of range.
            raise SpecError(f"{self._name}: is not YAML: {error}") from error

    def _read_stream(self, text: str) -> Any:
        events = self._checked(yaml.parse(text, Loader=yaml.SafeLoader))
        value = None
        num_documents = 0
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                num_documents += 1
                if num_documents > 1:
                    raise SpecError(f"{self._at(event)}: a second document starts here; use one")
                value = self._value(next(events), events, ())
        return value

    def _checked(self, events: Iterator[yaml.Event]) -> Iterator[yaml.Event]:
        """Refuse what no spec needs as soon as it is read."""
        depth = 0
        for number, event in enumerate(events):
            if number > MAX_EVENTS:
                raise SpecError(f"{self._at(event)}: more than {MAX_EVENTS:,} values; too many")
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                raise SpecError(f"{self._at(event)}: anchors and aliases (& and *) are not allowed")
            if tag := getattr(event, "tag", None):
                raise SpecError(f"{self._at(event)}: tags ({_short(tag)}) are not allowed")
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            if depth > MAX_DEPTH:
                raise SpecError(f"{self._at(event)}: is nested more than {MAX_DEPTH} deep")
            yield event

    def _value(self, event: yaml.Event, events: Iterator[yaml.Event], path: Path) -> Any:
        self._document.lines.setdefault(path, _line(event))
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(events, path)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(events, path)
        assert isinstance(event, yaml.ScalarEvent)
        return self._scalar(event, path)

    def _mapping(self, events: Iterator[yaml.Event], path: Path) -> dict[str, Any]:
        result: dict[str, Any] = {}
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            line = _line(event)
            if not isinstance(event, yaml.ScalarEvent):
                raise SpecError(f"{self._at(event)}: a key must be a word, not a list or mapping")
            key: str = event.value
            here: Path = (*path, key)
            if key in result:
                first = self._document.lines[here]
                self._problem(here, f"is given twice (first in line {first})", line)
                self._value(next(events), events, (*here, f"<again {line}>"))
                continue
            self._document.lines[here] = line
            result[key] = self._value(next(events), events, here)
        return result

    def _sequence(self, events: Iterator[yaml.Event], path: Path) -> list[Any]:
        result: list[Any] = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            result.append(self._value(event, events, (*path, len(result))))
        return result

    def _scalar(self, event: yaml.ScalarEvent, path: Path) -> Any:
        text: str = event.value
        if not event.implicit[0]:
            return text
        if text in _NULLS:
            return None
        if text in _WORDS:
            return _WORDS[text]
        if _NOT_FINITE.fullmatch(text):
            self._problem(path, f"must be a finite number, got {text}", _line(event))
            return INVALID
        return self._number(text, path, _line(event))

    def _number(self, text: str, path: Path, line: int) -> object:
        is_int = _INT.fullmatch(text) is not None
        if not is_int and not _FLOAT.fullmatch(text):
            return text
        if len(text) > MAX_NUMBER_LENGTH or abs(float(text)) == float("inf"):
            self._problem(path, f"the number {_short(text)} is too long or too large", line)
            return INVALID
        return int(text) if is_int else float(text)

    def _problem(self, path: Path, text: str, line: int) -> None:
        self._document.problems.append(Problem(path=path, text=text, line=line))

    def _at(self, event: yaml.Event) -> str:
        return f"{self._name}:{_line(event)}"


def _line(event: yaml.Event) -> int:
    # PyYAML marks every event; its types say that it may not.
    return event.start_mark.line + 1 if event.start_mark else 0


def _kind(value: object) -> str:
    return "a list" if isinstance(value, list) else f"the single value {_short(repr(value))}"


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}..."
