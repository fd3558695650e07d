"""The samplers that a search can name: Optuna's, and our own.

A sampler proposes values and is told what came of them. It lives in memory: the study's file is the
truth, and a search that goes on teaches its sampler again what it knew.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, get_args

from vpetl_ray.tuning.beliefs import Belief, Beliefs
from vpetl_ray.tuning.expected_improvement import ExpectedImprovementSampler
from vpetl_ray.tuning.halving import Worth
from vpetl_ray.tuning.method_space import Values
from vpetl_ray.tuning.optuna_sampler import OPTUNA_SAMPLERS, OptunaSampler, PerRungSampler, Told
from vpetl_ray.tuning.space import Space

__all__ = ["LIST", "QUEUED", "SAMPLERS", "ConfigSampler", "SamplerName", "Told", "make_sampler"]

SamplerName = Literal["auto", "ehvi", "tpe", "random", "nsga2", "gp", "grid", "list"]
SAMPLERS: tuple[SamplerName, ...] = get_args(SamplerName)
TWO_OBJECTIVES = frozenset({"ehvi", "gp"})
"""These are for accuracy against parameters alone: our own models nothing else, and Optuna's GP had
not made one proposal after 100 s with five objectives."""
LIST = "list"
"""Trains exactly the start configs, in their order."""
QUEUED = frozenset({"grid", LIST})
"""All they train is known at the start; nothing is proposed after it."""


class ConfigSampler(Protocol):
    """Proposes values, and learns from what became of them."""

    def propose(self) -> Values | None:
        """Return values to train next; None if it knows of nothing new."""

    def refuse(self, params: int, excess: float) -> None:
        """Its last proposal is not trained: over the budget, or known already.

        Args:
            params: what it would have trained.
            excess: over the budget, as a share of it; 1 where it is something else.
        """

    def accept(self, belief: Belief, *, is_own: bool) -> None:
        """A trial is handed out.

        Args:
            belief: the trial.
            is_own: exactly the last proposal; otherwise one that was queued, drawn or repaired.
        """

    def learn(self, belief: Belief) -> None:
        """A trial has come to a rung, or ended."""

    def worth(self, waiting: Sequence[Belief], *, is_new_possible: bool) -> Worth | None:
        """What it is worth to train trials on that wait; None if it can't tell.

        Args:
            waiting: trials at a rung.
            is_new_possible: whether a new trial may be begun in their place.
        """


def make_sampler(
    name: str,
    *,
    space: Space,
    budget: int,
    seed: int,
    num_before: int = 0,
    beliefs: Beliefs,
    told: Told,
    costs: Sequence[str] = (),
) -> ConfigSampler:
    """Make the sampler called `name`; a KeyError here is a name the spec should have refused.

    Args:
        name: one of `SAMPLERS`; auto is our own, or TPE where there are further objectives.
        space: what it proposes from.
        budget: most parameters; our own proposes nothing above it.
        seed: of all that it draws.
        num_before: rows of the study that goes on: a sampler must not repeat the draws that these
            were made from. Random proposals follow from their number, and are what they would be.
        beliefs: what is known of the trials, and what it predicts.
        told: what Optuna's samplers are told of a trial that was not trained to its end.
        costs: objectives beside top-1 and parameters; our own weighs none.
    """
    if name == "auto":
        name = "tpe" if costs else "ehvi"
    kind = "random" if name in QUEUED else name
    if kind != "random":
        seed += num_before
    if name == "ehvi":
        return ExpectedImprovementSampler(space=space, budget=budget, seed=seed, beliefs=beliefs)
    make = OPTUNA_SAMPLERS[kind]
    if told == "per_rung":
        return PerRungSampler(make, space=space, seed=seed, beliefs=beliefs, costs=costs)
    return OptunaSampler(make, space=space, seed=seed, beliefs=beliefs, told=told, costs=costs)
