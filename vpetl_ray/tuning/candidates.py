"""Configs that may be proposed next: all of a small space, or some hundreds of a large one."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vpetl_ray.tuning.config_vectors import ConfigVectors
from vpetl_ray.tuning.drawing import draw, mutate
from vpetl_ray.tuning.method_space import Values
from vpetl_ray.tuning.space import NothingToTrain, Space
from vpetl_ray.tuning.space_size import summarise

Array = NDArray[np.float64]

MAX_LISTED: Final = 1024
"""Largest space of which every config is looked at."""
MAX_KEPT: Final = 256
"""Candidates of a larger space that are kept from one proposal to the next."""
NUM_NEW: Final = 6
"""Candidates of a larger space that are new at each proposal."""


@dataclass(frozen=True)
class Candidate:
    """A config within the budget that was not handed out."""

    values: Values
    key: str
    params: int
    vector: Array


class Candidates:
    """Holds them, best first once they were ordered.

    Args:
        space: what they are from.
        budget: most trainable parameters.
        vectors: how a model sees them.
        rng: draws them.
    """

    def __init__(
        self, space: Space, budget: int, vectors: ConfigVectors, rng: random.Random
    ) -> None:
        size = summarise(space).size
        self._space = space
        self._budget = budget
        self._vectors = vectors
        self._rng = rng
        self._is_listed = size is not None and size <= MAX_LISTED
        self._held: list[Candidate] | None = None
        self._ever: set[str] = set()  # what was handed out, held, or dropped as worth little

    def __iter__(self) -> Iterator[Candidate]:
        return iter(self._held or ())

    def __len__(self) -> int:
        return len(self._held or ())

    def renew(self, parents: Sequence[Values]) -> None:
        """Add new ones: half of them drawn, half of them mutations of `parents`."""
        if self._held is None:
            self._held = []
            if self._is_listed:
                for values in self._space.grid():
                    self._add(values)
            else:
                self._draw(MAX_KEPT // 2, parents)
        elif not self._is_listed:
            self._draw(NUM_NEW, parents)

    def order(self, gain_M: Array) -> Candidate:
        """Put those that gain most first, drop the last of many, and return the first."""
        assert self._held
        order = np.argsort(-gain_M, kind="stable")
        kept = order if self._is_listed else order[:MAX_KEPT]
        self._held = [self._held[index] for index in kept]
        return self._held[0]

    def forget(self, key: str) -> None:
        """Never offer it again."""
        self._ever.add(key)
        if self._held is not None:
            self._held = [candidate for candidate in self._held if candidate.key != key]

    def few(self, num: int) -> list[Candidate]:
        """Return some of them, drawn at random."""
        held = list(self)
        return self._rng.sample(held, min(len(held), num))

    def _draw(self, wanted: int, parents: Sequence[Values]) -> None:
        for number in range(wanted):
            if parents and number % 2:
                self._add(mutate(self._space, self._rng.choice(parents), self._rng))
            else:
                self._add(draw(self._space, self._rng))

    def _add(self, values: Values) -> None:
        assert self._held is not None
        try:
            config = self._space.build(values)
        except NothingToTrain:
            return
        if config.key in self._ever:
            return
        params = self._space.count(config)
        if params > self._budget:
            return
        vector = self._vectors.vector(config.values, params)
        self._held.append(Candidate(config.values, config.key, params, vector))
        self._ever.add(config.key)
