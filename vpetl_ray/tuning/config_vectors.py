"""Configs as vectors: what a model of accuracy sees of a space.

One way of writing every config, whatever is active in it. A bottleneck of a method that is off has
width zero, one step below the narrowest there is: narrow bottlenecks are close to none, as they
train to about the same (the first columns of a wider bottleneck are a narrower one). What has no
such meaning where it is inactive, a scale or a rate, is in the middle of its range.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from vpetl_ray.tuning.domains import Domain, FloatRange, IntRange, Subset, Value
from vpetl_ray.tuning.method_space import Values, is_size
from vpetl_ray.tuning.space import Space

Array = NDArray[np.float64]
Encode = Callable[[Value], list[float]]

_INACTIVE = 0.5


class ConfigVectors:
    """Turns values of a space into vectors.

    Args:
        space: whose configs.
        params: smallest and largest number of trainable parameters that are proposed.
    """

    def __init__(self, space: Space, params: tuple[int, int]) -> None:
        self._encoders: dict[str, tuple[Encode, list[float]]] = {
            path: _encoder(path, space.domains[path]) for path in space.searched
        }
        self._low, high = (math.log10(max(count, 1)) for count in params)
        self._span = max(high - self._low, 1e-9)
        self.num_inputs = 1 + sum(len(inactive) for _, inactive in self._encoders.values())

    def vector(self, values: Values, params: int) -> Array:
        """Return (D,) numbers, nearly all from 0 to 1; the last is the size in decades."""
        numbers: list[float] = []
        for path, (encode, inactive) in self._encoders.items():
            numbers += encode(values[path]) if path in values else inactive
        numbers.append((math.log10(max(params, 1)) - self._low) / self._span)
        return np.array(numbers)


def _encoder(path: str, domain: Domain) -> tuple[Encode, list[float]]:
    if isinstance(domain, Subset):
        return _switches(domain.items)
    if isinstance(domain, IntRange | FloatRange):
        return _number(path, [domain.low, domain.high])
    options = tuple(domain.members())
    if all(isinstance(option, bool) for option in options):
        return (lambda value: [float(bool(value))]), [0.0]
    if all(isinstance(option, int | float) and not isinstance(option, bool) for option in options):
        return _number(path, [float(option) for option in options])  # type: ignore[arg-type]
    if all(isinstance(option, tuple) for option in options):
        return _switches(tuple(dict.fromkeys(i for option in options for i in option)))  # type: ignore[union-attr]
    return _one_hot(options)


def _number(path: str, options: Sequence[float]) -> tuple[Encode, list[float]]:
    """Scale to 0..1, by logarithm where all are above 0; a size leaves a step below for off."""
    low, high = min(options), max(options)
    is_log = low > 0
    start, end = (math.log(low), math.log(high)) if is_log else (low, high)
    leaves_room = is_size(path)
    if leaves_room:
        start -= max((end - start) / 4.0, math.log(2.0))
    span = max(end - start, 1e-9)

    def encode(value: Value) -> list[float]:
        if not isinstance(value, int | float):
            return [_INACTIVE]
        number = math.log(value) if is_log and value > 0 else float(value)
        return [(number - start) / span]

    return encode, [0.0 if leaves_room else _INACTIVE]


def _switches(items: Sequence[object]) -> tuple[Encode, list[float]]:
    def encode(value: Value) -> list[float]:
        chosen = value if isinstance(value, tuple) else ()
        return [float(item in chosen) for item in items]

    return encode, [0.0] * len(items)


def _one_hot(options: Sequence[Value]) -> tuple[Encode, list[float]]:
    places: Mapping[Value, int] = {option: place for place, option in enumerate(options)}

    def encode(value: Value) -> list[float]:
        place = places[value]
        return [float(other == place) for other in range(len(options))]

    return encode, [1.0 / len(options)] * len(options)
