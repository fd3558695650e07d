"""The configs that a search begins with: the linear probe, the paper's own settings, the user's.

The paper: Yu et al., Towards a Unified View on Visual Parameter-Efficient Transfer Learning. Its
settings are for Swin-B and may not be members of a space as they stand: numbers are moved to the
nearest member, and widths are narrowed until the budget allows them, the nearest combination
first. What the paper does not fix for every backbone, the learning rate above all, is taken from
the middle of its domain.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, product
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

from vpetl_ray.tuning.domains import Domain, FloatRange, IntRange, Subset, Value
from vpetl_ray.tuning.method_space import (
    MethodSpace,
    Picker,
    Values,
    base_of,
    grid_members,
    named_items,
)
from vpetl_ray.tuning.samplers import LIST
from vpetl_ray.tuning.space import CLASSIFIER, NothingToTrain, Space

_MAX_WIDTHS = 64
_WIDTH = "d_bottle"
"""The field of the paper's methods that a budget narrows."""
Wish: TypeAlias = Mapping[str, Mapping[str, Value]]

_PATT: Mapping[str, Value] = {
    "targets": ("k", "v"),
    "d_bottle": 128,
    "scale": 0.8,
    "activation": "tanh",
}
_ADAPTER: Mapping[str, Value] = {
    "placement": "parallel",
    "d_bottle": 64,
    "scale": 0.1,
    "activation": "relu",
}


@dataclass(frozen=True, kw_only=True)
class StartConfig:
    """A known config to start with."""

    title: str
    """What tables call it."""
    methods: Wish
    """The methods that are on and what they are set to; the others are off."""


START_CONFIGS: Mapping[str, StartConfig] = MappingProxyType(
    {
        "linear_probe": StartConfig(title="linear probe", methods={}),
        "paper_adapter": StartConfig(title="paper adapter", methods={"adapter": _ADAPTER}),
        "paper_patt_kv": StartConfig(title="paper PATT(K,V)", methods={"patt": _PATT}),
        "paper_swin_bapat": StartConfig(
            title="paper Swin-BAPAT", methods={"adapter": _ADAPTER, "patt": _PATT}
        ),
    }
)
"""The known configs by the name that a spec gives them."""


class StartTrial(NamedTuple):
    """A named config that is proposed before the sampler is asked."""

    name: str
    values: Values


@dataclass(frozen=True, kw_only=True)
class StartPlan:
    """What a search begins with."""

    trials: tuple[StartTrial, ...]
    """In the order in which they are proposed."""
    left_out: Mapping[str, str]
    """Name to the reason why this space or budget has no such config."""


def plan_start(
    space: Space, entries: Sequence[str | StartTrial], *, budget: int | None = None
) -> StartPlan:
    """Find the configs of `space` that the search begins with.

    Args:
        space: what is searched.
        entries: in order, names of `START_CONFIGS` or the user's own configs: a name and the
            values of some paths, to be completed by `own_values`.
        budget: most trainable parameters allowed; None allows all.

    Raises:
        KeyError: an unknown name.
        ValueError: an own config has a value outside its domain.
    """
    trials: list[StartTrial] = []
    left_out: dict[str, str] = {}
    for entry in entries:
        if not isinstance(entry, str):
            trials.append(StartTrial(entry.name, own_values(space, entry.values)))
            continue
        try:
            values = _paper_values(space, START_CONFIGS[entry].methods, budget)
        except _NotInSpace as error:
            left_out[entry] = str(error)
        else:
            trials.append(StartTrial(START_CONFIGS[entry].title, values))
    return StartPlan(trials=tuple(trials), left_out=left_out)


def num_queued(
    space: Space, start: Iterable[StartTrial], sampler: str, *, budget: int | None = None
) -> int:
    """Count what a sampler of `QUEUED` trains: every config of its queue once, within the budget.

    Args:
        space: what is searched.
        start: configs that are queued first.
        sampler: `list`, which has no others, or `grid`.
        budget: most trainable parameters allowed; None allows all.
    """
    grid = () if sampler == LIST else space.grid()
    counts: dict[str, int] = {}
    for values in chain((trial.values for trial in start), grid):
        try:
            config = space.build(values)
        except NothingToTrain:
            continue
        if config.key not in counts:
            counts[config.key] = space.count(config)
    return sum(budget is None or count <= budget for count in counts.values())


