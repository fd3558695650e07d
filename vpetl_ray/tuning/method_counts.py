"""What one method of a space can cost, and in how many ways, without listing its configs.

Trainable parameters add up over stages, and within a stage over blocks, which are all alike. So it
is enough to count every value at every stage; what all configs cost follows by going through the
stages once, and keeping apart only how many stages or blocks are chosen so far.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, reduce
from itertools import combinations, product
from typing import TypeAlias, TypeVar

import numpy as np

from vpetl_ray.petl.places import block_sites
from vpetl_ray.tuning.choosing import Sums, choose
from vpetl_ray.tuning.domains import Subset, Value
from vpetl_ray.tuning.histogram import CountTable, Histogram
from vpetl_ray.tuning.members import counted_classes, first, is_thinned, num_truthy, small_members
from vpetl_ray.tuning.method_space import MethodSpace, stage_of

MAX_SETS = 500
"""Smallest sets of blocks that are compared before only the cheapest blocks are taken."""

T = TypeVar("T")
Fields: TypeAlias = tuple[tuple[str, Value], ...]
"""Fields and their values; a tuple, to be a key."""


_NUMBERS: Sums[int] = Sums(nothing=1, both=operator.mul, either=operator.add, times=operator.mul)
_HISTOGRAMS = Sums(
    nothing=Histogram.nothing(),
    both=Histogram.plus,
    either=Histogram.also,
    times=Histogram.times,
)


class MethodCounts:
    """The numbers of one method of a space."""

    def __init__(self, method: MethodSpace) -> None:
        self.method = method
        self.where = method.domains[method.where]
        self.count_blocks = cache(self._count_blocks)
        fields = [f for f in method.domains if f not in ("enabled", "stages", "blocks")]
        self._shared = [field for field in fields if stage_of(field) is None]
        self._counted = [field for field in self._shared if field in method.counted]
        self._is_thinned = any(is_thinned(method.domains[field]) for field in fields)

    def num_on(self) -> int:
        """Distinct configs of it, with one in place of each continuous range, off left out."""
        domains = self.method.domains
        num = num_truthy(domains["enabled"]) * math.prod(
            num_truthy(domains[field])
            if field in self.method.gates
            else domains[field].num_structures
            for field in self._shared
        )

        def at_stage(stage: int, num_blocks: int) -> int:
            return math.prod(domains[field].num_structures for field in self._own_fields(stage))

        return num * (self._over_places(at_stage, _NUMBERS) or 0)

    def histogram(self) -> Histogram:
        """Count it in all its structures, off (0 parameters) included where it can be off."""
        off = Histogram.nothing()
        if not self.num_on():
            return off
        classes = self._classes_of(self._counted)
        if self.method.per_stage:
            parts = [self._own_values(shared).times(weight) for shared, weight in classes]
        else:
            parts = [self._same_values(classes)]
        uncounted = [field for field in self._shared if field not in self._counted]
        num_uncounted = math.prod(self.method.domains[f].num_structures for f in uncounted)
        on = parts[0].also(*parts[1:]).times(num_uncounted)
        return on if self.method.off_values() is None else on.also(off)

    def smallest(self) -> list[dict[str, Value]]:
        """Values that switch it off, if that can be, and on with the fewest parameters."""
        off = self.method.off_values()
        options = [] if off is None else [off]
        found = list(self._small_configs()) if self.num_on() else []
        # Some train nothing, such as the merging behind the last stage.
        found = [(count, fields) for count, fields in found if count] or found
        if found:
            _, fields = min(found, key=lambda pair: pair[0])
            on = {"enabled": True, **fields}
            options.append({self.method.path(field): value for field, value in on.items()})
        return options

    def _same_values(self, classes: Sequence[tuple[Fields, float]]) -> Histogram:
        """Count values that are the same at every stage, at every set of stages or blocks."""

        @cache
        def at_stage(stage: int, num_blocks: int) -> CountTable:
            counts = [[self.count_blocks(shared, stage, num_blocks)] for shared, _ in classes]
            return CountTable(counts=np.array(counts, np.int64), weights=np.ones(1))

        sums = Sums(
            nothing=CountTable.nothing(len(classes)),
            both=CountTable.plus,
            either=CountTable.also,
            times=CountTable.times,
        )
        found = self._over_places(at_stage, sums)
        assert found is not None, "it can be on, so it can be somewhere"
        weights = np.array([weight for _, weight in classes])
        return found.histogram(weights, exact=not self._is_thinned)

    def _own_values(self, shared: Fields) -> Histogram:
        """Count these shared values at every set of stages or blocks, with all values by stage."""

        @cache
        def at_stage(stage: int, num_blocks: int) -> Histogram:
            classes = self._classes_of(self._own_fields(stage))
            counts = [self.count_blocks((*shared, *own), stage, num_blocks) for own, _ in classes]
            weights = np.array([weight for _, weight in classes])
            return Histogram.of(np.array(counts, np.int64), weights, exact=not self._is_thinned)

        found = self._over_places(at_stage, _HISTOGRAMS)
        assert found is not None, "it can be on, so it can be somewhere"
        return found

    def _over_places(self, at_stage: Callable[[int, int], T], sums: Sums[T]) -> T | None:
        """Go over all sets of stages or blocks but the empty one; None if there is no other.

        Args:
            at_stage: what a stage gives, with so many of its blocks.
            sums: how that is put together.
        """
        if isinstance(self.where, Subset):
            by_stage = self._by_stage(self.where.items)
            groups = [self._group(at_stage, s, num, sums) for s, num in by_stage.items()]
            return choose(groups, max(self.where.min_size, 1), sums)
        sets = [
            reduce(sums.both, (at_stage(*pair) for pair in self._by_stage(chosen).items()))
            for chosen in self.where.members()
            if isinstance(chosen, tuple) and chosen
        ]
        return reduce(sums.either, sets) if sets else None

    def _group(
        self, at_stage: Callable[[int, int], T], stage: int, num_blocks: int, sums: Sums[T]
    ) -> dict[int, T]:
        """What a stage gives, by how many of its items are chosen: itself, or its blocks."""
        if not self._takes_blocks:
            return {1: at_stage(stage, num_blocks)}
        chosen = range(1, num_blocks + 1)
        return {n: sums.times(at_stage(stage, n), math.comb(num_blocks, n)) for n in chosen}

    @property
    def _takes_blocks(self) -> bool:
        return self.method.where == "blocks"

    def _by_stage(self, items: Iterable[Value]) -> dict[int, int]:
        """Tell of every stage that a set of stages or blocks touches how many blocks it has."""
        chosen = set(items)
        num: dict[int, int] = {}
        for site in block_sites(self.method.arch):
            if (site.index + 1 if self._takes_blocks else site.stage) in chosen:
                num[site.stage] = num.get(site.stage, 0) + 1
        return num

    def _own_fields(self, stage: int) -> list[str]:
        return [f"{field}.stage{stage}" for field in self.method.per_stage]

    def _classes_of(self, fields: Sequence[str]) -> list[tuple[Fields, float]]:
        """Values that count differently, and how many configs each stands for."""
        per_field = (counted_classes(field, self.method.domains[field]) for field in fields)
        return [
            (
                tuple(zip(fields, (value for value, _ in chosen), strict=True)),
                math.prod(weight for _, weight in chosen),
            )
            for chosen in product(*per_field)
        ]

    def _count_blocks(self, fields: Fields, stage: int, num_blocks: int) -> int:
        """Trainable parameters at one stage, with the first so many of its blocks."""
        if not self._takes_blocks:
            return self._count(fields, {"stages": (stage,)}, stage)
        here = tuple(s.index + 1 for s in block_sites(self.method.arch) if s.stage == stage)
        if 1 < num_blocks < len(here):
            one, every = (self.count_blocks(fields, stage, num) for num in (1, len(here)))
            if every in (one, one * len(here)):
                return one if every == one else one * num_blocks
        return self._count(fields, {"blocks": here[:num_blocks]}, stage)

    def _count(self, fields: Fields, where: Mapping[str, Value], stage: int) -> int:
        domains = self.method.domains.items()
        values = {f: first(domain) for f, domain in domains if stage_of(f) in (None, stage)}
        (config,) = self.method.configs_of({**values, **dict(fields), **where})
        return sum(config.count(self.method.arch).values())

    def _small_configs(self) -> Iterator[tuple[int, dict[str, Value]]]:
        """Configs of which one is the smallest, with their counts."""
        domains = self.method.domains
        others = {f: first(domains[f]) for f in self._shared if f not in self._counted}
        members = [list(small_members(domains[field])) for field in self._counted]
        for chosen in product(*members):
            shared = tuple(zip(self._counted, chosen, strict=True))
            for where in self._small_places(shared):
                count, own = 0, {}
                for stage, num_blocks in self._by_stage(where).items():
                    cost, best = self._cheapest(shared, stage, num_blocks)
                    count += cost
                    own.update(dict(best))
                yield count, {**others, **dict(shared), self.method.where: where, **own}

    def _small_places(self, shared: Fields) -> Iterator[tuple[Value, ...]]:
        if not isinstance(self.where, Subset):
            yield from (m for m in self.where.members() if isinstance(m, tuple) and m)
            return
        size = max(self.where.min_size, 1)
        if math.comb(len(self.where.items), size) <= MAX_SETS:
            yield from combinations(self.where.items, size)
            return

        def cost(item: Value) -> int:
            ((stage, num_blocks),) = self._by_stage([item]).items()
            return self._cheapest(shared, stage, num_blocks)[0]

        yield self.where.ordered(sorted(self.where.items, key=cost)[:size])

    def _cheapest(self, shared: Fields, stage: int, num_blocks: int) -> tuple[int, Fields]:
        """Return the values by stage that cost least at one stage."""
        fields = self._own_fields(stage)
        members = [list(small_members(self.method.domains[field])) for field in fields]
        options = [tuple(zip(fields, chosen, strict=True)) for chosen in product(*members)]
        costs = [self.count_blocks((*shared, *own), stage, num_blocks) for own in options]
        return min(zip(costs, options, strict=True), key=lambda pair: pair[0])
