"""What a search believes of trials that have not come to their end."""

import pytest

from tests.tuning.test_budgeted_study import small_space
from vpetl_ray.results.records import TrialState
from vpetl_ray.tuning.beliefs import NOISE_SD, PRIOR_SD, Belief, Beliefs

SPACE = small_space()
CONFIG = SPACE.build(
    {
        "petl.patt.targets": ("v",),
        "petl.patt.d_bottle": 8,
        "petl.classifier.train": True,
        "training.learning_rate": 1e-2,
    }
)


def beliefs_with(finals: list[tuple[float, float]]) -> Beliefs:
    """Trials of two epochs that were trained to their end: (first epoch, last epoch)."""
    beliefs = Beliefs()
    for number, (early, final) in enumerate(finals):
        beliefs.add(Belief(number=number, config=CONFIG, params=1000, epochs=2))
        beliefs.saw(number, {1: early, 2: final}, seconds=1.0, state=TrialState.COMPLETE)
    return beliefs


def waiting(beliefs: Beliefs, early: float) -> Belief:
    number = len(beliefs)
    beliefs.add(Belief(number=number, config=CONFIG, params=1000, epochs=2))
    return beliefs.saw(number, {1: early}, seconds=0.5)


def test_a_trial_without_an_epoch_has_no_prediction():
    beliefs = Beliefs()
    beliefs.add(belief := Belief(number=0, config=CONFIG, params=1000, epochs=2))
    assert beliefs.predict(belief) is None


def test_a_finished_trial_is_what_it_is():
    beliefs = beliefs_with([(30.0, 64.0)])
    prediction = beliefs.predict(beliefs[0])
    assert (prediction.mean, prediction.sd) == (64.0, NOISE_SD)


def test_an_early_accuracy_is_not_believed_to_be_final():
    beliefs = beliefs_with([(e, e + 20.0) for e in (30.0, 35.0, 40.0, 45.0, 50.0)])
    prediction = beliefs.predict(waiting(beliefs, 42.0))
    assert prediction.mean == pytest.approx(62.0, abs=0.1)
    assert prediction.sd < PRIOR_SD


def test_a_slope_is_learned_where_slow_beginners_catch_up():
    beliefs = beliefs_with([(e, 60.0 + 0.2 * e) for e in range(10, 60, 5)])
    low, high = (beliefs.predict(waiting(beliefs, early)) for early in (10.0, 55.0))
    # 9 points apart in truth, 45 if every trial gained the same; ten trials tell nearly all of it.
    assert 9.0 < high.mean - low.mean < 18.0


def test_nothing_is_believed_to_come_out_above_100_percent():
    beliefs = beliefs_with([(30.0, 70.0)])
    assert beliefs.predict(waiting(beliefs, 90.0)).mean == 100.0


def test_it_is_less_sure_the_less_it_has_seen():
    few, many = beliefs_with([(40.0, 60.0)]), beliefs_with([(40.0 + i, 60.0 + i) for i in range(9)])
    assert few.predict(waiting(few, 40.0)).sd > many.predict(waiting(many, 40.0)).sd > NOISE_SD


def test_a_trial_that_failed_is_not_expected_to_come_to_anything():
    beliefs = beliefs_with([(30.0, 60.0)])
    belief = waiting(beliefs, 40.0)
    assert beliefs.predict(belief) is not None
    beliefs.saw(belief.number, {1: 40.0}, seconds=0.5, state=TrialState.FAILED)
    assert beliefs.predict(belief) is None
