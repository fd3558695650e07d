"""Our own sampler: expected hypervolume improvement where the cost is known, not modelled.

The number of parameters of a config is arithmetic. So only accuracy is modelled, and the expected
gain of hypervolume of a config is exact in one dimension: over the stretch of the axis from its
cost up to the next better config of the front, the expected improvement on the front's accuracy
there (Emmerich et al. 2006's EHVI, with one objective certain). Three things more follow from it:

- nothing over the budget is proposed, and nothing that is known already;
- a trial that waits at a rung counts with the final accuracy that is predicted for it, and with how
  unsure that is, so that a hundred short trials teach as much as they are worth;
- the gain can be had per second of training, as configs are not equally dear.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from vpetl_ray.results.ranking import first_of_two
from vpetl_ray.tuning.beliefs import NOISE_SD, Belief, Beliefs
from vpetl_ray.tuning.config_vectors import ConfigVectors
from vpetl_ray.tuning.drawing import draw, mutate
from vpetl_ray.tuning.gaussian_process import GaussianProcess
from vpetl_ray.tuning.halving import Worth
from vpetl_ray.tuning.method_space import Values
from vpetl_ray.tuning.space import NothingToTrain, Space
from vpetl_ray.tuning.space_size import summarise

Array = NDArray[np.float64]

NUM_FIRST = 3
"""Trials before the model is asked; their sizes are spread over the axis."""
MAX_TRIALS = 100
"""Trials that the model is fitted on: the best, front by front."""
MAX_TIMED = 256
MAX_LISTED = 1024
"""Largest space of which every config is looked at."""
POOL = 256
"""Candidates that are kept from one proposal to the next."""
NUM_NEW = 6
"""Candidates that are new at each proposal, of a space that is too large to list."""
MAX_EPOCHS = 4
"""Epochs of a trial that the model is fitted on: its last, the half of that, ..."""
_DOUBT = (1e-6, 0.1, 0.1, 0.3)
_ROOM = 0.05  # of the axis, beyond the budget: else the largest config would gain nothing
_GROWTH = 1.15  # of the trials, after which the hyperparameters are searched again


@dataclass(frozen=True)
class _Candidate:
    values: Values
    key: str
    params: int
    vector: Array


@dataclass(frozen=True)
class _Seen:
    """Trials of which an accuracy is known, and the final one that is predicted; N of each."""

    beliefs: list[Belief]
    top1: Array
    best_first: NDArray[np.intp]
    """At most `MAX_TRIALS`, front by front."""


@dataclass(frozen=True)
class _Fitted:
    """What the model was fitted on: trials of which something is known, and those that run."""

    numbers: list[int]
    """N of them."""
    x: Array
    """(N, D + 1) vectors, at their end."""
    mean: Array
    """(N,) accuracies in the end."""

    @property
    def size(self) -> Array:
        """(N,) on the axis of the hypervolume."""
        size_N: Array = self.x[:, -2]
        return size_N


class ExpectedImprovementSampler:
    """Proposes what is expected to add most to the front's hypervolume for its training time.

    Args:
        space: what it proposes from.
        budget: most trainable parameters.
        seed: of all that it draws.
        beliefs: what is known of every trial.
        cost_power: how much training time counts: 0 not at all, 1 as much as the gain.
    """

    def __init__(
        self, *, space: Space, budget: int, seed: int, beliefs: Beliefs, cost_power: float = 0.5
    ) -> None:
        summary = summarise(space)
        self._space = space
        self._budget = budget
        self._beliefs = beliefs
        self._cost_power = cost_power
        self._rng = random.Random(seed)
        self._vectors = ConfigVectors(space, (summary.smallest, min(budget, summary.largest)))
        self._model = GaussianProcess(self._vectors.num_inputs + 1, _trend, _DOUBT)
        self._is_listed = summary.size is not None and summary.size <= MAX_LISTED
        self._known: set[str] = set()
        self._known_vectors: dict[int, Array] = {}
        self._pool: list[_Candidate] | None = None
        self._pool_keys: set[str] = set()
        self._filled_at = -1
        self._proposed: str | None = None
        self._searched_at = 0.0
        self._seen_at: tuple[int, _Seen] | None = None
        self._fitted_at: tuple[int, _Fitted] | None = None

    def propose(self) -> Values | None:
        """Return the best candidate's values; None if every config of the space is known."""
        pool = self._filled_pool()
        if not pool:
            return None
        if not self._knows_enough():
            best = self._most_apart(pool)
        else:
            order = np.argsort(-self._gains_of_new(pool), kind="stable")
            self._pool = [pool[index] for index in order[:POOL]]
            best = self._pool[0]
        self._proposed = best.key
        return best.values

    def worth(self, waiting: Sequence[Belief], *, is_new_possible: bool) -> Worth | None:
        """Judge trials that wait at a rung: the gain that their end is expected to bring.

        It is the gain over the front of what is trained to its end, for the time that is left to
        train, and so to be compared with what a new trial is expected to gain for its time.

        Args:
            waiting: what may be trained on.
            is_new_possible: whether a new trial could be begun in their place.

        Returns:
            None while too little is known.
        """
        if not self._knows_enough():
            return None
        if not waiting:
            return Worth(of_waiting=(), of_new=None)
        places = {number: place for place, number in enumerate(self._fitted().numbers)}
        # What did not make it into the model is beaten by hundreds that did.
        rows = [places.get(belief.number) for belief in waiting]
        known = [place for place in rows if place is not None]
        left_K = np.array([1.0 - b.epoch / b.epochs for b in waiting if b.number in places])
        gain_K = iter(self._gains_of_waiting(known, left_K))
        of_waiting = [float(next(gain_K)) if row is not None else -1.0 for row in rows]
        pool = self._filled_pool() if is_new_possible else []
        of_new = float(self._gains_of_new(pool).max()) if pool else None
        return Worth(of_waiting=of_waiting, of_new=of_new)

    def refuse(self, params: int, excess: float) -> None:
        """Never propose it again."""
        if self._proposed is not None:
            self._forget(self._proposed)

    def accept(self, belief: Belief, *, is_own: bool) -> None:
        """Note that the trial is known."""
        self._known_vectors[belief.number] = self._vectors.vector(
            belief.config.values, belief.params
        )
        self._forget(belief.config.key)

    def learn(self, belief: Belief) -> None:
        """Nothing: `beliefs` is looked at when there is something to propose."""

    def _forget(self, key: str) -> None:
        self._known.add(key)
        if self._pool is not None and key in self._pool_keys:
            self._pool_keys.remove(key)
            self._pool = [candidate for candidate in self._pool if candidate.key != key]

    def _knows_enough(self) -> bool:
        seen = self._seen()
        return len(seen.beliefs) >= NUM_FIRST and len(set(seen.top1)) >= 3

    def _seen(self) -> _Seen:
        """Predict the end of every trial that has been trained for an epoch."""
        version = self._beliefs.version
        if self._seen_at is None or self._seen_at[0] != version:
            self._seen_at = version, self._look()
        return self._seen_at[1]

    def _look(self) -> _Seen:
        seen = [(b, p) for b in self._beliefs if (p := self._beliefs.predict(b)) is not None]
        top1_N = np.array([prediction.mean for _, prediction in seen])
        params_N = np.array([belief.params for belief, _ in seen], dtype=np.float64)
        best = first_of_two(np.column_stack([params_N, -top1_N]), MAX_TRIALS)
        return _Seen([belief for belief, _ in seen], top1_N, best)

    def _filled_pool(self) -> list[_Candidate]:
        """Return the candidates, with some new ones."""
        if self._pool is None:
            self._pool = []
            if self._is_listed:
                for values in self._space.grid():
                    self._add(self._pool, values)
            else:
                self._add_new(self._pool, POOL // 2)
            self._filled_at = self._beliefs.version
        elif not self._is_listed and self._filled_at != self._beliefs.version:
            self._add_new(self._pool, NUM_NEW)
            self._filled_at = self._beliefs.version
        return self._pool

    def _add_new(self, pool: list[_Candidate], wanted: int) -> None:
        parents = self._parents()
        for number in range(wanted):
            if parents and number % 2:
                self._add(pool, mutate(self._space, self._rng.choice(parents), self._rng))
            else:
                self._add(pool, draw(self._space, self._rng))

    def _add(self, pool: list[_Candidate], values: Values) -> None:
        try:
            config = self._space.build(values)
        except NothingToTrain:
            return
        if config.key in self._known or config.key in self._pool_keys:
            return
        params = self._space.count(config)
        if params > self._budget:
            return
        vector = self._vectors.vector(config.values, params)
        pool.append(_Candidate(config.values, config.key, params, vector))
        self._pool_keys.add(config.key)

    def _parents(self) -> list[Values]:
        if not self._knows_enough():
            return []
        seen = self._seen()
        best = seen.best_first[: len(seen.beliefs) // 4]
        return [seen.beliefs[index].config.values for index in best]

    def _most_apart(self, pool: list[_Candidate]) -> _Candidate:
        """Of a few candidates the one whose size is farthest from those that are known."""
        few = self._rng.sample(pool, min(len(pool), 16))
        sizes = [float(vector[-1]) for vector in self._known_vectors.values()]
        return max(few, key=lambda c: min((abs(float(c.vector[-1]) - s) for s in sizes), default=1))

    def _gains_of_new(self, pool: list[_Candidate]) -> Array:
        """Expected gain of hypervolume of every candidate of the pool, (M,), for its time."""
        fitted = self._fitted()
        pool_MD = _at_end(np.array([candidate.vector for candidate in pool]))
        mean_M, sd_M = self._model.predict(pool_MD)
        floor = float(fitted.mean.min())
        gain_M = expected_gain(pool_MD[:, -2], mean_M, sd_M, fitted.size, fitted.mean, floor)
        return gain_M / self._seconds(pool_MD) ** self._cost_power

    def _gains_of_waiting(self, places: Sequence[int], left_K: Array) -> Array:
        """Expected gain of hypervolume of trials that wait, (K,), for the time that is left.

        Args:
            places: theirs, of the model's points.
            left_K: share of their training that is left.
        """
        fitted = self._fitted()
        x_KD, mean_K = fitted.x[places], fitted.mean[places]
        _, sd_K = self._model.predict(x_KD)
        size_F, mean_F = np.delete(fitted.size, places), np.delete(fitted.mean, places)
        floor = float(fitted.mean.min())
        gain_K = expected_gain(x_KD[:, -2], mean_K, sd_K, size_F, mean_F, floor)
        return gain_K / (left_K * self._seconds(x_KD)) ** self._cost_power

    def _fitted(self) -> _Fitted:
        """Fit the model to what is believed now, what runs included."""
        version = self._beliefs.version
        if self._fitted_at is None or self._fitted_at[0] != version:
            self._fitted_at = version, self._fit()
        return self._fitted_at[1]

    def _fit(self) -> _Fitted:
        seen = self._seen()
        kept = [seen.beliefs[index] for index in seen.best_first]
        vectors, shares, top1 = [], [], []
        for belief in kept:
            for epoch in _epochs_seen(belief):
                vectors.append(self._known_vectors[belief.number])
                shares.append(np.log2(epoch / belief.epochs))
                top1.append(belief.curve[epoch])
        x_ND = np.column_stack([np.array(vectors), np.array(shares) / 3.0])
        search = len(self._beliefs) >= self._searched_at * _GROWTH
        if search:
            self._searched_at = len(self._beliefs)
        variance_N = np.full(len(top1), NOISE_SD**2)
        self._model.fit(x_ND, np.array(top1), variance_N, search=search)
        running = [b for b in self._beliefs if not b.curve and b.state is None]
        numbers = [belief.number for belief in (*kept, *running)]
        x_KD = _at_end(np.array([self._known_vectors[number] for number in numbers]))
        if running:
            # What runs is believed to come out as predicted, and is not proposed again beside it.
            self._model.believe(x_KD[len(kept) :], NOISE_SD**2)
        return _Fitted(numbers, x_KD, self._model.mean(x_KD))

    def _seconds(self, pool_MD: Array) -> Array:
        """Predict seconds an epoch, (M,), by ridge regression of their logarithm."""
        timed = self._timed()
        if self._cost_power == 0.0 or len(timed) < NUM_FIRST:
            return np.ones(len(pool_MD))
        logs_N = np.log([belief.seconds / belief.epoch for belief in timed])
        x_ND = _at_end(np.array([self._known_vectors[belief.number] for belief in timed]))
        centre_D = x_ND.mean(0)
        away_ND = x_ND - centre_D
        slopes_D = np.linalg.solve(
            away_ND.T @ away_ND + 0.3 * np.eye(away_ND.shape[1]),
            away_ND.T @ (logs_N - logs_N.mean()),
        )
        low, high = float(logs_N.min()), float(logs_N.max())
        predicted_M = np.clip((pool_MD - centre_D) @ slopes_D + logs_N.mean(), low, high)
        relative_M: Array = np.exp(predicted_M - logs_N.mean())
        return relative_M

    def _timed(self) -> list[Belief]:
        """Return the last trials of which an epoch was timed; the probe's is another matter."""
        timed = (b for b in self._beliefs.latest() if b.curve and b.seconds > 0)
        return list(islice((b for b in timed if not b.config.is_probe), MAX_TIMED))


def _at_end(x_MD: Array) -> Array:
    """Append to vectors how much of the training is done: all of it."""
    return np.column_stack([x_MD, np.zeros(len(x_MD))])


def _trend(x_ND: Array) -> Array:
    size_N, share_N = x_ND[:, -2] - 0.5, x_ND[:, -1]
    return np.column_stack([np.ones(len(x_ND)), size_N, share_N, size_N * share_N])


def _epochs_seen(belief: Belief) -> Iterator[int]:
    epoch = belief.epoch
    for _ in range(MAX_EPOCHS):
        if epoch in belief.curve:
            yield epoch
        epoch //= 2


def expected_gain(
    size_M: Array, mean_M: Array, sd_M: Array, known_size_N: Array, known_N: Array, floor: float
) -> Array:
    """Expected hypervolume improvement with a certain cost, exact.

    Args:
        size_M: cost of each candidate, 0..1 on the axis of the hypervolume.
        mean_M: its expected accuracy.
        sd_M: standard deviation of that.
        known_size_N: cost of what is known.
        known_N: its accuracy.
        floor: accuracy of the reference point.

    Returns:
        (M,) accuracy times axis.
    """
    starts, heights = [-np.inf], [floor]
    for index in np.lexsort((-known_N, known_size_N)):
        if known_N[index] > heights[-1]:
            starts.append(float(known_size_N[index]))
            heights.append(float(known_N[index]))
    ends_K = np.array([*starts[1:], max(1.0, starts[-1]) + _ROOM])
    width_MK = np.clip(ends_K - np.maximum(np.array(starts), size_M[:, None]), 0.0, None)
    z_MK = (mean_M[:, None] - np.array(heights)) / sd_M[:, None]
    density_MK = np.exp(-0.5 * z_MK**2) / np.sqrt(2.0 * np.pi)
    improvement_MK = sd_M[:, None] * (z_MK * ndtr(z_MK) + density_MK)
    gain_M: Array = (width_MK * improvement_MK).sum(axis=1)
    return gain_M
