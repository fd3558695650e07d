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
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product

import numpy as np

from vpetl_ray.models.arch import count_backbone
from vpetl_ray.petl.config import PetlConfig
from vpetl_ray.petl.count import count_trainable
from vpetl_ray.petl.methods import METHODS
from vpetl_ray.petl.own_method import OwnMethod
from vpetl_ray.tuning.domains import Domain, FloatRange, Value
from vpetl_ray.tuning.histogram import Histogram
from vpetl_ray.tuning.method_counts import MethodCounts
from vpetl_ray.tuning.method_space import Picker, Values, grid_members
from vpetl_ray.tuning.space import (
    CLASSIFIER,
    OPTIMIZER,
    NothingToTrain,
    Space,
)


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
    allowed = len(counts) if budget is None else np.searchsorted(counts, budget, side="right")
    within = float(cumulative[allowed - 1] / cumulative[-1]) if allowed else 0.0
    smallest = int(counts[0])
    if not histogram.exact:  # where counts are drawn, the smallest one is seldom among them
        smallest = space.count(space.build(smallest_values(space)))
    return SpaceSummary(
        num_structures=num_structures(space),
        continuous=tuple(p for p, d in space.domains.items() if isinstance(d, FloatRange)),
        smallest=smallest,
        median=int(median),
        largest=int(counts[-1]),
        share_within_budget=within,
        exact=histogram.exact,
    )


def num_structures(space: Space) -> int:
    """Distinct configs, with one in place of each continuous range."""
    can_be_off = [method.off_values() is not None for method in space.methods.values()]
    num_on_of = [MethodCounts(method).num_on() for method in space.methods.values()]
    per_method = [num + off for num, off in zip(num_on_of, can_be_off, strict=True)]
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
    options = [MethodCounts(method).smallest() for method in space.methods.values()]
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


def _all_configs(space: Space) -> Histogram:
    methods = _all_methods(space)
    head = count_trainable(PetlConfig(train_classifier=True), space.arch, space.num_classes).total
    members = list(grid_members(space.domains[CLASSIFIER], 1))
    # A count of 0 is the config with all methods off: what is on trains something, or is dropped.
    is_on = methods.counts > 0
    parts = []
    if is_on.any():
        on = Histogram(
            counts=methods.counts[is_on], weights=methods.weights[is_on], exact=methods.exact
        ).times(_num_training(space, is_probe=False))
        parts += [_shifted(on, head if train else 0) for train in members]
    if not is_on.all() and True in members:
        probe = np.array([float(_num_training(space, is_probe=True))])
        parts.append(Histogram(counts=np.array([head], np.int64), weights=probe))
    if not parts:
        raise ValueError("every method is off and the classifier is frozen in all of this space")
    total = parts[0]
    for part in parts[1:]:
        total = total.also(part)
    return total


def _all_methods(space: Space) -> Histogram:
    """Count all methods together, the classifier aside."""
    own = [name for name in space.methods if issubclass(METHODS[name], OwnMethod)]
    added = [name for name in space.methods if name not in own]
    in_place = _sum(MethodCounts(space.methods[name]).histogram() for name in own)
    if len(own) > 1:
        # They may train the same tensors, and never more than there are.
        counts = np.minimum(in_place.counts, count_backbone(space.arch))
        in_place = Histogram.of(counts, in_place.weights, exact=False)
    return _sum([*(MethodCounts(space.methods[name]).histogram() for name in added), in_place])


def _sum(histograms: Iterable[Histogram]) -> Histogram:
    total = Histogram.nothing()
    for histogram in histograms:
        total = total.plus(histogram)
    return total


def _shifted(histogram: Histogram, by: int) -> Histogram:
    return Histogram(counts=histogram.counts + by, weights=histogram.weights, exact=histogram.exact)


def _num_training(space: Space, *, is_probe: bool) -> int:
    total = 0
    for optimizer in grid_members(space.domains[OPTIMIZER], 1):
        used = space.training_domains(is_probe=is_probe, optimizer=optimizer)
        total += math.prod(d.num_structures for path, d in used.items() if path != OPTIMIZER)
    return total


def _picker(wanted: Values) -> Picker:
    return lambda path, domain: wanted.get(path, _first(domain))


def _first(domain: Domain) -> Value:
    return next(iter(grid_members(domain, 1)))
