"""How large a space is and what its configs cost, without listing them.

Trainable parameters add up: over the methods of a config, and within a method over its stages. So
it is enough to count each method's widths at each single stage; the counts of all configs follow
by adding, as a histogram (count, how many configs have it) that stays small where the space has
billions of configs.

Every discrete config has the same weight; continuous values do not multiply it. Only where a
histogram would grow out of hand are its members thinned or drawn (seeded), and `exact` says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from vpetl_ray.models.arch import count_backbone
from vpetl_ray.petl.config import PetlConfig
from vpetl_ray.petl.count import count_trainable
from vpetl_ray.petl.method import OwnMethod
from vpetl_ray.petl.methods import METHODS
from vpetl_ray.tuning.domains import Domain, FloatRange, IntRange, Subset, Value
from vpetl_ray.tuning.space import (
    CLASSIFIER,
    OPTIMIZER,
    NothingToTrain,
    Picker,
    Space,
    Values,
    grid_members,
)

MAX_MEMBERS = 256
"""Members of one domain that are looked at before it is thinned."""
MAX_PAIRS = 4_000_000
"""Largest outer sum of two histograms before configs are drawn instead."""
NUM_DRAWS = 200_000
_STRENGTHS = ("scale", "alpha")  # of their members only the word `learned` costs a parameter


@dataclass(frozen=True, kw_only=True)
class SpaceSummary:
    """How large a space is, and what its configs cost."""

    num_structures: int
    """Distinct configs, continuous values aside."""
    continuous: tuple[str, ...]
    """Paths with a continuous range."""
    smallest: int
    """Trainable parameters of the smallest config."""
    median: int
    """Half of the configs have at most this many."""
    largest: int
    """Trainable parameters of the largest config."""
    share_within_budget: float
    """Share of the configs that the budget allows, from 0 to 1."""
    exact: bool
    """False where median and share were taken from a part of the configs."""

    @property
    def size(self) -> int | None:
        """Number of configs; None with a continuous range."""
        return None if self.continuous else self.num_structures

    @property
    def size_text(self) -> str:
        """`17 220 structures x continuous: training.learning_rate`."""
        number = f"{self.num_structures:,}".replace(",", " ")
        if not self.continuous:
            return f"{number} configs"
        return f"{number} structures x continuous: {', '.join(self.continuous)}"


@dataclass(frozen=True, kw_only=True)
class _Histogram:
    """Counts and how many configs have each; counts ascend and are distinct."""

    counts: NDArray[np.int64]
    weights: NDArray[np.float64]
    exact: bool = True

    @classmethod
    def of(
        cls, counts: NDArray[np.int64], weights: NDArray[np.float64], *, exact: bool
    ) -> _Histogram:
        unique, place = np.unique(counts, return_inverse=True)
        return cls(
            counts=unique, weights=np.bincount(place, weights).astype(np.float64), exact=exact
        )

    def plus(self, other: _Histogram) -> _Histogram:
        """Return the histogram of every sum of one count from each."""
        exact = self.exact and other.exact
        if len(self.counts) * len(other.counts) > MAX_PAIRS:
            return self._drawn_plus(other)
        counts = np.add.outer(self.counts, other.counts).ravel()
        weights = np.multiply.outer(self.weights, other.weights).ravel()
        return _Histogram.of(counts, weights, exact=exact)

    def also(self, other: _Histogram) -> _Histogram:
        """Return the histogram of the configs of both."""
        counts = np.concatenate([self.counts, other.counts])
        weights = np.concatenate([self.weights, other.weights])
        return _Histogram.of(counts, weights, exact=self.exact and other.exact)

    def times(self, factor: float) -> _Histogram:
        return _Histogram(counts=self.counts, weights=self.weights * factor, exact=self.exact)

    def _drawn_plus(self, other: _Histogram) -> _Histogram:
        rng = np.random.default_rng(0)
        total = self.weights.sum() * other.weights.sum()
        drawn = self._draw(rng) + other._draw(rng)
        # The ends are known exactly, and must not be lost.
        drawn[:2] = self.counts[0] + other.counts[0], self.counts[-1] + other.counts[-1]
        return _Histogram.of(drawn, np.full(NUM_DRAWS, total / NUM_DRAWS), exact=False)

    def _draw(self, rng: np.random.Generator) -> NDArray[np.int64]:
        return rng.choice(self.counts, NUM_DRAWS, p=self.weights / self.weights.sum())


def summarise(space: Space, budget: int | None = None) -> SpaceSummary:
    """Count the space's configs and what they train.

    Args:
        space: which configs there are.
        budget: most trainable parameters allowed; None allows all.

    Raises:
        ValueError: the space has no config that trains anything.
    """
    histogram = _all_configs(space)
    counts, weights = histogram.counts, histogram.weights
    cumulative = np.cumsum(weights)
    median = counts[np.searchsorted(cumulative, cumulative[-1] / 2 * (1 - 1e-12))]
    within = 1.0 if budget is None else float(weights[counts <= budget].sum() / cumulative[-1])
    return SpaceSummary(
        num_structures=num_structures(space),
        continuous=tuple(p for p, d in space.domains.items() if isinstance(d, FloatRange)),
        smallest=int(counts[0]),
        median=int(median),
        largest=int(counts[-1]),
        share_within_budget=within,
        exact=histogram.exact,
    )


def num_structures(space: Space) -> int:
    """Distinct configs, with one in place of each continuous range."""
    can_be_off = [space.off_values(name) is not None for name in space.methods]
    per_method = [
        _num_on(space, name) + off for name, off in zip(space.methods, can_be_off, strict=True)
    ]
    num_off = int(all(can_be_off))
    num_on = math.prod(per_method) - num_off
    classifier = list(grid_members(space.domains[CLASSIFIER], 1))
    return num_on * len(classifier) * _num_training(space, is_probe=False) + (
        num_off * _num_training(space, is_probe=True) if True in classifier else 0
    )


def smallest_values(space: Space) -> Values:
    """Find a config with the fewest trainable parameters; the linear probe on a tie.

    Raises:
        ValueError: the space has no config that trains anything.
    """
    options = [_smallest_options(space, name) for name in space.methods]
    best: tuple[int, Values] | None = None
    classifier = [{CLASSIFIER: train} for train in grid_members(space.domains[CLASSIFIER], 1)]
    for chosen in product(*options, classifier):
        wanted = {path: value for values in chosen for path, value in values.items()}
        full = space.walk(_picker(wanted))
        try:
            count = space.count(space.build(full))
        except NothingToTrain:
            continue
        if best is None or count < best[0]:
            best = count, full
    if best is None:
        raise ValueError("every method is off and the classifier is frozen in all of this space")
    return best[1]


def _all_configs(space: Space) -> _Histogram:
    methods = _all_methods(space)
    head = count_trainable(PetlConfig(train_classifier=True), space.arch, space.num_classes).total
    members = list(grid_members(space.domains[CLASSIFIER], 1))
    # A count of 0 is the config with all methods off: what is on trains something, or is dropped.
    is_on = methods.counts > 0
    parts = []
    if is_on.any():
        on = _Histogram(
            counts=methods.counts[is_on], weights=methods.weights[is_on], exact=methods.exact
        ).times(_num_training(space, is_probe=False))
        parts += [_shifted(on, head if train else 0) for train in members]
    if not is_on.all() and True in members:
        probe = np.array([float(_num_training(space, is_probe=True))])
        parts.append(_Histogram(counts=np.array([head], np.int64), weights=probe))
    if not parts:
        raise ValueError("every method is off and the classifier is frozen in all of this space")
    total = parts[0]
    for part in parts[1:]:
        total = total.also(part)
    return total


def _all_methods(space: Space) -> _Histogram:
    """Count all methods together, the classifier aside."""
    own = [name for name in space.methods if issubclass(METHODS[name], OwnMethod)]
    added = [name for name in space.methods if name not in own]
    in_place = _sum(_method_histogram(space, name) for name in own)
    if len(own) > 1:
        # They may train the same tensors, and never more than there are.
        counts = np.minimum(in_place.counts, count_backbone(space.arch))
        in_place = _Histogram.of(counts, in_place.weights, exact=False)
    return _sum([*(_method_histogram(space, name) for name in added), in_place])


def _sum(histograms: Iterable[_Histogram]) -> _Histogram:
    total = _Histogram(counts=np.zeros(1, np.int64), weights=np.ones(1))
    for histogram in histograms:
        total = total.plus(histogram)
    return total


def _shifted(histogram: _Histogram, by: int) -> _Histogram:
    return _Histogram(
        counts=histogram.counts + by, weights=histogram.weights, exact=histogram.exact
    )


def _method_histogram(space: Space, name: str) -> _Histogram:
    """Count the method in all its structures, off (0 parameters) included."""
    off = _Histogram(counts=np.zeros(1, np.int64), weights=np.ones(1))
    if not _num_on(space, name):
        return off
    on = _on_histogram(space, name)
    return on if space.off_values(name) is None else on.also(off)


def _on_histogram(space: Space, name: str) -> _Histogram:
    domains = _on_domains(space, name)
    counted = [field for field in domains if field in space.methods[name].counted]
    combos = list(product(*(_classes(field, domains[field]) for field in counted)))
    stages = _thinned(domains["stages"])
    units = np.array(
        [
            _units(space, name, dict(zip(counted, (value for value, _ in combo), strict=True)))
            for combo in combos
        ]
    )
    picks = np.array(
        [[stage in _as_tuple(chosen) for stage in _all_stages(space)] for chosen, _ in stages]
    )
    combo_weights = [math.prod(weight for _, weight in combo) for combo in combos]
    weights = np.multiply.outer(combo_weights, [weight for _, weight in stages])
    uncounted = (d for f, d in domains.items() if f not in counted and f != "stages")
    return _Histogram.of(
        (units @ picks.T.astype(np.int64)).ravel(),
        weights.ravel() * math.prod(domain.num_structures for domain in uncounted),
        exact=not any(_is_thinned(domain) for domain in domains.values()),
    )


def _units(space: Space, name: str, fields: Mapping[str, Value]) -> list[int]:
    """Trainable parameters of the method at each single stage."""
    others = {f: _first(d) for f, d in _on_domains(space, name).items() if f not in fields}
    everywhere = tuple(_all_stages(space))
    method = space.method_config(name, {**others, **fields, "stages": everywhere})
    parts = method.count(space.arch)
    return [parts.get(f"{name}.stage{stage}", 0) for stage in everywhere]


def _all_stages(space: Space) -> range:
    return range(1, space.arch.num_stages + 1)


def _on_domains(space: Space, name: str) -> dict[str, Domain]:
    return {f: d for f, d in space.field_domains(name).items() if f != "enabled"}


def _num_on(space: Space, name: str) -> int:
    gates = space.methods[name].gates
    return math.prod(
        _num_truthy(domain) if field in gates else domain.num_structures
        for field, domain in space.field_domains(name).items()
    )


def _num_truthy(domain: Domain) -> int:
    """Members that do not turn a method off."""
    if isinstance(domain, Subset):
        return domain.num_structures - (domain.min_size == 0)
    return sum(bool(member) for member in grid_members(domain, 1))


def _num_training(space: Space, *, is_probe: bool) -> int:
    total = 0
    for optimizer in grid_members(space.domains[OPTIMIZER], 1):
        used = space.training_domains(is_probe=is_probe, optimizer=optimizer)
        total += math.prod(d.num_structures for path, d in used.items() if path != OPTIMIZER)
    return total


def _classes(field: str, domain: Domain) -> list[tuple[Value, float]]:
    """Members that count differently, and how many members each stands for."""
    if field not in _STRENGTHS:
        return _thinned(domain)
    members = list(grid_members(domain, 1))
    words = [member for member in members if isinstance(member, str)]
    numbers = [member for member in members if not isinstance(member, str)]
    classes: list[tuple[Value, float]] = [(word, 1.0) for word in words]
    return classes + ([(numbers[0], float(len(numbers)))] if numbers else [])


def _is_thinned(domain: Domain) -> bool:
    return isinstance(domain, IntRange) and domain.num_structures > MAX_MEMBERS


def _thinned(domain: Domain) -> list[tuple[Value, float]]:
    """Members without the empty one, evenly thinned where there are too many, and their weights."""
    if isinstance(domain, IntRange) and _is_thinned(domain):
        places = np.linspace(0, domain.num_structures - 1, MAX_MEMBERS).round().astype(int)
        weight = domain.num_structures / MAX_MEMBERS
        return [(domain.low + domain.step * int(i), weight) for i in places]
    return [(member, 1.0) for member in grid_members(domain, 1) if member != ()]


def _smallest_options(space: Space, name: str) -> list[dict[str, Value]]:
    """Switch the method off, if that can be, and on with the fewest parameters."""
    off = space.off_values(name)
    counted = {*space.methods[name].counted, "stages"}
    domains = _on_domains(space, name)
    members = [
        list(_small_members(domain)) if field in counted else [_first(domain)]
        for field, domain in domains.items()
    ]
    candidates = (dict(zip(domains, chosen, strict=True)) for chosen in product(*members))
    counts = [(_count_method(space, name, fields), fields) for fields in candidates]
    # Some train nothing, such as the merging behind the last stage.
    counts = [(count, fields) for count, fields in counts if count] or counts
    options = [] if off is None else [off]
    if counts and _num_on(space, name):
        smallest = min(counts, key=lambda pair: pair[0])
        on = {**smallest[1], "enabled": True}
        options.append({f"petl.{name}.{field}": value for field, value in on.items()})
    return options


def _count_method(space: Space, name: str, fields: Mapping[str, Value]) -> int:
    petl = PetlConfig(methods=(space.method_config(name, fields),), train_classifier=False)
    return count_trainable(petl, space.arch, space.num_classes).total


def _small_members(domain: Domain) -> Iterator[Value]:
    """Members that can be the smallest: more width, targets or stages never cost less."""
    members = (member for member in grid_members(domain, 1) if member != ())
    if isinstance(domain, IntRange | FloatRange):
        yield next(members)
    elif isinstance(domain, Subset):
        size = max(domain.min_size, 1)
        yield from (m for m in members if isinstance(m, tuple) and len(m) == size)
    else:
        yield from members


def _picker(wanted: Values) -> Picker:
    return lambda path, domain: wanted.get(path, _first(domain))


def _as_tuple(value: Value) -> tuple[Value, ...]:
    return value if isinstance(value, tuple) else ()


def _first(domain: Domain) -> Value:
    return next(iter(grid_members(domain, 1)))
