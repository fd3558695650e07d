"""The samplers a search can name, each from Optuna, multi-objective, constrained and seeded."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from types import MappingProxyType

import optuna
from optuna.samplers import BaseSampler

NUM_RANDOM_TRIALS = 8
"""Random proposals before a model-based sampler trusts its model."""


def _tpe(seed: int) -> BaseSampler:
    # `group` keeps one density model for each set of parameters that are active together, which is
    # what a conditional space needs: a bottleneck's width has no value where its method is off.
    return optuna.samplers.TPESampler(
        seed=seed, multivariate=True, group=True, n_startup_trials=NUM_RANDOM_TRIALS
    )


def _nsga2(seed: int) -> BaseSampler:
    # Optuna's default population of 50 would make a search of 50 trials a random one.
    return optuna.samplers.NSGAIISampler(seed=seed, population_size=12)


def _gp(seed: int) -> BaseSampler:
    return optuna.samplers.GPSampler(seed=seed, n_startup_trials=NUM_RANDOM_TRIALS)


def _random(seed: int) -> BaseSampler:
    return optuna.samplers.RandomSampler(seed=seed)


SAMPLERS: Mapping[str, Callable[[int], BaseSampler]] = MappingProxyType(
    # A grid or list is a queue of configs; the random sampler behind it is never asked.
    {
        "tpe": _tpe,
        "random": _random,
        "nsga2": _nsga2,
        "gp": _gp,
        "grid": _random,
        "list": _random,
    }
)
LIST = "list"
"""Trains exactly the start configs, in their order."""
QUEUED = frozenset({"grid", LIST})
"""All they train is known at the start; nothing is proposed after it."""


def make_sampler(name: str, seed: int) -> BaseSampler:
    """The sampler called `name`, seeded; a KeyError here is a name the spec should have refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return SAMPLERS[name](seed)
