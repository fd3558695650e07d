"""The members of a domain that counting looks at."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np

from vpetl_ray.tuning.domains import Domain, FloatRange, IntRange, Subset, Value
from vpetl_ray.tuning.method_space import base_of, grid_members

MAX_MEMBERS = 256
"""Members of one domain that are looked at before it is thinned."""
_STRENGTHS = ("scale", "alpha")  # of their members only the word `learned` costs a parameter


def num_truthy(domain: Domain) -> int:
    """Members that do not turn a method off."""
    if isinstance(domain, Subset):
        return domain.num_structures - (domain.min_size == 0)
    return sum(bool(member) for member in grid_members(domain, 1))


def counted_classes(field: str, domain: Domain) -> list[tuple[Value, float]]:
    """Members that count differently, and how many members each stands for."""
    if base_of(field) not in _STRENGTHS:
        return thinned(domain)
    members = list(grid_members(domain, 1))
    words = [member for member in members if isinstance(member, str)]
    numbers = [member for member in members if not isinstance(member, str)]
    classes: list[tuple[Value, float]] = [(word, 1.0) for word in words]
    return classes + ([(numbers[0], float(len(numbers)))] if numbers else [])


def is_thinned(domain: Domain) -> bool:
    """Whether only some of its members are looked at."""
    return isinstance(domain, IntRange) and domain.num_structures > MAX_MEMBERS


def thinned(domain: Domain) -> list[tuple[Value, float]]:
    """Members without the empty one, evenly thinned where there are too many, and their weights."""
    if isinstance(domain, IntRange) and is_thinned(domain):
        places = np.linspace(0, domain.num_structures - 1, MAX_MEMBERS).round().astype(int)
        weight = domain.num_structures / MAX_MEMBERS
        return [(domain.low + domain.step * int(i), weight) for i in places]
    return [(member, 1.0) for member in grid_members(domain, 1) if member != ()]


def small_members(domain: Domain) -> Iterator[Value]:
    """Members that can be the smallest: more width or targets never cost less."""
    if isinstance(domain, IntRange | FloatRange):
        yield first(domain)
    elif isinstance(domain, Subset):
        yield from combinations(domain.items, max(domain.min_size, 1))
    else:
        yield from (member for member in grid_members(domain, 1) if member != ())


def first(domain: Domain) -> Value:
    """Return any one member."""
    return next(iter(grid_members(domain, 1)))
