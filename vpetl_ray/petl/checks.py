"""Checks of a config's values, each failing with one sentence: key, what is allowed, what came."""

from collections.abc import Sequence
from difflib import get_close_matches
from math import inf, isfinite, nan

from vpetl_ray.errors import VpetlError


def check_whole_number(key: str, value: object, *, at_least: int) -> None:
    """Demand an int (a bool is not one) of at least `at_least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < at_least:
        raise VpetlError(f"{key}: must be a whole number of at least {at_least}, got {value!r}")


def check_number(
    key: str,
    value: object,
    *,
    above: float = -inf,
    at_least: float = -inf,
    below: float = inf,
) -> None:
    """Demand a finite number within the bounds that are given."""
    number = nan if isinstance(value, bool) or not isinstance(value, int | float) else value
    if isfinite(number) and above < number < below and number >= at_least:
        return
    named = (("above", above), ("of at least", at_least), ("below", below))
    bounds = " and".join(f" {word} {bound:g}" for word, bound in named if isfinite(bound))
    raise VpetlError(f"{key}: must be a number{bounds}, got {value!r}")


def check_flag(key: str, value: object) -> None:
    """Demand true or false."""
    if not isinstance(value, bool):
        raise VpetlError(f"{key}: must be true or false, got {value!r}")


def check_choice(key: str, value: object, allowed: Sequence[object]) -> None:
    """Demand that `value` is one of `allowed`; the message names the nearest."""
    if value not in allowed:
        raise VpetlError(f"{key}: {describe_unknown(value, allowed)}")


def check_names(key: str, names: Sequence[str], allowed: Sequence[str], what: str) -> None:
    """Demand that every one of `names` is allowed."""
    for name in names:
        if name not in allowed:
            raise VpetlError(f"{key}: unknown {what} {describe_unknown(name, allowed)}")


def describe_unknown(value: object, allowed: Sequence[object]) -> str:
    """Say that a value is not among the allowed ones, and which is the nearest."""
    words = [str(word) for word in allowed]
    near = get_close_matches(str(value), words, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{value!r} is not allowed; {hint}choose from {', '.join(words)}"
