import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpetl_ray.results.front import dominates, non_dominated
from vpetl_ray.results.ranking import SPREADS, Ranking, dominance_ranks, first_of_two, ranking

coordinate = st.integers(0, 6).map(float)
points_2d = st.lists(st.tuples(coordinate, coordinate), max_size=20)
points_3d = st.lists(st.tuples(coordinate, coordinate, coordinate), max_size=12)
every_spread = pytest.mark.parametrize("spread", sorted(SPREADS))


@given(points=points_2d | points_3d)
def test_a_rank_is_the_longest_chain_of_points_that_dominate_each_other(points: list) -> None:
    def chain(point: tuple) -> int:
        return max((1 + chain(p) for p in points if dominates(p, point)), default=0)

    assert dominance_ranks(points).tolist() == [chain(point) for point in points]


@given(points=points_2d, num=st.integers(1, 25))
def test_the_first_of_two_objectives_are_those_of_the_lowest_ranks(points: list, num: int) -> None:
    by_rank = np.argsort(dominance_ranks(points), kind="stable")
    first = first_of_two(np.array(points, dtype=float).reshape(-1, 2), num)
    assert first.tolist() == by_rank[:num].tolist()


@every_spread
@given(points=points_2d)
def test_a_ranking_names_everything_once_front_after_front(spread: str, points: list) -> None:
    order = ranking(points, spread)
    assert sorted(order) == list(range(len(points)))
    ranks = dominance_ranks(points)[order] if points else np.array([])
    assert (np.diff(ranks) >= 0).all()


@every_spread
@given(points=points_2d, num=st.integers(0, 25))
def test_the_first_of_a_ranking_are_those_of_the_whole(spread: str, points: list, num: int) -> None:
    assert ranking(points, spread, num=num).tolist() == ranking(points, spread)[:num].tolist()


@every_spread
@given(points=points_2d | points_3d, num=st.integers(0, 25), data=st.data())
def test_the_first_wanted_is_the_one_that_the_whole_ranking_names_first(
    spread: str, points: list, num: int, data: st.DataObject
) -> None:
    wanted = data.draw(st.lists(st.booleans(), min_size=len(points), max_size=len(points)))
    named = [index for index in ranking(points, spread)[:num] if wanted[index]]
    found = Ranking(points, spread).first_wanted(np.array(wanted, dtype=bool), num)
    assert found == next(iter(named), None)


@every_spread
@given(points=points_2d, factor=st.sampled_from([2.0, 1e3]), shift=st.integers(-5, 5))
def test_units_do_not_matter(spread: str, points: list, factor: float, shift: int) -> None:
    scaled = [(x * factor, y + shift) for x, y in points]
    assert ranking(scaled, spread).tolist() == ranking(points, spread).tolist()


@every_spread
def test_of_a_front_the_ends_come_before_what_stands_beside_them(spread: str) -> None:
    # A front whose members crowd at the cheap end: 0, 1, 2 beside each other, 5 in the middle, 10.
    front = [(float(x), 10.0 - x) for x in (1, 0, 2, 10, 5)]
    assert non_dominated(front).all()
    assert set(ranking(front, spread, num=2).tolist()) == {1, 3}
    assert ranking(front, spread)[2] == 4


def test_an_epsilon_net_covers_better_than_the_same_number_taken_in_order() -> None:
    rng = np.random.default_rng(0)
    x = np.sort(np.concatenate([rng.uniform(0, 0.2, 40), rng.uniform(0.2, 1, 10)]))
    front = np.column_stack([x, 1 - x])
    chosen = front[ranking(front, "epsilon_net", num=6)]
    farthest = np.min(np.linalg.norm(front[:, None] - chosen[None], axis=2), axis=1).max()
    first = np.min(np.linalg.norm(front[:, None] - front[None, :6], axis=2), axis=1).max()
    assert farthest < 0.2 < first
