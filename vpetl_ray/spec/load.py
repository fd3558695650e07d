"""Load a search space file; everything that is wrong with it is said at once, with its line.

The file is walked key by key along the models, so one wrong value hides no other. Checks that
need several values run over what could be read (`cross_checks`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from vpetl_ray.errors import SpecError
from vpetl_ray.spec.cross_checks import check_together
from vpetl_ray.spec.document import INVALID, Document, Problem, read_document, read_value
from vpetl_ray.spec.document import Path as KeyPath
from vpetl_ray.spec.kinds import Wrong, nearest, show
from vpetl_ray.spec.leaves import Given
from vpetl_ray.spec.search_spec import SearchSpec
from vpetl_ray.spec.section import Section, section_of
from vpetl_ray.spec.sections import DEMO_WEIGHTS

MAX_PROBLEMS = 40


def load_spec(path: str | Path, overrides: Sequence[str] = ()) -> SearchSpec:
    """Read, override and check a search space file.

    Args:
        path: the YAML file.
        overrides: `key.path=value` each, the value in YAML; they win over the file.

    Raises:
        SpecError: the file or an override is wrong. The message has one line for each mistake:
            `file.yaml:14: petl.patt.targets: 'x' is not one of q, k, v`.
    """
    path = Path(path)
    document = read_document(_content(path), str(path))
    for text in overrides:
        _override(document, text)
    document.data.setdefault("name", _name_of(path))
    found = Findings(document=document)
    found.problems += document.problems
    _walk(SearchSpec, document.data, (), found)
    _make_absolute(path.absolute().parent, found)
    check_together(found)
    if found.problems:
        raise SpecError(_message(found))
    spec = SearchSpec.model_validate(found.nested())
    spec._document = document
    if spec.is_list and spec.knows_classes:  # else when the data is opened
        spec.start_plan()
    return spec


@dataclass
class Findings:
    """What was read so far: values by path, and what is wrong."""

    document: Document
    values: dict[KeyPath, Any] = field(default_factory=dict)
    """Every leaf that is as it must be, defaults included; None for a method that is absent."""
    failed: set[KeyPath] = field(default_factory=set)
    """Leaves that are not."""
    problems: list[Problem] = field(default_factory=list)

    def add(self, path: KeyPath, text: str, at: KeyPath = ()) -> None:
        """Note a problem with the value at `path`, more precisely at `at` below it."""
        self.problems.append(Problem(path=path, text=text, at=at))

    def fail(self, path: KeyPath) -> None:
        """Note that a value turned out to be wrong after it was read."""
        self.values.pop(path, None)
        self.failed.add(path)

    def is_given(self, path: KeyPath) -> bool:
        """Whether the file or an override has this key, right or wrong."""
        place: Any = self.document.data
        for key in path:
            if not isinstance(place, dict) or key not in place:
                return False
            place = place[key]
        return True

    def have(self, *paths: KeyPath) -> bool:
        """Whether all of these leaves could be read."""
        return all(path in self.values for path in paths)

    def section(self, *start: str) -> dict[str, Any]:
        """Return the leaves directly below `start` that could be read, by key."""
        return {p[-1]: v for p, v in self.values.items() if p[:-1] == start}  # type: ignore[misc]

    def nested(self) -> dict[str, Any]:
        """Return all values as nested mappings."""
        root: dict[str, Any] = {}
        for path, value in self.values.items():
            place = root
            for key in path[:-1]:
                place = place.setdefault(str(key), {})
            place[str(path[-1])] = value
        return root


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise SpecError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise SpecError(f"{path}: is a folder, not a search space file") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SpecError(f"{path}: cannot be read: {reason}") from None


def _name_of(path: Path) -> str:
    word = re.sub(r"[^A-Za-z0-9._-]+", "_", path.stem).lstrip("._-")
    return word[:100] or "search"


def _override(document: Document, text: str) -> None:
    path_text, equals, value_text = text.partition("=")
    keys = [key.strip() for key in path_text.split(".")]
    if not equals or not all(keys):
        raise SpecError(f"in --set: must be key.path=value, got {show(text)}")
    value = read_value(value_text, f"in --set: {'.'.join(keys)}")
    place: dict[str, Any] = document.data
    for depth, key in enumerate(keys[:-1], start=1):
        if not isinstance(place.get(key), dict):
            place[key] = {}
            document.overridden.add(tuple(keys[:depth]))
        place = place[key]
    place[keys[-1]] = value
    document.overridden.add(tuple(keys))


def _walk(model: type[Section], raw: object, path: KeyPath, found: Findings) -> None:
    fields = model.model_fields
    if not isinstance(raw, dict):
        if raw is not INVALID:
            text = "is empty; give it values or leave it out" if raw is None else f"got {show(raw)}"
            found.add(path, f"must be a section with keys such as {', '.join(fields)}; {text}")
        return
    for key in raw:
        if key not in fields:
            hint = nearest(key, list(fields)) or f"; allowed are {', '.join(fields)}"
            found.add((*path, key), f"unknown key{hint}")
    for name, info in fields.items():
        here = (*path, name)
        section = section_of(info)
        if section is None:
            _read_leaf(info, raw, here, found)
        elif raw.get(name) is None and not info.is_required() and info.default is None:
            found.values[here] = None
        else:
            _walk(section, raw.get(name, {}), here, found)


def _read_leaf(info: FieldInfo, raw: dict[str, Any], path: KeyPath, found: Findings) -> None:
    marker = next(entry for entry in info.metadata if isinstance(entry, Given))
    name = str(path[-1])
    if name not in raw:
        if info.default is not PydanticUndefined:
            found.values[path] = info.default
            return
        found.failed.add(path)
        found.add(path, f"is missing; it must be {marker.kind.allowed}")
        return
    try:
        if raw[name] is INVALID:
            raise Wrong("")
        found.values[path] = marker.read(raw[name])
    except Wrong as wrong:
        found.failed.add(path)
        for at, text in wrong.found:
            if text:
                found.add(path, text, at)


def _make_absolute(folder: Path, found: Findings) -> None:
    """Paths in the file are relative to it, paths in --set to where the command was typed."""
    weights: KeyPath = ("backbone", "weights")
    for path in (("data", "path"), weights):
        value = found.values.get(path)
        if not isinstance(value, str) or (path == weights and value == DEMO_WEIGHTS):
            continue
        base = Path.cwd() if found.document.is_overridden(path) else folder
        try:
            found.values[path] = os.path.normpath(base / Path(value).expanduser())
        except RuntimeError:
            found.add(path, f"there is no home folder for {show(value)}")


def _message(found: Findings) -> str:
    document = found.document

    def order(problem: Problem) -> tuple[bool, int]:
        place = problem.path + problem.at
        return document.is_overridden(place), problem.line or document.line(place)

    lines = []
    for problem in sorted(found.problems, key=order):
        where = document.where(problem.path + problem.at)
        if problem.line is not None:
            where = f"{document.name}:{problem.line}"
        lines.append(f"{where}: {key_text(problem.path)}: {problem.text}")
    unique = list(dict.fromkeys(lines))
    hidden = len(unique) - MAX_PROBLEMS
    return "\n".join(unique[:MAX_PROBLEMS] + ([f"... and {hidden} more"] if hidden > 0 else []))


def key_text(path: KeyPath) -> str:
    """Write `petl.patt.targets`; a key that is no plain word is shown in quotes and cut short."""
    words = [str(key) for key in path if not str(key).startswith("<again")]
    return ".".join(w if w.isidentifier() and len(w) <= 40 else show(w) for w in words)
