"""The searches that are compared: ours, Optuna's samplers at full length, and the peers."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from benchmarks.search_quality.simulate import Job
from benchmarks.search_quality.table import Curve
from vpetl_ray.results.records import EpochRow, TrialRecord, TrialState
from vpetl_ray.tuning.beliefs import Beliefs
from vpetl_ray.tuning.budgeted_study import BudgetedStudy, OverBudget
from vpetl_ray.tuning.domains import Domain, Value
from vpetl_ray.tuning.drawing import draw, draw_member
from vpetl_ray.tuning.halving import Decision, Halving, Worth
from vpetl_ray.tuning.optuna_sampler import Told
from vpetl_ray.tuning.samplers import ConfigSampler
from vpetl_ray.tuning.space import NothingToTrain, Space, TrialConfig


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is searched."""

    space: Space
    budget: int
    epochs: int
    """Of a trial that is trained to its end."""
    max_trials: int
    num_configs: int
    """Of the space, within the budget."""


class OurSearch:
    """`BudgetedStudy` and `Halving` as a real search uses them, without Ray between them."""

    def __init__(
        self,
        problem: Problem,
        *,
        seed: int,
        sampler: str | Callable[[int, Beliefs], ConfigSampler],
        halving: Halving | None,
        told: Told = "extrapolated",
        over_budget: OverBudget = "repair",
        start: tuple[tuple[str | None, Mapping[str, Any]], ...] = (),
    ) -> None:
        self._study = BudgetedStudy(
            None,
            space=problem.space,
            budget=problem.budget,
            sampler=sampler,
            seed=seed,
            start=start,
            on_record=lambda record: None,
            told=told,
            over_budget=over_budget,
        )
        self._halving = halving
        if halving is not None:
            halving.judge = self._worth
        self._jobs: dict[str, Job] = {}
        self._params: dict[int, int] = {}
        self._is_probe: set[int] = set()
        self._num_left = problem.max_trials

    def next_job(self) -> Job | None:
        promoted = self._halving.next_promotion() if self._halving else None
        if promoted is not None:
            assert self._halving is not None
            job = self._jobs[promoted]
            return Job(trial=job.trial, key=job.key, epoch=self._halving.epoch_of(promoted))
        if self._num_left == 0 or (proposal := self._study.ask()) is None:
            return None
        self._num_left -= 1
        job = Job(trial=proposal.number, key=proposal.config.key)
        self._jobs[str(job.trial)] = job
        self._params[job.trial] = proposal.trainable_params
        if proposal.config.is_probe:
            self._is_probe.add(job.trial)
        return job

    def _worth(self, waiting: Sequence[str]) -> Worth | None:
        numbers = [int(trial) for trial in waiting]
        return self._study.worth(numbers, is_new_possible=self._num_left > 0)

    def report(self, job: Job, epoch: int, curve: Curve) -> Decision:
        if self._halving is None or epoch not in self._halving.rungs or job.trial in self._is_probe:
            return Decision.CONTINUE
        self._study.observe(job.trial, _rows(curve, epoch))
        decision = self._halving.report(
            str(job.trial),
            epoch=epoch,
            params=self._params[job.trial],
            top1=curve.top1[epoch - 1],
        )
        if decision is Decision.STOP:
            self._study.tell(self._record(job, curve, epoch, TrialState.STOPPED))
        return decision

    def finish(self, job: Job, curve: Curve) -> None:
        self._study.tell(self._record(job, curve, len(curve.top1), TrialState.COMPLETE))

    def _record(self, job: Job, curve: Curve, epoch: int, state: TrialState) -> TrialRecord:
        rows = _rows(curve, epoch)
        return TrialRecord(
            id=str(job.trial),
            number=job.trial,
            state=state,
            trainable_params=self._params[job.trial],
            top1=rows[-1].top1,
            epochs=epoch,
            curve=rows,
        )


