"""Optuna's samplers on a study in memory that holds what is believed of each trial.

Optuna takes a trial's values once. Trials that wait at a rung would then be unknown to it, or known
by an early accuracy for good. So it is taught in a study of its own, in which the value of a trial
is corrected as the trial goes on.
"""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal, get_args

import optuna
from optuna.samplers import BaseSampler
from optuna.trial import TrialState as OptunaState
from optuna.trial import create_trial

from vpetl_ray.results.objectives import LOWEST, TRAIN_SECONDS
from vpetl_ray.results.records import TrialState
from vpetl_ray.tuning.beliefs import Belief, Beliefs
from vpetl_ray.tuning.halving import Worth
from vpetl_ray.tuning.method_space import Values
from vpetl_ray.tuning.space import Space
from vpetl_ray.tuning.study_file import directions

NUM_RANDOM_TRIALS = 8
"""Random proposals before a model-based sampler trusts its model."""

Told = Literal["extrapolated", "rung", "pruned", "per_rung"]
"""What Optuna's samplers are told of a trial that was not trained to its end: the final accuracy
that its early one predicts; the early one as if it were final; that it was pruned; or, by rung, in
a model for each rung of which the highest that has enough trials proposes (as BOHB does)."""
TOLD: tuple[Told, ...] = get_args(Told)
MakeSampler = Callable[[int], BaseSampler]

_BUDGET = "over_budget_or_repeated"
_UNKNOWN_TOP1 = 0.0  # of what is infeasible: it is never compared by its values


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


def _by_number(make: MakeSampler, seed: int, number: int, attempt: int) -> BaseSampler:
    """A sampler for one proposal alone, so that it follows from its number and nothing else."""
    return make(random.Random(f"{seed} {number} {attempt}").getrandbits(32))


OPTUNA_SAMPLERS: Mapping[str, MakeSampler] = MappingProxyType(
    {"tpe": _tpe, "random": _random, "nsga2": _nsga2, "gp": _gp}
)


