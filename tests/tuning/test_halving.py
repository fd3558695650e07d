from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpetl_ray.results.front import dominates
from vpetl_ray.tuning.halving import Decision, Halving, Worth

Trial = tuple[str, int, float]


def report(halving: Halving, trials: Sequence[Trial], epoch: int = 1) -> list[Decision]:
    return [
        halving.report(name, epoch=epoch, params=params, top1=top1) for name, params, top1 in trials
    ]


def promotions(halving: Halving) -> list[str]:
    names = []
    while (name := halving.next_promotion()) is not None:
        names.append(name)
    return names


trials = st.lists(
    st.tuples(st.integers(1, 5).map(lambda n: 10**n), st.integers(0, 8).map(float)), max_size=25
).map(lambda pairs: [(f"t{i}", params, top1) for i, (params, top1) in enumerate(pairs)])


def test_between_rungs_a_trial_goes_on():
    halving = Halving([2, 6])
    assert report(halving, [("a", 100, 50.0)], epoch=1) == [Decision.CONTINUE]
    assert report(halving, [("a", 100, 50.0)], epoch=7) == [Decision.CONTINUE]


def test_promotion_takes_the_best_third_when_it_is_there():
    halving = Halving([1, 3], eta=3)
    assert set(report(halving, [("a", 100, 10.0), ("b", 100, 30.0)])) == {Decision.PAUSE}
    assert promotions(halving) == []
    report(halving, [("c", 100, 20.0)])
    assert promotions(halving) == ["b"]
    report(halving, [("d", 100, 40.0), ("e", 100, 5.0), ("f", 100, 4.0)])
    assert promotions(halving) == ["d"]


def test_the_highest_rung_is_promoted_first():
    halving = Halving([1, 3], eta=2)
    report(halving, [("a", 100, 10.0), ("b", 100, 30.0), ("c", 100, 29.0), ("d", 100, 1.0)])
    assert halving.next_promotion() == "b"
    assert halving.next_promotion() == "c"
    report(halving, [("b", 100, 35.0), ("c", 100, 36.0)], epoch=3)
    report(halving, [("e", 100, 50.0), ("f", 100, 51.0)])
    assert halving.next_promotion() == "c"


def test_a_cheap_trial_is_not_beaten_by_better_ones_that_cost_more():
    halving = Halving([1], eta=2)
    report(halving, [("cheap", 10, 20.0), ("dear", 10_000, 60.0), ("beaten", 10_000, 59.0)])
    report(halving, [("also beaten", 10, 19.0)])
    assert set(promotions(halving)) == {"cheap", "dear"}


@given(trials=trials, eta=st.sampled_from([2.0, 3.0]))
def test_nothing_is_promoted_while_what_beats_it_waits(trials: list[Trial], eta: float):
    halving = Halving([1], eta=eta)
    report(halving, trials)
    promoted = promotions(halving)
    assert len(promoted) == int(len(trials) / eta)
    cost = {name: (params, -top1) for name, params, top1 in trials}
    waiting = cost.keys() - set(promoted)
    assert not any(dominates(cost[w], cost[p]) for w in waiting for p in promoted)


@given(trials=trials)
def test_stopping_never_stops_all_and_keeps_what_nothing_beats_when_it_is_alone(
    trials: list[Trial],
):
    halving = Halving([1], eta=3, variant="stopping")
    decisions = report(halving, trials)
    assert not trials or decisions[0] is Decision.CONTINUE
    assert Decision.PAUSE not in decisions


def test_stopping_ends_a_trial_that_is_beaten_at_its_rung():
    halving = Halving([1], eta=2, variant="stopping")
    assert report(halving, [("a", 100, 50.0), ("b", 100, 40.0)]) == [
        Decision.CONTINUE,
        Decision.STOP,
    ]
    # Of three trials one goes on: neither beats the other, and the net begins with the cheapest.
    assert report(halving, [("c", 10, 10.0), ("d", 100, 49.0)]) == [
        Decision.CONTINUE,
        Decision.STOP,
    ]


