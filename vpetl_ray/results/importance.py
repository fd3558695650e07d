"""What mattered in a search: how much of an outcome's variance hangs on each choice.

The importance of a choice is its total Sobol index, the share of the variance that is left if
everything but this choice is held: half the mean squared difference that it makes to give a trial
another trial's value, over the variance. A choice that exists in some trials only (the width of a
method) is exchanged among those; whether a method is on is exchanged together with all that the
method is set to. So no config is looked at that could not be built, and the indices, interactions
counted in each, add up to more than 1.

The differences are taken from extremely randomised trees, on trials that the trees have not seen:
what has no effect is near 0, where in-sample importances (fANOVA, permutation) give it a part of
the noise. The choice of the way: benchmarks/importance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vpetl_ray.results.choices import ChoiceTable
from vpetl_ray.results.hypervolume_share import hypervolume_shares
from vpetl_ray.results.same_length import SameLength

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

LEAST_TRIALS = 20
LEAST_PER_CHOICE = 2
TRUSTED = 0.3
"""Share of the variance that the trees must foresee before their importances mean much."""

OBJECTIVES = ("top1", "log10_params", "hypervolume")
_FOLDS = 5
_TREES = 40
_LEAF = 2  # trials
_EXCHANGES = 5  # for each trial and choice
_MAX_EXCHANGED = 400  # a fold's and a choice's, so that thousands of trials take seconds


@dataclass(frozen=True, kw_only=True)
class ChoiceImportance:
    """Of one choice, for one objective."""

    name: str
    group: str
    share: float
    """Of the variance: total Sobol index, not below 0."""
    error: float
    """Standard error of `share`, from the folds."""
    active: float
    """Share of the trials in which the choice exists; below 1 it is conditional."""


@dataclass(frozen=True, kw_only=True)
class ObjectiveImportance:
    """Of all choices, the most important first."""

    objective: str
    explained: float
    """R^2 of the trees on trials that they have not seen: how far all this can be believed."""
    choices: tuple[ChoiceImportance, ...]

    @property
    def is_trusted(self) -> bool:
        """Whether the trees foresee enough for an order to mean something."""
        return self.explained >= TRUSTED


def trials_needed(num_choices: int) -> int:
    """How many trials are needed before importances are worked out."""
    return max(LEAST_TRIALS, LEAST_PER_CHOICE * num_choices)


def importances(
    sample: SameLength, table: ChoiceTable, *, max_params: float, seed: int = 0
) -> tuple[ObjectiveImportance, ...]:
    """Work out the importance of every choice for every objective in `OBJECTIVES`.

    Args:
        sample: trials with accuracies that can be compared, at least five.
        table: their choices, at least one.
        max_params: right edge of the hypervolume.
        seed: of folds, trees and exchanges.
    """
    params = [max(record.trainable_params, 1) for record in sample.records]
    shares = hypervolume_shares(params, sample.top1, max_params=max_params)
    targets: Mapping[str, Floats] = {
        "top1": np.array(sample.top1),
        "log10_params": np.log10(params),
        # Its order: a few cheap trials hold so much of the area that nothing else would count.
        "hypervolume": np.argsort(np.argsort(shares, kind="stable")).astype(np.float64),
    }
    return tuple(
        _of_objective(objective, targets[objective], table, seed) for objective in OBJECTIVES
    )


def _of_objective(
    objective: str, target: Floats, table: ChoiceTable, seed: int
) -> ObjectiveImportance:
    spread = float(target.std())
    if spread == 0:
        return ObjectiveImportance(objective=objective, explained=0.0, choices=())
    y_N = (target - target.mean()) / spread
    rng = np.random.default_rng(seed)
    fold_N = rng.permutation(len(y_N)) % _FOLDS
    found_FC = np.zeros((_FOLDS, len(table.choices)))
    error = 0.0
    for fold in range(_FOLDS):
        held = np.flatnonzero(fold_N == fold)
        forest = _forest(seed + fold)
        forest.fit(table.matrix[fold_N != fold], y_N[fold_N != fold])
        found_FC[fold], squares = _of_fold(forest, held, y_N, table, rng)
        error += squares
    mean_C, sd_C = found_FC.mean(axis=0), found_FC.std(axis=0, ddof=1)
    choices = [
        ChoiceImportance(
            name=choice.name,
            group=choice.group,
            share=max(0.0, float(mean)),
            error=float(sd) / math.sqrt(_FOLDS),
            active=float(choice.active.mean()),
        )
        for choice, mean, sd in zip(table.choices, mean_C, sd_C, strict=True)
    ]
    choices.sort(key=lambda choice: -choice.share)
    return ObjectiveImportance(
        objective=objective, explained=1.0 - error / len(y_N), choices=tuple(choices)
    )


def _of_fold(
    forest: Any, held: Ints, y_N: Floats, table: ChoiceTable, rng: np.random.Generator
) -> tuple[Floats, float]:
    """Exchange each choice of the trials held out; all are predicted in one go."""
    matrix = table.matrix
    rows: list[Ints] = []
    changed: list[Floats] = [matrix[held]]
    for choice in table.choices:
        own = held[choice.active[held]]
        own = np.tile(own, _EXCHANGES)[:_MAX_EXCHANGED]
        columns = list(table.columns_of(choice.group) if choice.is_switch else choice.columns)
        others = rng.choice(np.flatnonzero(choice.active), len(own))
        exchanged = matrix[own]
        exchanged[:, columns] = matrix[others][:, columns]
        rows.append(own)
        changed.append(exchanged)
    told = forest.predict(np.vstack(changed))
    known_N = np.zeros(len(y_N))
    known_N[held] = told[: len(held)]
    shares = np.zeros(len(table.choices))
    begin = len(held)
    for index, (choice, own) in enumerate(zip(table.choices, rows, strict=True)):
        after = told[begin : begin + len(own)]
        begin += len(own)
        if len(own):
            worse = (after - y_N[own]) ** 2 - (known_N[own] - y_N[own]) ** 2
            shares[index] = worse.mean() / 2.0 * float(choice.active[held].mean())
    return shares, float(((known_N[held] - y_N[held]) ** 2).sum())


def _forest(seed: int) -> Any:
    from sklearn.ensemble import ExtraTreesRegressor  # noqa: PLC0415 - takes a second

    return ExtraTreesRegressor(
        n_estimators=_TREES, min_samples_leaf=_LEAF, max_features=1.0, random_state=seed
    )
