"""How many configs of a space cost how much: histograms that stay small, and tables for them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_PAIRS = 4_000_000
"""Largest outer sum of two histograms before configs are drawn instead."""
NUM_DRAWS = 100_000


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Counts and how many configs have each; counts ascend and are distinct."""

    counts: NDArray[np.int64]
    weights: NDArray[np.float64]
    exact: bool = True

    @classmethod
    def of(
        cls, counts: NDArray[np.int64], weights: NDArray[np.float64], *, exact: bool = True
    ) -> Histogram:
        """Put equal counts together."""
        unique, place = np.unique(counts, return_inverse=True)
        return cls(
            counts=unique, weights=np.bincount(place, weights).astype(np.float64), exact=exact
        )

    @classmethod
    def nothing(cls) -> Histogram:
        """Return the histogram of one config that trains nothing."""
        return cls(counts=np.zeros(1, np.int64), weights=np.ones(1))

    def plus(self, other: Histogram) -> Histogram:
        """Return the histogram of every sum of one count from each."""
        exact = self.exact and other.exact
        if len(self.counts) * len(other.counts) > MAX_PAIRS:
            return self._drawn_plus(other)
        counts = np.add.outer(self.counts, other.counts).ravel()
        weights = np.multiply.outer(self.weights, other.weights).ravel()
        return Histogram.of(counts, weights, exact=exact)

    def also(self, *others: Histogram) -> Histogram:
        """Return the histogram of the configs of all of them."""
        parts = (self, *others)
        counts = np.concatenate([part.counts for part in parts])
        weights = np.concatenate([part.weights for part in parts])
        return Histogram.of(counts, weights, exact=all(part.exact for part in parts))

    def times(self, factor: float) -> Histogram:
        """Return the histogram of `factor` configs in place of each."""
        return Histogram(counts=self.counts, weights=self.weights * factor, exact=self.exact)

    def _drawn_plus(self, other: Histogram) -> Histogram:
        rng = np.random.default_rng(0)
        total = self.weights.sum() * other.weights.sum()
        drawn = self._draw(rng) + rng.permutation(other._draw(rng))
        # The ends are known exactly, and must not be lost.
        drawn[:2] = self.counts[0] + other.counts[0], self.counts[-1] + other.counts[-1]
        return Histogram.of(drawn, np.full(NUM_DRAWS, total / NUM_DRAWS), exact=False)

    def _draw(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw one count from each of many equal parts of the configs, in ascending order."""
        shares = (np.arange(NUM_DRAWS) + rng.random(NUM_DRAWS)) / NUM_DRAWS
        cumulative = np.cumsum(self.weights)
        places = np.searchsorted(cumulative, shares * cumulative[-1])
        drawn: NDArray[np.int64] = self.counts[np.minimum(places, len(self.counts) - 1)]
        return drawn


@dataclass(frozen=True, kw_only=True)
class CountTable:
    """Counts of rows of configs at columns of places, and how many configs each column has."""

    counts: NDArray[np.int64]
    """(rows, columns)."""
    weights: NDArray[np.float64]
    """(columns,)."""

    @classmethod
    def nothing(cls, num_rows: int) -> CountTable:
        """Return one column that trains nothing."""
        return cls(counts=np.zeros((num_rows, 1), np.int64), weights=np.ones(1))

    def plus(self, other: CountTable) -> CountTable:
        """Return a column for every two."""
        counts = self.counts[:, :, None] + other.counts[:, None, :]
        weights = np.multiply.outer(self.weights, other.weights)
        return CountTable(counts=counts.reshape(len(counts), -1), weights=weights.ravel())

    def also(self, other: CountTable) -> CountTable:
        """Return the columns of both."""
        counts = np.concatenate([self.counts, other.counts], axis=1)
        return CountTable(counts=counts, weights=np.concatenate([self.weights, other.weights]))

    def times(self, factor: float) -> CountTable:
        """Return the table with `factor` configs in place of each."""
        return CountTable(counts=self.counts, weights=self.weights * factor)

    def histogram(self, row_weights: NDArray[np.float64], *, exact: bool) -> Histogram:
        """Put all of it into one histogram; `row_weights` are configs a row."""
        weights = np.multiply.outer(row_weights, self.weights)
        return Histogram.of(self.counts.ravel(), weights.ravel(), exact=exact)
