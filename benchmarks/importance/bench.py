"""Which way of telling what mattered is nearest to the truth on a conditional space?

    python -m benchmarks.importance.bench

Prints a table: mean absolute error of the shares (each way's scaled to sum to one), rank
correlation with the truth, and the share given to a choice without effect.
"""

import time
import warnings

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr
from sklearn.ensemble import ExtraTreesRegressor, RandomForestRegressor

from benchmarks.importance.space import PATHS, name_of, trials, truth
from vpetl_ray.results.choices import choice_table
from vpetl_ray.results.importance import importances
from vpetl_ray.results.same_length import same_length

SIZES = (30, 100, 400)
SEEDS = (0, 1, 2)
MAX_PARAMS = 576_676
WITHOUT_EFFECT = "batch_size"


def ours(records):
    sample = same_length(records, least=0)
    found = importances(sample, choice_table(sample.records), max_params=MAX_PARAMS)
    return {choice.name: choice.share for choice in found[0].choices}


def fitted(records):
    """The same exchange, on the trials that the trees were fitted to."""
    table, target = choice_table(records), _scaled(records)
    trees = ExtraTreesRegressor(64, min_samples_leaf=2, random_state=0).fit(table.matrix, target)
    rng = np.random.default_rng(0)
    found = {}
    for choice in table.choices:
        columns = list(table.columns_of(choice.group) if choice.is_switch else choice.columns)
        pool = np.flatnonzero(choice.active)
        own = np.tile(pool, 5)
        changed = table.matrix[own]
        changed[:, columns] = table.matrix[rng.choice(pool, len(own))][:, columns]
        change = trees.predict(changed) - trees.predict(table.matrix[own])
        found[choice.name] = float((change**2).mean()) / 2 * float(choice.active.mean())
    return found


def permuted(records):
    """Each column by itself, absent values filled in: what a library does out of the box."""
    table, target = choice_table(records), _scaled(records)
    forest = RandomForestRegressor(64, min_samples_leaf=2, random_state=0)
    forest.fit(table.matrix, target)
    rng = np.random.default_rng(0)
    before = forest.predict(table.matrix)
    found = {}
    for choice in table.choices:
        changed = table.matrix.copy()
        columns = list(choice.columns)
        changed[:, columns] = table.matrix[rng.permutation(len(changed))][:, columns]
        found[choice.name] = float(((forest.predict(changed) - before) ** 2).mean()) / 2
    return found


def by_optuna(evaluator):
    """Absent values are a category of their own, or lie at the low end."""

    def evaluate(records):
        distributions = {path: _distribution([r.config[path] for r in records]) for path in PATHS}
        study = optuna.create_study(direction="maximize")
        for record in records:
            params = {path: _filled(record.config[path], distributions[path]) for path in PATHS}
            study.add_trial(
                optuna.trial.create_trial(
                    params=params, distributions=distributions, value=record.top1
                )
            )
        found = optuna.importance.get_param_importances(study, evaluator=evaluator)
        return {name_of(path): value for path, value in found.items()}

    return evaluate


def _scaled(records):
    target = np.array([record.top1 for record in records])
    return (target - target.mean()) / target.std()


def _distribution(values):
    known = [value for value in values if value is not None]
    if all(type(value) is float for value in known):
        return FloatDistribution(min(known) * 0.4, max(known), log=True)
    every = {"-" if value is None else value for value in values}
    return CategoricalDistribution(sorted(every, key=str))


def _filled(value, distribution):
    if value is not None:
        return value
    return distribution.low if isinstance(distribution, FloatDistribution) else "-"


WAYS = {
    "ours": ours,
    "fitted": fitted,
    "permuted": permuted,
    "PED-ANOVA": by_optuna(optuna.importance.PedAnovaImportanceEvaluator()),
    "fANOVA": by_optuna(optuna.importance.FanovaImportanceEvaluator(seed=0)),
}
SLOW = {"fANOVA": 100}
"""The most trials that a way is given: minutes beyond."""


def main():
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    known = truth()
    table = Table("trials", "way", "error", "rank corr.", "no effect", "seconds")
    for size in SIZES:
        for name, way in WAYS.items():
            if size > SLOW.get(name, size):
                continue
            rows = []
            for seed in SEEDS:
                records = trials(size, seed)
                began = time.perf_counter()
                found = way(records)
                seconds = time.perf_counter() - began
                names = [choice for choice in known if choice in found]
                a, b = (np.array([given[n] for n in names]) for given in (known, found))
                share = max(b.sum(), 1e-9)
                error = np.abs(a / a.sum() - b / share).mean()
                rows.append(
                    (error, spearmanr(a, b)[0], found.get(WITHOUT_EFFECT, 0.0) / share, seconds)
                )
            means = np.mean(rows, axis=0)
            table.add_row(str(size), name, *(f"{value:.3f}" for value in means))
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