class OptunaSampler:
    """One of Optuna's samplers, multi-objective, constrained and seeded.

    Args:
        make: the sampler from its seed.
        space: what it proposes from.
        seed: of the sampler.
        beliefs: predicts the final accuracy of trials that have not come to their end.
        told: what it is told of those.
        at_epoch: of a trial it is told the accuracy after this epoch alone; see `PerRungSampler`.
        costs: objectives beside top-1 and parameters, by name.
    """

    def __init__(
        self,
        make: MakeSampler,
        *,
        space: Space,
        seed: int,
        beliefs: Beliefs,
        told: Told = "extrapolated",
        at_epoch: int | None = None,
        costs: Sequence[str] = (),
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = make(seed)
        self._seed = seed
        # Who learns nothing can propose after an interruption what he would have without it.
        self._make = make if make is _random else None
        self._attempt = 0
        self._study = optuna.create_study(sampler=sampler, directions=directions(costs))
        self._costs = tuple(costs)
        self._dearest = dict.fromkeys(costs, 0.0)
        self._space = space
        self._distributions = space.distributions
        self._beliefs = beliefs
        self._told = told
        self._at_epoch = at_epoch
        self._proposed: optuna.Trial | None = None
        self._numbers: dict[int, int] = {}
        self._count = 0
        self.num_told = 0

    def propose(self) -> Values:
        """Ask Optuna for values."""
        if self._make is not None:
            number, self._attempt = len(self._beliefs), self._attempt + 1
            self._study.sampler = _by_number(self._make, self._seed, number, self._attempt)
        self._proposed = self._study.ask()
        self._count += 1
        return self._space.suggest(self._proposed)

    def refuse(self, params: int, excess: float) -> None:
        """Tell the last proposal with the constraint that it violates.

        Told as failed, a sampler learns nothing from it: it proposes 80 times as many over the
        budget, and the cheapest config, which nothing dominates, for ever.
        """
        if self._proposed is None:
            return
        self._proposed.set_constraint(_BUDGET, excess)
        # What was not measured is as dear as the dearest, as it is as bad as the worst.
        values = [_UNKNOWN_TOP1, _size(params), *self._dearest.values()]
        self._study.tell(self._proposed, values)
        self._proposed = None

    def accept(self, belief: Belief, *, is_own: bool) -> None:
        """Note the trial as running, so that what is proposed beside it is something else."""
        self._attempt = 0
        if is_own and self._proposed is not None:
            self._numbers[belief.number] = self._proposed.number
            self._proposed.set_constraint(_BUDGET, 0.0)
            self._proposed = None
            return
        params = self._space.params_for(belief.config.values)
        self._study.add_trial(
            create_trial(
                state=OptunaState.RUNNING,
                params=params,
                distributions={name: self._distributions[name] for name in params},
                constraints={_BUDGET: 0.0},
            )
        )
        self._numbers[belief.number] = self._count
        self._count += 1

    def worth(self, waiting: Sequence[Belief], *, is_new_possible: bool) -> Worth | None:
        """Optuna's samplers propose, and say nothing of what they have proposed."""
        return None

    def learn(self, belief: Belief) -> None:
        """Tell what is believed of the trial now, in place of what was told before."""
        number = self._numbers[belief.number]
        trial = self._study.get_trials(deepcopy=False)[number]
        if belief.state is TrialState.FAILED:
            if trial.state is OptunaState.RUNNING:
                self._study.tell(number, state=OptunaState.FAIL)
            trial.state = OptunaState.FAIL  # whatever was told of its first epochs
            return
        top1 = self._top1(belief)
        if top1 is None:
            if belief.state is not None and trial.state is OptunaState.RUNNING:
                self._study.tell(number, state=OptunaState.PRUNED)
            return
        values = [top1, _size(belief.params), *self._further(belief)]
        if trial.state is OptunaState.RUNNING:
            self._study.tell(number, values)
            self.num_told += 1
        else:
            # The storage in memory hands out its own trials; Optuna has no call that corrects one.
            trial.state = OptunaState.COMPLETE
            trial.values = values

    def _further(self, belief: Belief) -> list[float]:
        """Further objectives of a trial that has been trained for an epoch, in decades."""
        costs = dict(belief.costs)
        if TRAIN_SECONDS in costs and not belief.is_final and self._told == "extrapolated":
            # As its accuracy is, so its time: what it would be in the end.
            costs[TRAIN_SECONDS] *= belief.epochs / max(belief.epoch, 1)
        decades = {name: math.log10(max(costs[name], LOWEST)) for name in self._costs}
        self._dearest = {n: max(decades[n], dearest) for n, dearest in self._dearest.items()}
        return list(decades.values())

    def _top1(self, belief: Belief) -> float | None:
        if not belief.curve:
            return None
        if self._at_epoch is not None:
            return belief.curve.get(self._at_epoch)
        if belief.is_final or self._told == "rung":
            return belief.curve[belief.epoch]
        if self._told == "pruned":
            return None
        prediction = self._beliefs.predict(belief)
        return prediction.mean if prediction else None


class PerRungSampler:
    """A model for each epoch at which trials are compared; the highest that knows enough proposes.

    As in BOHB (Falkner et al. 2018, arXiv 1807.01774): accuracies of different epochs are never
    mixed.
    """

    def __init__(
        self,
        make: MakeSampler,
        *,
        space: Space,
        seed: int,
        beliefs: Beliefs,
        costs: Sequence[str] = (),
    ) -> None:
        self._make = make
        self._costs = tuple(costs)
        self._space = space
        self._seed = seed
        self._beliefs = beliefs
        self._models: dict[int, OptunaSampler] = {}
        self._first = self._model(0)
        self._proposing = self._first

    def propose(self) -> Values:
        """Ask the model of the highest rung that knows enough trials."""
        known = [m for _, m in sorted(self._models.items()) if m.num_told > NUM_RANDOM_TRIALS]
        self._proposing = known[-1] if known else self._first
        return self._proposing.propose()

    def refuse(self, params: int, excess: float) -> None:
        """Tell the model that proposed it."""
        self._proposing.refuse(params, excess)

    def accept(self, belief: Belief, *, is_own: bool) -> None:
        """Tell every model."""
        for model in (self._first, *self._models.values()):
            model.accept(belief, is_own=is_own and model is self._proposing)

    def worth(self, waiting: Sequence[Belief], *, is_new_possible: bool) -> Worth | None:
        """Nothing, as each of its models says."""
        return None

    def learn(self, belief: Belief) -> None:
        """Tell every model of an epoch that the trial has come to."""
        reached = belief.epoch
        if reached and reached not in self._models:
            self._models[reached] = self._model(reached)
            for other in self._beliefs:
                self._models[reached].accept(other, is_own=False)
        for epoch, model in self._models.items():
            if epoch in belief.curve or belief.state is not None:
                model.learn(belief)

    def _model(self, epoch: int) -> OptunaSampler:
        return OptunaSampler(
            self._make,
            space=self._space,
            seed=self._seed + epoch,
            beliefs=self._beliefs,
            at_epoch=epoch,
            costs=self._costs,
        )


def _size(params: int) -> float:
    # Decades, as on the axis of the front: in plain numbers the largest configs alone would count.
    return math.log10(max(params, 1))
