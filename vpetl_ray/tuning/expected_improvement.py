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
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr
from threadpoolctl import ThreadpoolController

from vpetl_ray.results.ranking import first_of_two
from vpetl_ray.tuning.beliefs import NOISE_SD, Belief, Beliefs
from vpetl_ray.tuning.candidates import Candidate, Candidates
from vpetl_ray.tuning.config_vectors import ConfigVectors
from vpetl_ray.tuning.epoch_seconds import EpochSeconds
from vpetl_ray.tuning.gaussian_process import GaussianProcess
from vpetl_ray.tuning.halving import Worth
from vpetl_ray.tuning.method_space import Values
from vpetl_ray.tuning.space import Space
from vpetl_ray.tuning.space_size import summarise

Array = NDArray[np.float64]

NUM_FIRST = 3
"""Trials before the model is asked; their sizes are spread over the axis."""
MAX_TRIALS = 100
"""Trials that the model is fitted on: the best, front by front."""
MAX_TIMED = 100
"""Trials that the time of an epoch is fitted on: the last."""
MAX_EPOCHS = 4
"""Epochs of a trial that the model is fitted on: its last, the half of that, ..."""
_DOUBT = (1e-6, 0.1, 0.1, 0.3)
_ROOM = 0.05  # of the axis, beyond the budget: else the largest config would gain nothing
_GROWTH = 1.15  # of the trials, after which the hyperparameters are searched again
_STEADY = 2000
"""Changes of what is known for each that the model may lag behind: up to 2 000, some 270 trials, it
is fitted anew at each; to 10 000 trials, five more are nothing that is worth another fit."""
_LINEAR_ALGEBRA = ThreadpoolController()
"""Matrices of a few hundred rows: on two threads they take three times as long as on one."""


