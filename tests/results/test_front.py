import json
import math
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpetl_ray.results.front import (
    dominates,
    front_hypervolume,
    front_of,
    hypervolume,
    knee,
    non_dominated,
    ppt,
    to_costs,
    write_front,
)
from vpetl_ray.results.records import TrialRecord, TrialState, read_trials

# Small integers on purpose: ties and duplicates are where fronts go wrong.
coordinate = st.integers(0, 6).map(float)
points_2d = st.lists(st.tuples(coordinate, coordinate), max_size=14)
points_3d = st.lists(st.tuples(coordinate, coordinate, coordinate), max_size=10)


@given(points=points_2d | points_3d)
def test_survivors_are_exactly_the_points_that_no_other_dominates(points: list[tuple]) -> None:
    expected = [not any(dominates(other, point) for other in points) for point in points]
    assert non_dominated(points).tolist() == expected


@given(points=points_2d, seed=st.integers(0, 99))
def test_survivors_do_not_depend_on_the_order(points: list[tuple], seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(points))
    shuffled = [points[i] for i in order]
    assert non_dominated(shuffled).tolist() == non_dominated(points)[order].tolist()


@given(points=points_2d)
def test_a_front_is_its_own_front(points: list[tuple]) -> None:
    front = np.asarray(points).reshape(-1, 2)[non_dominated(points)]
    assert non_dominated(front).all()


@given(points=points_2d)
def test_hypervolume_counts_the_unit_squares_that_are_dominated(points: list[tuple]) -> None:
    squares = sum(
        any(x <= column and y <= row for x, y in points)
        for column, row in product(range(5), range(5))
    )
    assert hypervolume(points, (5, 5)) == pytest.approx(squares)


@settings(max_examples=10)
@given(seed=st.integers(0, 999))
def test_hypervolume_agrees_with_sampling(seed: int) -> None:
    rng = np.random.default_rng(seed)
    costs_N2, sample_S2 = rng.random((12, 2)), rng.random((20_000, 2))
    hit_S = (costs_N2[:, None] <= sample_S2[None]).all(axis=2).any(axis=0)
    assert hypervolume(costs_N2, (1.0, 1.0)) == pytest.approx(hit_S.mean(), abs=0.02)


@given(points=points_2d, extra=st.tuples(coordinate, coordinate))
def test_one_more_point_never_costs_hypervolume(points: list[tuple], extra: tuple) -> None:
    assert hypervolume([*points, extra], (5, 5)) >= hypervolume(points, (5, 5))


def test_front_hypervolume_counts_points_times_decades() -> None:
    assert front_hypervolume([1000], [80.0], max_params=100_000) == pytest.approx(160.0)
    assert front_hypervolume([0, 10], [50.0, 60.0], max_params=100, min_top1=40.0) == pytest.approx(
        2 * 10 + 1 * 10
    )
    assert front_hypervolume([1000, 5], [80.0, 9.0], max_params=1000, min_top1=10.0) == 0.0
    assert front_hypervolume([], [], max_params=1000) == 0.0


def test_the_knee_is_farthest_above_the_line_between_the_ends() -> None:
    assert knee([1e3, 1e4, 1e5], [50.0, 78.0, 80.0]) == 1
    assert knee([1e5, 1e3, 1e4], [80.0, 50.0, 78.0]) == 2
    assert knee([1e3, 1e4, 1e5], [50.0, 51.0, 80.0]) == 0, "nothing above the line: the cheapest"
    assert knee([1e4, 1e3], [80.0, 50.0]) == 1
    assert knee([500], [70.0]) == 0
    with pytest.raises(ValueError, match="no knee"):
        knee([], [])


def test_ppt_is_the_benchmarks_score() -> None:
    assert ppt(80.0, 0) == 80.0
    assert ppt(80.0, 10_000_000) == pytest.approx(80.0 * math.exp(-math.log10(2.0)))


def test_objectives_that_were_not_measured_are_refused() -> None:
    with pytest.raises(ValueError, match="must be finite"):
        to_costs([[1.0, math.nan]], (False, True))


@st.composite
def record_lists(draw: st.DrawFn) -> list[TrialRecord]:
    return [
        TrialRecord(
            id=f"t{number:04d}",
            number=number,
            state=draw(st.sampled_from(TrialState)),
            trainable_params=draw(st.integers(0, 5)),
            top1=draw(st.none() | st.integers(0, 5).map(float)),
        )
        for number in range(draw(st.integers(0, 12)))
    ]


@given(records=record_lists(), seed=st.integers(0, 99))
def test_the_front_of_records(records: list[TrialRecord], seed: int) -> None:
    front = front_of(records)
    shuffled = [records[i] for i in np.random.default_rng(seed).permutation(len(records))]
    assert front_of(shuffled) == front
    assert front_of(front) == front
    assert all(record.state is TrialState.COMPLETE for record in front)
    counts = [record.trainable_params for record in front]
    accuracies = [record.top1 for record in front]
    assert counts == sorted(set(counts))
    assert accuracies == sorted(set(accuracies))
    for record in front:
        equals = [
            other.number
            for other in records
            if other.state is TrialState.COMPLETE
            and (other.trainable_params, other.top1) == (record.trainable_params, record.top1)
        ]
        assert record.number == min(equals), "of equals the earliest"


def test_a_written_front_reads_as_json_and_as_a_table(tmp_path: Path, make_record) -> None:
    front = [make_record(3, 1000, 60.0, name="linear probe"), make_record(1, 5000, 75.0)]
    write_front(tmp_path, front, columns=[], extra={"name": "demo", "budget": 9000})
    document = json.loads((tmp_path / "front.json").read_text())
    assert (document["name"], document["budget"]) == ("demo", 9000)
    first = document["front"][0]
    assert (first["id"], first["name"], first["top1"]) == ("t0003", "linear probe", 60.0)
    assert first["test_top1"] is None
    assert first["config"]["petl.patt.d_bottle"] == 8
    assert "petl.adapter.d_bottle" not in first["config"], "a choice that does not exist here"
    assert read_trials(tmp_path / "front.parquet") == front


def test_an_empty_front_is_written_too(tmp_path: Path) -> None:
    write_front(tmp_path, [], columns={"petl.patt.d_bottle": int})
    assert json.loads((tmp_path / "front.json").read_text()) == {"front": []}
    assert read_trials(tmp_path / "front.parquet") == []
