"""What a search believes of each trial that it has handed out: how accurate it will be in the end.

A trial that waits at a rung, or was stopped there, has no final accuracy, and its early one is not
it: told as final, it teaches a sampler that what learns slowly is bad. `Beliefs` predicts the final
accuracy from the epoch that a trial has come to, by how those went on that were trained to their
end, and says how sure it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from vpetl_ray.results.records import TrialState
from vpetl_ray.tuning.space import TrialConfig

PRIOR_SD = 6.0
"""Standard deviation of a final accuracy about its prediction before any was seen, in points."""
PRIOR_WEIGHT = 3.0
"""How many finished trials the prior is worth."""
NOISE_SD = 1.0
"""Standard deviation of a final accuracy between seeds, in points (measured on the demo)."""


@dataclass(kw_only=True)
class Belief:
    """A trial that was handed out, and what is known of it."""

    number: int
    config: TrialConfig
    params: int
    epochs: int
    """Of its recipe."""
    state: TrialState | None = None
    """None while it may still be trained: it runs or waits at a rung."""
    curve: dict[int, float] = field(default_factory=dict)
    """Epoch to validation top-1, percent."""
    seconds: float = 0.0
    """Training time so far."""
    costs: Mapping[str, float] = field(default_factory=dict)
    """Objectives beside top-1 and parameters, as far as they are known."""

    @property
    def epoch(self) -> int:
        """How far it has come; 0 at its start."""
        return max(self.curve, default=0)

    @property
    def is_final(self) -> bool:
        """It was trained to its end."""
        return self.state is TrialState.COMPLETE


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A final accuracy, percent."""

    mean: float
    sd: float


class Beliefs:
    """Every trial that was handed out, by its number."""

    def __init__(self) -> None:
        self._beliefs: dict[int, Belief] = {}
        self._lines: dict[float, tuple[float, float, float]] = {}
        self._num_final = 0
        self._predictions: dict[int, Prediction] = {}
        self._fitted_on = 0
        self.version = 0
        """Changes with everything that is noted."""

    def __iter__(self) -> Iterator[Belief]:
        return iter(self._beliefs.values())

    def latest(self) -> Iterator[Belief]:
        """Give the trials, the one handed out last first."""
        return reversed(self._beliefs.values())

    def __len__(self) -> int:
        return len(self._beliefs)

    def __getitem__(self, number: int) -> Belief:
        return self._beliefs[number]

    def add(self, belief: Belief) -> None:
        """Note a trial that is handed out."""
        self._beliefs[belief.number] = belief
        self.version += 1

    def saw(
        self,
        number: int,
        curve: Mapping[int, float],
        *,
        seconds: float,
        state: TrialState | None = None,
        costs: Mapping[str, float] | None = None,
    ) -> Belief:
        """Note how far a trial has come, or what became of it."""
        belief = self._beliefs[number]
        belief.curve = dict(curve)
        belief.seconds = seconds
        belief.costs = {**belief.costs, **(costs or {})}
        if state is TrialState.COMPLETE and belief.state is not state:
            self._num_final += 1
        belief.state = state
        self._predictions.pop(number, None)
        self.version += 1
        return belief

    def predict(self, belief: Belief) -> Prediction | None:
        """Predict the final accuracy of a trial; None before its first epoch, or if it failed.

        Raises:
            KeyError: not a trial of this search.
        """
        if not belief.curve or belief.state is TrialState.FAILED:
            return None
        # Fits are kept until a tenth more is known: 2 000 trials are not gone through 2 000 times.
        if self._num_final > self._fitted_on * 1.1:
            self._fitted_on = self._num_final
            self._lines.clear()
            self._predictions.clear()
        known = self._predictions.get(belief.number)
        if known is None:
            known = self._predictions[belief.number] = self._predict(belief)
        return known

    def _predict(self, belief: Belief) -> Prediction:
        last = belief.curve[belief.epoch]
        if belief.is_final:
            return Prediction(mean=last, sd=NOISE_SD)
        share = belief.epoch / max(belief.epochs, 1)
        if share not in self._lines:
            self._lines[share] = self._line(share)
        slope, offset, sd = self._lines[share]
        return Prediction(mean=min(slope * last + offset, 100.0), sd=sd)

    def _line(self, share: float) -> tuple[float, float, float]:
        """Regress final accuracies on those after this share of the training.

        A ridge regression about "it stays as it is", on the finished trials of as many epochs.
        """
        pairs = [
            (early, belief.curve[belief.epoch])
            for belief in self._beliefs.values()
            if belief.is_final and not belief.config.is_probe
            if (early := belief.curve.get(max(round(share * belief.epochs), 1))) is not None
        ]
        early_N, final_N = np.array(pairs, dtype=np.float64).reshape(-1, 2).T
        slope, offset, variance = 1.0, 0.0, PRIOR_SD**2
        if pairs:
            centre, gain = early_N.mean(), (final_N - early_N).mean()
            spread_N = early_N - centre
            # About a slope of one, as sure of it as of a spread of ten points.
            slope += float(
                spread_N @ (final_N - early_N - gain) / (spread_N @ spread_N + PRIOR_WEIGHT * 100)
            )
            offset = float(centre + gain - slope * centre)
            left_N = final_N - slope * early_N - offset
            seen = PRIOR_WEIGHT * variance + float(left_N @ left_N)
            variance = seen / (PRIOR_WEIGHT + len(pairs))
        return slope, offset, float(np.sqrt(variance + NOISE_SD**2))