@dataclass
class _Fitted:
    """What the model was fitted on: trials of which something is known, and those that run."""

    numbers: list[int]
    """N of them."""
    x: Array
    """(N, D + 1) vectors, at their end."""
    mean: Array
    """(N,) accuracies in the end."""
    seconds: EpochSeconds
    gains: dict[str, float] = field(default_factory=dict)
    """Of candidates by their keys, once they were asked for."""

    @property
    def size(self) -> Array:
        """(N,) on the axis of the hypervolume."""
        size_N: Array = self.x[:, -2]
        return size_N

    @property
    def floor(self) -> float:
        """Accuracy of the reference point: what is not half as good as the best is no gain.

        Else the smallest configs of all would gain most, by a tenth of the classes known.
        """
        return float(max(self.mean.min(), 0.5 * self.mean.max()))


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
        rng = random.Random(seed)
        self._beliefs = beliefs
        self._cost_power = cost_power
        self._vectors = ConfigVectors(space, (summary.smallest, min(budget, summary.largest)))
        self._model = GaussianProcess(self._vectors.num_inputs + 1, _trend, _DOUBT)
        self._candidates = Candidates(space, budget, self._vectors, rng)
        self._known_vectors: dict[int, Array] = {}
        self._proposed: str | None = None
        self._searched_at = 0.0
        self._version = -1
        self._fitted: _Fitted | None = None
        self._parents: list[Values] = []
        self._lags = False

    def propose(self) -> Values | None:
        """Return the best candidate's values; None if every config of the space is known."""
        fitted = self._look()
        if self._lags:
            self._candidates.renew(self._parents)
        if not self._candidates:
            return None
        if fitted is None:
            best = self._most_apart()
        else:
            best = self._candidates.order(self._gains_of_new(fitted))
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
        fitted = self._look()
        if fitted is None:
            return None
        if not waiting:
            return Worth(of_waiting=(), of_new=None)
        places = {number: place for place, number in enumerate(fitted.numbers)}
        # Front by front, a hundred come before what the model was not fitted on: it comes last.
        known = [belief for belief in waiting if belief.number in places]
        left_K = np.array([1.0 - belief.epoch / belief.epochs for belief in known])
        gain_K = self._gains_of_waiting(fitted, [places[b.number] for b in known], left_K)
        gains = dict(zip((belief.number for belief in known), gain_K.tolist(), strict=True))
        can_begin = is_new_possible and len(self._candidates) > 0
        return Worth(
            of_waiting=[gains.get(belief.number, -1.0) for belief in waiting],
            of_new=float(self._gains_of_new(fitted).max()) if can_begin else None,
        )

    def refuse(self, params: int, excess: float) -> None:
        """Never propose it again."""
        if self._proposed is not None:
            self._candidates.forget(self._proposed)

    def accept(self, belief: Belief, *, is_own: bool) -> None:
        """Note that the trial is known."""
        self._known_vectors[belief.number] = self._vectors.vector(
            belief.config.values, belief.params
        )
        self._candidates.forget(belief.config.key)

    def learn(self, belief: Belief) -> None:
        """Nothing: `beliefs` is looked at when there is something to propose."""

    def _look(self) -> _Fitted | None:
        """Look at what is believed now, and fit the model to it; None while it is too little."""
        behind = self._beliefs.version - self._version
        self._lags = 0 < behind <= self._beliefs.version // _STEADY
        if behind and not self._lags:
            self._version = self._beliefs.version
            with _LINEAR_ALGEBRA.limit(limits=1, user_api="blas"):
                self._renew()
        return self._fitted

    def _renew(self) -> None:
        seen = [(b, p) for b in self._beliefs if (p := self._beliefs.predict(b)) is not None]
        beliefs = [belief for belief, _ in seen]
        top1_N = np.array([prediction.mean for _, prediction in seen])
        params_N = np.array([belief.params for belief in beliefs], dtype=np.float64)
        best = first_of_two(np.column_stack([params_N, -top1_N]), MAX_TRIALS)
        knows_enough = len(beliefs) >= NUM_FIRST and len(set(top1_N)) >= NUM_FIRST
        self._fitted = self._fit([beliefs[index] for index in best]) if knows_enough else None
        parents = best[: len(beliefs) // 4] if knows_enough else ()
        self._parents = [beliefs[index].config.values for index in parents]
        self._candidates.renew(self._parents)

    def _most_apart(self) -> Candidate:
        """Of a few candidates the one whose size is farthest from those that are known."""
        sizes = [float(vector[-1]) for vector in self._known_vectors.values()]
        return max(
            self._candidates.few(16),
            key=lambda c: min((abs(float(c.vector[-1]) - s) for s in sizes), default=1),
        )

    def _gains_of_new(self, fitted: _Fitted) -> Array:
        """Expected gain of hypervolume of every candidate, (M,), for its time."""
        new = [c for c in self._candidates if c.key not in fitted.gains]
        if new:
            x_MD = _at_end(np.array([candidate.vector for candidate in new]))
            mean_M, sd_M = self._predict(x_MD)
            gain_M = expected_gain(
                x_MD[:, -2], mean_M, sd_M, fitted.size, fitted.mean, fitted.floor
            )
            gain_M /= fitted.seconds.relative(x_MD) ** self._cost_power
            fitted.gains |= zip((candidate.key for candidate in new), gain_M.tolist(), strict=True)
        return np.array([fitted.gains[candidate.key] for candidate in self._candidates])

    def _gains_of_waiting(self, fitted: _Fitted, places: Sequence[int], left_K: Array) -> Array:
        """Expected gain of hypervolume of trials that wait, (K,), for the time that is left.

        Args:
            fitted: the model's points.
            places: theirs among them.
            left_K: share of their training that is left.
        """
        x_KD, mean_K = fitted.x[places], fitted.mean[places]
        _, sd_K = self._predict(x_KD)
        size_F, mean_F = np.delete(fitted.size, places), np.delete(fitted.mean, places)
        gain_K = expected_gain(x_KD[:, -2], mean_K, sd_K, size_F, mean_F, fitted.floor)
        return gain_K / (left_K * fitted.seconds.relative(x_KD)) ** self._cost_power

    def _predict(self, x_MD: Array) -> tuple[Array, Array]:
        with _LINEAR_ALGEBRA.limit(limits=1, user_api="blas"):
            return self._model.predict(x_MD)

    def _fit(self, kept: Sequence[Belief]) -> _Fitted:
        """Fit the model to trials, and believe what it says of those that run."""
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
        return _Fitted(numbers, x_KD, self._model.mean(x_KD), self._epoch_seconds())

    def _epoch_seconds(self) -> EpochSeconds:
        # The probe's epochs, on features that are there, are another matter.
        timed = (b for b in self._beliefs.latest() if b.curve and b.seconds > 0)
        last = list(islice((b for b in timed if not b.config.is_probe), MAX_TIMED))
        vectors = np.array([self._known_vectors[belief.number] for belief in last])
        x_ND = _at_end(vectors.reshape(len(last), self._vectors.num_inputs))
        return EpochSeconds(x_ND, [belief.seconds / belief.epoch for belief in last])


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