class _Peer:
    """A peer's scheduler, driven as its own backend drives it.

    Configs are drawn at random, as the peers do, but like ours within the budget, and none twice.
    """

    def __init__(self, problem: Problem, seed: int) -> None:
        self._problem = problem
        self._seen: set[str] = set()
        self._rng = random.Random(seed)
        self._trials: list[SimpleNamespace] = []

    def next_job(self) -> Job | None:
        if len(self._trials) == self._problem.max_trials:
            return None
        while len(self._seen) < self._problem.num_configs:
            config = _built(self._problem.space, self._sample())
            if config is None or config.key in self._seen:
                continue
            if self._problem.space.count(config) > self._problem.budget:
                continue
            self._seen.add(config.key)
            number = len(self._trials)
            self._trials.append(SimpleNamespace(trial_id=str(number), config={}))
            self._call("on_trial_add", self._trials[-1])
            return Job(trial=number, key=config.key)
        return None

    def report(self, job: Job, epoch: int, curve: Curve) -> Decision:
        answer = self._call("on_trial_result", self._trials[job.trial], _metrics(curve, epoch))
        return Decision.STOP if answer == "STOP" else Decision.CONTINUE

    def finish(self, job: Job, curve: Curve) -> None:
        metrics = _metrics(curve, len(curve.top1))
        self._call("on_trial_complete", self._trials[job.trial], metrics)

    def _sample(self) -> Mapping[str, Value]:
        return draw(self._problem.space, self._rng)

    def _call(self, name: str, *arguments: Any) -> Any:
        """Call the scheduler."""
        raise NotImplementedError


class SyneTuneMoasha(_Peer):
    """MOASHA of Syne Tune as it is installed: it draws the configs and decides at each epoch."""

    def __init__(self, problem: Problem, *, seed: int, eta: float = 3.0) -> None:
        from syne_tune.config_space import choice  # noqa: PLC0415
        from syne_tune.optimizer.schedulers.multiobjective.moasha import MOASHA  # noqa: PLC0415

        super().__init__(problem, seed)
        np.random.seed(seed)
        space = problem.space
        self._options = {path: list(space.domains[path].members()) for path in space.searched}
        self._scheduler = MOASHA(
            {path: choice(list(range(len(o)))) for path, o in self._options.items()},
            metrics=["error", "log_params"],
            do_minimize=True,
            time_attr="epoch",
            max_t=problem.epochs,
            grace_period=1,
            reduction_factor=eta,
            random_seed=seed,
        )

    def _sample(self) -> Mapping[str, Value]:
        drawn = self._scheduler.suggest().config
        picked = {path: options[drawn[path]] for path, options in self._options.items()}

        def pick(path: str, domain: Domain) -> Value:
            return picked[path] if path in picked else draw_member(domain, self._rng)

        return self._problem.space.walk(pick)

    def _call(self, name: str, *arguments: Any) -> Any:
        return getattr(self._scheduler, name)(*arguments)


class WeightedSumAsha(_Peer):
    """Ray Tune's own ASHA on one number, which is what its users fall back to.

    Half a weight for accuracy and half for decades of parameters, each over its usual range.
    """

    def __init__(self, problem: Problem, *, seed: int, eta: float = 3.0) -> None:
        from ray.tune.schedulers import ASHAScheduler  # noqa: PLC0415

        super().__init__(problem, seed)
        self._scheduler = ASHAScheduler(
            time_attr="epoch",
            metric="score",
            mode="max",
            max_t=problem.epochs + 1,
            grace_period=1,
            reduction_factor=eta,
        )

    def _call(self, name: str, *arguments: Any) -> Any:
        no_controller = None
        return getattr(self._scheduler, name)(no_controller, *arguments)


def _metrics(curve: Curve, epoch: int) -> dict[str, float]:
    top1, decades = curve.top1[epoch - 1], math.log10(curve.params)
    return {
        "epoch": epoch,
        "error": 100.0 - top1,
        "log_params": decades,
        "score": 0.5 * top1 / 100.0 - 0.5 * (decades - 3.0) / 2.0,
    }


def _rows(curve: Curve, epoch: int) -> tuple[EpochRow, ...]:
    return tuple(
        EpochRow(epoch=number, top1=top1, seconds=seconds)
        for number, (top1, seconds) in enumerate(
            zip(curve.top1[:epoch], curve.seconds[:epoch], strict=True), start=1
        )
    )


def _built(space: Space, values: Mapping[str, Value]) -> TrialConfig | None:
    try:
        return space.build(values)
    except NothingToTrain:
        return None
