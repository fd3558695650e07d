"""What Optuna's samplers are told of trials that wait at a rung, and how it is corrected."""

from dataclasses import replace

import pytest

from tests.tuning.test_budgeted_study import open_study, small_space
from vpetl_ray.results.records import EpochRow, TrialRecord, TrialState
from vpetl_ray.tuning.beliefs import Beliefs
from vpetl_ray.tuning.budgeted_study import BudgetedStudy, Proposal
from vpetl_ray.tuning.optuna_sampler import OPTUNA_SAMPLERS, TOLD, OptunaSampler, PerRungSampler


def rows(*top1: float) -> tuple[EpochRow, ...]:
    return tuple(EpochRow(epoch=i, top1=value) for i, value in enumerate(top1, start=1))


def complete(proposal: Proposal, *top1: float) -> TrialRecord:
    return TrialRecord(
        id=proposal.id,
        number=proposal.number,
        state=TrialState.COMPLETE,
        trainable_params=proposal.trainable_params,
        top1=top1[-1],
        epochs=len(top1),
        curve=rows(*top1),
    )


def study_with(told: str) -> tuple[BudgetedStudy, OptunaSampler]:
    made: list[OptunaSampler] = []

    def make(seed: int, beliefs: Beliefs) -> OptunaSampler:
        sampler = OptunaSampler(
            OPTUNA_SAMPLERS["random"], space=small_space(), seed=seed, beliefs=beliefs, told=told
        )
        made.append(sampler)
        return sampler

    study = open_study(None, sampler=make)
    return study, made[0]


def values_of(sampler: OptunaSampler, proposal: Proposal) -> float | None:
    trial = sampler._study.get_trials(deepcopy=False)[sampler._numbers[proposal.number]]
    return trial.values[0] if trial.values else None


@pytest.mark.parametrize(
    ("told", "expected"), [("rung", 30.0), ("extrapolated", 50.0), ("pruned", None)]
)
def test_a_waiting_trial_is_told_in_the_way_that_is_chosen(told, expected):
    study, sampler = study_with(told)
    for early in (30.0, 32.0, 34.0, 36.0):
        proposal = study.ask()
        study.tell(complete(proposal, early, early + 20.0))
    waiting = study.ask()
    study.observe(waiting.number, rows(30.0))
    assert values_of(sampler, waiting) == pytest.approx(expected, abs=1.0)


@pytest.mark.parametrize("told", [t for t in TOLD if t != "per_rung"])
def test_its_value_is_corrected_when_it_comes_to_its_end(told):
    study, sampler = study_with(told)
    proposal = study.ask()
    study.observe(proposal.number, rows(30.0))
    study.tell(complete(proposal, 30.0, 61.0))
    assert values_of(sampler, proposal) == 61.0


def test_per_rung_never_mixes_epochs_and_asks_the_highest_that_knows_enough():
    made: list[PerRungSampler] = []

    def make(seed: int, beliefs: Beliefs) -> PerRungSampler:
        made.append(
            PerRungSampler(OPTUNA_SAMPLERS["tpe"], space=small_space(), seed=seed, beliefs=beliefs)
        )
        return made[0]

    study = open_study(None, sampler=make)
    for number in range(12):
        proposal = study.ask()
        study.observe(proposal.number, rows(30.0 + number))
        if number < 2:
            study.tell(complete(proposal, 30.0 + number, 70.0))
    models = made[0]._models
    assert {epoch: model.num_told for epoch, model in models.items()} == {1: 12, 2: 2}
    assert study.ask() is not None
    assert made[0]._proposing is models[1], "two trials at the last epoch are not enough"


def test_a_reopened_study_teaches_its_sampler_what_it_knew(tmp_path):
    path = tmp_path / "study.db"
    study = open_study(path, sampler="ehvi")
    done, waiting, lost = study.ask(), study.ask(), study.ask()
    study.tell(complete(done, 30.0, 61.0))
    study.observe(waiting.number, rows(35.0))
    study.keep_curve(waiting.number, rows(35.0))
    again = open_study(path, sampler="ehvi")
    assert again.beliefs[done.number].is_final
    assert again.beliefs[waiting.number].curve == {1: 35.0}
    assert again.beliefs[lost.number].curve == {}
    assert [again.ask().number for _ in range(2)] == [waiting.number, lost.number]


def test_a_trial_that_failed_after_its_first_rung_counts_for_nothing():
    study, sampler = study_with("extrapolated")
    for early in (30.0, 32.0):
        proposal = study.ask()
        study.tell(complete(proposal, early, early + 20.0))
    failed = study.ask()
    study.observe(failed.number, rows(45.0))
    assert values_of(sampler, failed) is not None
    record = replace(complete(failed, 45.0), state=TrialState.FAILED, reason="it diverged")
    study.tell(record)
    states = [trial.state.name for trial in sampler._study.get_trials(deepcopy=False)]
    assert states[sampler._numbers[failed.number]] == "FAIL"
    assert study.ask() is not None