def own_values(space: Space, given: Values) -> Values:
    """Complete the user's values.

    A method of which a path is named is on, and one of which none is named is off, if the space
    allows it; other values are taken from the middle.

    Raises:
        ValueError: a value outside its domain, or a path that the space does not have.
    """
    for path, value in given.items():
        if path not in space.domains:
            raise ValueError(f"{path} is not in this space")
        if not space.domains[path].contains(value):
            raise ValueError(f"{path}: {value!r} is not in its domain")
    wanted = dict(given)
    for name in space.methods:
        switch = f"petl.{name}.enabled"
        if not any(path.startswith(f"petl.{name}.") for path in given):
            wanted.update(space.methods[name].off_values() or {})
        elif space.domains[switch].contains(value=True):
            wanted.setdefault(switch, True)
    return space.walk(_picker(wanted))


def middle(domain: Domain) -> Value:
    """Return what to take where nobody asks for more: the middle, all items, the first word."""
    match domain:
        case FloatRange():
            return domain.middle
        case IntRange():
            centre = math.sqrt(domain.low * domain.high) if domain.log else None
            return domain.nearest(centre or (domain.low + domain.high) / 2)
        case Subset():
            return domain.items
    members = list(grid_members(domain, 1))
    is_ordered = all(isinstance(m, int | float) and not isinstance(m, bool) for m in members)
    return members[len(members) // 2] if is_ordered else members[0]


class _NotInSpace(Exception):  # noqa: N818 - never leaves this file
    """The space, or its part within the budget, has no such config."""


def _paper_values(space: Space, wish: Wish, budget: int | None) -> Values:
    wanted = _wanted(space, wish)
    for widths in _by_distance(space, wish):
        values = space.walk(_picker({**wanted, **widths}))
        try:
            config = space.build(values)
        except NothingToTrain as error:
            raise _NotInSpace("the classifier is frozen in this space") from error
        if budget is None or space.count(config) <= budget:
            return values
    raise _NotInSpace("it is over the budget at any width of this space")


def _wanted(space: Space, wish: Wish) -> dict[str, Value]:
    wanted: dict[str, Value] = {CLASSIFIER: _member(space, CLASSIFIER, value=True)}
    for name in wish:
        if name not in space.methods:
            raise _NotInSpace(f"this space has no {name}")
    for name in space.methods:
        if name in wish:
            wanted.update(_on_values(space, name, wish[name]))
            continue
        off = space.methods[name].off_values()
        if off is None:
            raise _NotInSpace(f"{name} is always on in this space")
        wanted.update(off)
    return wanted


def _on_values(space: Space, name: str, fields: Mapping[str, Value]) -> dict[str, Value]:
    """Write the method's wish as members of the space, its widths aside."""
    wish = {"enabled": True, **fields}
    method = space.methods[name]
    values = {}
    for field, domain in method.domains.items():
        if base_of(field) == _WIDTH:
            continue
        path = method.path(field)
        if field in ("stages", "blocks"):
            every = tuple(sorted(named_items(domain)))
            values[path] = domain.nearest(every) or middle(domain)
        else:
            values[path] = _member(space, path, value=wish[base_of(field)])
    return values


def _member(space: Space, path: str, *, value: Value) -> Value:
    nearest = space.domains[path].nearest(value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if nearest is None or (not is_number and not space.domains[path].contains(value)):
        raise _NotInSpace(f"{path} cannot be {value!r} in this space")
    return nearest


def _by_distance(space: Space, wish: Wish) -> Iterator[dict[str, Value]]:
    """Every combination of widths, the one closest to the wish (by ratio) first."""
    per_method = [
        list(_width_values(space.methods[name], float(fields[_WIDTH])))  # type: ignore[arg-type]
        for name, fields in wish.items()
    ]
    combinations = product(*per_method)
    for chosen in sorted(combinations, key=lambda chosen: sum(far for far, _ in chosen)):
        yield {path: width for _, values in chosen for path, width in values.items()}


def _width_values(method: MethodSpace, wish: float) -> Iterator[tuple[float, dict[str, Value]]]:
    """How far from the wish, and values: one width, or of every stage what is nearest to it."""
    domains = {f: domain for f, domain in method.domains.items() if base_of(f) == _WIDTH}
    for width in sorted({width for domain in domains.values() for width in _widths(domain)}):
        values = {method.path(f): domain.nearest(width) for f, domain in domains.items()}
        distances = [abs(math.log(float(w) / wish)) for w in values.values()]  # type: ignore[arg-type]
        yield sum(distances) / len(distances), values


def _widths(domain: Domain) -> list[int]:
    members = [int(member) for member in grid_members(domain, 1)]  # type: ignore[arg-type]
    step = max(1, math.ceil(len(members) / _MAX_WIDTHS))
    return sorted({*members[::step], members[-1]})


def _picker(wanted: Values) -> Picker:
    return lambda path, domain: wanted.get(path, middle(domain))
