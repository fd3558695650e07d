"""A second space, too large to tabulate: what its configs would come to, by a fit to real trials.

This is a model, and described as one: a forest of trees (scikit-learn's ExtraTrees) on the trials
of `layerwise`, from a config's choices and size to its accuracy after each epoch, its test accuracy
and the seconds of an epoch. It knows no config much better than the best of those trials, as trees
do not extrapolate; so searches are told apart by how fast they get there, and not by where they
end. Each search sees the accuracies with the noise between seeds that the table has; the front is
scored without it. `python -m benchmarks.search_quality.surrogate` prints how good the fit is.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from benchmarks.search_quality.layerwise import layerwise_space, read_runs
from benchmarks.search_quality.table import Curve, read_table
from vpetl_ray.tuning.config_vectors import ConfigVectors
from vpetl_ray.tuning.space import Space, TrialConfig
from vpetl_ray.tuning.space_size import summarise

Array = NDArray[np.float64]


def _forest() -> Any:
    from sklearn.ensemble import ExtraTreesRegressor  # noqa: PLC0415 - slow

    return ExtraTreesRegressor(n_estimators=300, min_samples_leaf=2, random_state=0, n_jobs=1)


def seed_noise() -> float:
    """Standard deviation of an accuracy between seeds, in the table."""
    pairs = np.array([[c.top1[-1] for c in curves] for curves in read_table().values()])
    return float(np.sqrt(np.mean((pairs[:, 0] - pairs[:, 1]) ** 2) / 2.0))


class Surrogate:
    """Predicts how a config of the layer-wise space trains."""

    def __init__(self) -> None:
        self.space, self.budget = layerwise_space()
        runs = read_runs()
        self.num_trials = len(runs)
        summary = summarise(self.space)
        self._vectors = ConfigVectors(self.space, (summary.smallest, self.budget))
        self._noise = seed_noise()
        self._known: dict[str, Array] = {}
        self.x_ND = np.array([self._vector(self.space, run) for run in runs])
        self.y_NE = np.array([self._targets(run) for run in runs])
        self._forest = _forest().fit(self.x_ND, self.y_NE)

    def _vector(self, space: Space, run: dict[str, Any]) -> Array:
        return self._vectors.vector(space.from_json(run["values"]), run["params"])

    @staticmethod
    def _targets(run: dict[str, Any]) -> list[float]:
        return [*run["top1"], run["test_top1"], float(np.log(np.mean(run["seconds"])))]

    def curve(self, config: TrialConfig, seed: int) -> Curve:
        """Predict a config's training, as one seed of a search sees it."""
        if config.key not in self._known:
            vector = self._vectors.vector(config.values, self.space.count(config))
            self._known[config.key] = self._forest.predict(vector[None])[0]
        *top1, test_top1, log_seconds = self._known[config.key]
        rng = random.Random(f"{seed}/{config.key}")
        return Curve(
            key=config.key,
            seed=seed,
            params=self.space.count(config),
            top1=tuple(min(value + rng.gauss(0.0, self._noise), 100.0) for value in top1),
            seconds=(float(np.exp(log_seconds)),) * len(top1),
            test_top1=float(test_top1),
        )

    def held_out(self, folds: int = 5) -> tuple[float, float]:
        """Fit to four fifths, predict the rest: rank correlation and error of the final top-1."""
        last = self.y_NE.shape[1] - 3
        order = np.random.default_rng(0).permutation(len(self.x_ND))
        predicted_N = np.empty(len(order))
        for fold in range(folds):
            test = order[fold::folds]
            train = np.setdiff1d(order, test)
            forest = _forest().fit(self.x_ND[train], self.y_NE[train])
            predicted_N[test] = forest.predict(self.x_ND[test])[:, last]
        error = float(np.sqrt(np.mean((predicted_N - self.y_NE[:, last]) ** 2)))
        return float(spearmanr(predicted_N, self.y_NE[:, last]).statistic), error


def main() -> None:
    surrogate = Surrogate()
    correlation, error = surrogate.held_out()
    print(f"{surrogate.num_trials} real trials, noise between seeds {surrogate._noise:.2f} points")
    print(f"held out: rank correlation {correlation:.2f}, error {error:.1f} points of top-1")


if __name__ == "__main__":
    main()