def test_stopping_leaves_nothing_to_promote():
    halving = Halving([1], eta=2, variant="stopping")
    report(halving, [("a", 100, 50.0), ("b", 100, 40.0), ("c", 100, 60.0), ("d", 10, 10.0)])
    assert halving.next_promotion() is None


def test_a_trial_that_reports_a_rung_again_keeps_its_place():
    halving = Halving([1], eta=2)
    report(halving, [("a", 100, 50.0), ("b", 100, 40.0)])
    assert promotions(halving) == ["a"]
    assert report(halving, [("a", 100, 50.0)]) == [Decision.CONTINUE]
    assert report(halving, [("b", 100, 99.0)]) == [Decision.PAUSE]
    assert promotions(halving) == []


def test_a_failed_trial_beats_nothing():
    halving = Halving([1], eta=2)
    report(halving, [("a", 100, 50.0), ("b", 100, 40.0), ("c", 100, 30.0)])
    halving.remove("a")
    assert promotions(halving) == ["b"]


@given(trials=trials)
def test_a_search_that_goes_on_promotes_what_it_would_have(trials: list[Trial]):
    halving, other = Halving([1, 3], eta=2), Halving([1, 3], eta=2)
    report(halving, trials)
    first = [halving.next_promotion() for _ in range(len(trials) // 4)]
    for name, params, top1 in trials:
        if name in first:
            other.restore(name, params, {1: top1, 2: top1})
        else:
            report(other, [(name, params, top1)])
    assert promotions(other) == promotions(halving)


@pytest.mark.parametrize("rungs", [[3, 1], [0, 1], [2, 2]])
def test_rungs_must_ascend_from_one(rungs):
    with pytest.raises(ValueError, match="ascending epochs"):
        Halving(rungs)


def test_a_trial_that_is_best_in_a_further_objective_is_among_the_best():
    halving = Halving([1], eta=2)
    for name, params, top1, latency in [
        ("cheap", 10, 60.0, 2.0),
        ("beaten", 100, 50.0, 3.0),
        ("fast", 200, 40.0, 1.0),
        ("beaten twice", 300, 30.0, 3.0),
    ]:
        halving.report(name, epoch=1, params=params, top1=top1, costs=(latency,))
    assert sorted(promotions(halving)) == ["cheap", "fast"]


def test_further_objectives_are_restored_by_epoch():
    halving = Halving([1, 3])
    halving.restore("a", 10, {1: 20.0, 2: 30.0}, {1: (5.0,), 2: (10.0,)})
    assert [entry.costs for entry in halving.entries()[1]] == [(5.0,)]


def judged(halving: Halving, gains: dict[str, float], of_new: float | None) -> Halving:
    """Let trials be worth what `gains` says."""
    halving.judge = lambda waiting: Worth(
        of_waiting=[gains[trial] for trial in waiting], of_new=of_new
    )
    return halving


FOUR = [("a", 100, 10.0), ("b", 100, 30.0), ("c", 100, 20.0), ("d", 100, 15.0)]
GAINS = {"a": 3.0, "b": 1.0, "c": 2.0, "d": 0.5}


def test_by_gain_the_most_worthy_goes_on_and_not_the_best_by_now():
    halving = judged(Halving([1], eta=2), GAINS, of_new=0.1)
    report(halving, FOUR)
    assert promotions(halving) == ["a", "c"], "no more than half of the rung"


def test_by_gain_nothing_goes_on_while_a_new_trial_is_worth_more():
    halving = judged(Halving([1], eta=1.01), GAINS, of_new=1.5)
    report(halving, FOUR)
    assert promotions(halving) == ["a", "c"]
    assert promotions(judged(halving, GAINS, of_new=None)) == ["b"], "nothing new will come"


def test_by_rank_nobody_is_asked_what_trials_are_worth():
    halving = judged(Halving([1], eta=2, promote="rank"), GAINS, of_new=9.0)
    report(halving, FOUR)
    assert promotions(halving)[0] == "b"


def test_where_too_little_is_known_it_goes_by_rank():
    halving = Halving([1], eta=2)
    report(halving, FOUR)
    assert promotions(halving)[0] == "b"
