"""Kinds that one key alone has: the budget, names, the list of start configs, the tracking URI."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from vpetl_ray.addresses import has_secret
from vpetl_ray.spec.kinds import Kind, Text, Word, Wrong, nearest, read_items, show
from vpetl_ray.tuning.start import START_CONFIGS

_COUNT = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([kKmM]?)")
_SHARE = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,9})?) ?%")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_FACTORS = {"": 1, "k": 1_000, "m": 1_000_000}


@dataclass(frozen=True, kw_only=True)
class Budget(Kind):
    """A count (`5M`, `120k`, `45000`) or a share of the backbone (`2%`), kept as it is written."""

    def _allowed(self) -> str:
        return "a count such as 45000, 120k or 5M, or a share of the backbone such as 2%"

    def _read(self, raw: object) -> str | int:
        if isinstance(raw, float) and raw.is_integer():
            raw = int(raw)
        if isinstance(raw, int) and not isinstance(raw, bool) and 0 <= raw < 10**15:
            return raw
        if isinstance(raw, str) and (_COUNT.fullmatch(raw) or _SHARE.fullmatch(raw)):
            return raw
        raise self.wrong(raw)


def budget_in_parameters(budget: str | int | None, num_backbone: int) -> int | None:
    """Return the budget as a number of parameters; None is no limit.

    Args:
        budget: what `Budget` accepts.
        num_backbone: parameters of the backbone, of which a share is taken.
    """
    if budget is None or isinstance(budget, int):
        return budget
    if share := _SHARE.fullmatch(budget):
        # In whole numbers: 7% of 100 must be 7, and as floats it is not.
        return int(num_backbone * _scaled(share[1]) // (100 * 10**9))
    count = _COUNT.fullmatch(budget)
    if count is None:
        raise ValueError(f"{budget!r} is no budget")
    return int(_scaled(count[1]) * _FACTORS[count[2].lower()] // 10**9)


def _scaled(number: str) -> int:
    whole, _, decimals = number.partition(".")
    return int(whole + decimals.ljust(9, "0"))


@dataclass(frozen=True, kw_only=True)
class Name(Kind):
    """A name that can be a folder on every system."""

    def _allowed(self) -> str:
        return "a name of letters, digits, '.', '_' and '-' that starts with a letter or digit"

    def _read(self, raw: object) -> str:
        if isinstance(raw, str) and _NAME.fullmatch(raw):
            return raw
        raise self.wrong(raw)


@dataclass(frozen=True, kw_only=True)
class SomeOf(Kind):
    """A list of different words, of which some must be there; in one order once it is read."""

    options: tuple[str, ...]
    required: tuple[str, ...]

    def _allowed(self) -> str:
        further = [option for option in self.options if option not in self.required]
        return f"a list of {' and '.join(self.required)}, and any of {', '.join(further)}"

    def _read(self, raw: object) -> tuple[str, ...]:
        given = read_items(Word(options=self.options), raw, ())
        for word in self.required:
            if word not in given:
                raise Wrong(f"{word} is missing; must be {self.allowed}")
        return tuple(option for option in self.options if option in given)


@dataclass(frozen=True, kw_only=True)
class TrackingUri(Text):
    """A tracking URI without a secret in it: the spec is written to disk and logged."""

    def _allowed(self) -> str:
        return "'auto' or a tracking URI"

    def _read(self, raw: object) -> str:
        text = super()._read(raw)
        if has_secret(text):
            # The value is not shown: messages end up in logs.
            raise Wrong(
                "holds a password or token; set MLFLOW_TRACKING_URI, or MLFLOW_TRACKING_USERNAME "
                "and MLFLOW_TRACKING_PASSWORD, in the environment instead"
            )
        return text


@dataclass(frozen=True, kw_only=True)
class StartConfig(Kind):
    """The name of a known start config, or a mapping with a name of its own."""

    def _allowed(self) -> str:
        known = ", ".join(START_CONFIGS)
        return f"one of {known}, or a mapping with name, petl and training"

    def _read(self, raw: object) -> str | dict[str, Any]:
        if isinstance(raw, str):
            # `linear probe` is how tables call it.
            name = raw.replace(" ", "_")
            if name in START_CONFIGS:
                return name
            known = tuple(START_CONFIGS)
            raise Wrong(f"{show(raw)} is not one of {', '.join(known)}{nearest(name, known)}")
        if not isinstance(raw, dict):
            raise self.wrong(raw)
        for key in raw:
            if key not in {"name", "petl", "training"}:
                raise Wrong(f"unknown key {show(key)}; allowed are name, petl, training", (key,))
        for key in ("petl", "training"):
            if not isinstance(raw.get(key, {}), dict):
                raise Wrong(f"{key} must be a mapping, got {show(raw[key])}", (key,))
        if "name" not in raw:
            raise Wrong("a start config of your own needs a name")
        return {**raw, "name": Text(what="a name", max_length=60).read(raw["name"])}


@dataclass(frozen=True, kw_only=True)
class StartList(Kind):
    """The start configs, in order."""

    def _allowed(self) -> str:
        return f"a list, each {StartConfig().allowed}"

    def _read(self, raw: object) -> tuple[Any, ...]:
        if not isinstance(raw, list | tuple):
            raise self.wrong(raw)
        return tuple(read_items(StartConfig(), raw, ()))
