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
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from vpetl_ray.results.ranking import ranking
from vpetl_ray.tuning.beliefs import NOISE_SD, Belief, Beliefs
from vpetl_ray.tuning.config_vectors import ConfigVectors
from vpetl_ray.tuning.drawing import draw, mutate
from vpetl_ray.tuning.gaussian_process import GaussianProcess
from vpetl_ray.tuning.method_space import Values
from vpetl_ray.tuning.space import NothingToTrain, Space
from vpetl_ray.tuning.space_size import summarise

Array = NDArray[np.float64]

NUM_FIRST = 8
"""Trials before the model is asked; their sizes are spread over the axis."""
MAX_POINTS = 256
"""Trials that the model is fitted on: the best, front by front."""
MAX_LISTED = 1024
"""Largest space of which every config is looked at."""
POOL = 512
"""Candidates that are kept from one proposal to the next."""
NUM_NEW = 8
"""Candidates that are new at each proposal, of a space that is too large to list."""
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
    """Trials of which an accuracy is known, and what is predicted of them; N of each."""

    beliefs: list[Belief]
    top1: Array
    sd: Array
    costs: Array
    """(N, 2): size in decades, and accuracy turned round: less is better."""


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
        self._model = GaussianProcess(self._vectors.num_inputs)
        self._is_listed = summary.size is not None and summary.size <= MAX_LISTED
        self._known: set[str] = set()
        self._known_vectors: dict[int, Array] = {}
        self._pool: list[_Candidate] | None = None
        self._proposed: str | None = None
        self._searched_at = 0.0

    def propose(self) -> Values | None:
        """Return the best candidate's values; None if every config of the space is known."""
        seen = self._seen()
        self._fill_pool(seen)
        assert self._pool is not None
        if not self._pool:
            return None
        if len(seen.beliefs) < NUM_FIRST or len(set(seen.top1)) < 3:
            best = self._most_apart()
        else:
            gain_M = self._best_gains(seen)
            order = np.argsort(-gain_M, kind="stable")
            self._pool = [self._pool[index] for index in order[:POOL]]
            best = self._pool[0]
        self._proposed = best.key
        return best.values

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
        if self._pool is not None:
            self._pool = [candidate for candidate in self._pool if candidate.key != key]

    def _seen(self) -> _Seen:
        """Predict the end of every trial that has been trained for an epoch."""
        beliefs, predictions = [], []
        for belief in self._beliefs:
            prediction = self._beliefs.predict(belief)
            if prediction is not None:
                beliefs.append(belief)
                predictions.append((prediction.mean, prediction.sd))
        top1_N, sd_N = np.array(predictions, dtype=np.float64).reshape(-1, 2).T
        sizes_N = np.log10([max(belief.params, 1) for belief in beliefs])
        return _Seen(beliefs, top1_N, sd_N, np.column_stack([sizes_N, -top1_N]))

    def _fill_pool(self, seen: _Seen) -> None:
        if self._is_listed:
            if self._pool is None:
                self._pool = []
                for values in self._space.grid():
                    self._add(values)
            return
        if self._pool is None:
            self._pool = []
            wanted = POOL // 4
        else:
            wanted = NUM_NEW
        parents = self._parents(seen)
        for number in range(wanted):
            if parents and number % 2:
                self._add(mutate(self._space, self._rng.choice(parents), self._rng))
            else:
                self._add(draw(self._space, self._rng))

    def _add(self, values: Values) -> None:
        assert self._pool is not None
        try:
            config = self._space.build(values)
        except NothingToTrain:
            return
        params = self._space.count(config)
        if params > self._budget or config.key in self._known:
            return
        if any(candidate.key == config.key for candidate in self._pool):
            return
        vector = self._vectors.vector(config.values, params)
        self._pool.append(_Candidate(config.values, config.key, params, vector))

    def _parents(self, seen: _Seen) -> list[Values]:
        if len(seen.beliefs) < NUM_FIRST:
            return []
        best = ranking(seen.costs, num=len(seen.beliefs) // 4)
        return [seen.beliefs[index].config.values for index in best]

    def _most_apart(self) -> _Candidate:
        """Of a few candidates the one whose size is farthest from those that are known."""
        assert self._pool is not None
        few = self._rng.sample(self._pool, min(len(self._pool), 16))
        sizes = [float(vector[-1]) for vector in self._known_vectors.values()]
        return max(few, key=lambda c: min((abs(float(c.vector[-1]) - s) for s in sizes), default=1))

    def _best_gains(self, seen: _Seen) -> Array:
        """Expected gain of hypervolume of every candidate of the pool, (M,), for its time."""
        assert self._pool is not None
        known = self._condition(seen)
        known_ND = np.array([self._known_vectors[number] for number in known])
        at_known_N, _ = self._model.predict(known_ND)
        pool_MD = np.array([candidate.vector for candidate in self._pool])
        mean_M, sd_M = self._model.predict(pool_MD)
        floor = float(at_known_N.min())
        gain_M = expected_gain(pool_MD[:, -1], mean_M, sd_M, known_ND[:, -1], at_known_N, floor)
        return gain_M / self._seconds(pool_MD) ** self._cost_power

    def _condition(self, seen: _Seen) -> list[int]:
        """Fit the model to what is believed now; return the trials in it, what runs included."""
        beliefs, top1_N, variance_N = seen.beliefs, seen.top1, seen.sd**2
        if len(beliefs) > MAX_POINTS:
            kept = ranking(seen.costs, num=MAX_POINTS)
            beliefs = [beliefs[index] for index in kept]
            top1_N, variance_N = top1_N[kept], variance_N[kept]
        x_ND = np.array([self._known_vectors[belief.number] for belief in beliefs])
        search = len(self._beliefs) >= self._searched_at * _GROWTH
        if search:
            self._searched_at = len(self._beliefs)
        self._model.fit(x_ND, top1_N, variance_N, search=search)
        running = [b for b in self._beliefs if not b.curve and b.state is None]
        if running:
            # What runs is believed to come out as predicted, and is not proposed again beside it.
            more_RD = np.array([self._known_vectors[belief.number] for belief in running])
            believed_R, _ = self._model.predict(more_RD)
            x_ND = np.vstack([x_ND, more_RD])
            top1_N = np.concatenate([top1_N, believed_R])
            variance_N = np.concatenate([variance_N, np.full(len(running), NOISE_SD**2)])
            self._model.fit(x_ND, top1_N, variance_N, search=False)
        return [belief.number for belief in (*beliefs, *running)]

    def _seconds(self, pool_MD: Array) -> Array:
        """Predict seconds an epoch, (M,), by ridge regression of their logarithm."""
        timed = [b for b in self._beliefs if b.seconds > 0 and b.epoch and not b.config.is_probe]
        timed = timed[-MAX_POINTS:]
        if self._cost_power == 0.0 or len(timed) < NUM_FIRST:
            return np.ones(len(pool_MD))
        logs_N = np.log([belief.seconds / belief.epoch for belief in timed])
        x_ND = np.array([self._known_vectors[belief.number] for belief in timed])
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
    improvement_MK = sd_M[:, None] * (z_MK * norm.cdf(z_MK) + norm.pdf(z_MK))
    gain_M: Array = (width_MK * improvement_MK).sum(axis=1)
    return gain_M
