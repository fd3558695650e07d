import json
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from vpetl_ray.front_table import front_table
from vpetl_ray.results.front import (
    front_hypervolume,
    front_of,
    hypervolume,
    knee_of,
    volume_of,
    write_front,
)
from vpetl_ray.results.labels import cost_label
from vpetl_ray.results.objective_figure import plot_objectives
from vpetl_ray.results.objectives import COSTS, Known, costs_of, references
from vpetl_ray.results.records import TrialRecord, TrialState, read_trials, write_trials
from vpetl_ray.results.summary import search_markdown

NAMES = ("adapter_bytes", "latency_ms")
coordinate = st.integers(0, 3)


@pytest.fixture
def records(make_record: Callable[..., TrialRecord]) -> list[TrialRecord]:
    def make(number: int, params: int, top1: float, latency: float) -> TrialRecord:
        costs = {"adapter_bytes": 4 * params, "latency_ms": latency}
        return make_record(number, params=params, top1=top1, costs=costs)

    return [
        make(0, 1_000, 60.0, 3.0),
        make(1, 2_000, 59.0, 2.0),  # beaten in two objectives, the fastest of all
        make(2, 4_000, 80.0, 4.0),
        make(3, 9_000, 81.0, 5.0),
        make(4, 9_500, 80.5, 5.0),  # beaten in all
    ]


def test_front_is_of_all_objectives_that_the_records_have(records: list[TrialRecord]) -> None:
    assert [record.number for record in front_of(records)] == [0, 1, 2, 3]
    assert [record.number for record in front_of(records, costs=())] == [0, 2, 3]
    unmeasured = replace(records[1], number=5, id="t0005", costs={"adapter_bytes": 1})
    assert front_of([*records, unmeasured]) == front_of(records)


def test_knee_is_that_of_parameters_and_accuracy(records: list[TrialRecord]) -> None:
    bend = knee_of(front_of(records))
    assert bend is not None
    assert bend.number == 2
    assert knee_of([]) is None


@settings(deadline=None)  # the first one imports moocore
@given(points=st.lists(st.tuples(coordinate, coordinate, coordinate), max_size=6))
def test_volume_counts_the_unit_cubes_that_are_dominated(points: list[tuple]) -> None:
    cubes = sum(
        any(all(a <= b for a, b in zip(point, cube, strict=True)) for point in points)
        for cube in product(range(3), repeat=3)
    )
    assert hypervolume(points, (3, 3, 3)) == pytest.approx(cubes)


def test_volume_of_seven_objectives_agrees_with_sampling() -> None:
    rng = np.random.default_rng(0)
    costs_NM, sample_SM = rng.random((30, 7)) ** 3, rng.random((20_000, 7))
    hit_S = (costs_NM[:, None] <= sample_SM[None]).all(axis=2).any(axis=0)
    assert hypervolume(costs_NM, np.ones(7)) == pytest.approx(hit_S.mean(), abs=0.02)


def test_volume_of_a_front_is_in_points_times_decades(records: list[TrialRecord]) -> None:
    one = [replace(records[0], costs={"latency_ms": 10.0})]
    assert volume_of(one, max_params=10_000, references={"latency_ms": 1e4}) == pytest.approx(
        60.0 * 1 * 3
    )
    assert volume_of([], max_params=10_000, references={"latency_ms": 1e4}) == 0.0
    params, top1 = zip(*((r.trainable_params, r.top1) for r in records), strict=True)
    assert volume_of(records, max_params=1e6, references={}) == front_hypervolume(
        params, top1, max_params=1e6
    )


def test_objectives_are_columns_in_all_tables_and_come_back(
    tmp_path: Path, records: list[TrialRecord], make_record: Callable[..., TrialRecord]
) -> None:
    infeasible = make_record(
        5, state=TrialState.INFEASIBLE, top1=None, costs={"adapter_bytes": 9_000_000}
    )
    path = tmp_path / "trials.parquet"
    write_trials(path, [*records, infeasible], [], costs=NAMES)
    table = pq.read_table(path)
    assert table.column("latency_ms").to_pylist() == [3.0, 2.0, 4.0, 5.0, 5.0, None]
    assert table.column("adapter_bytes").to_pylist()[-1] == 9_000_000
    assert read_trials(path) == [*records, infeasible]
    write_front(tmp_path, front_of(records), columns=[], costs=NAMES)
    entries = json.loads((tmp_path / "front.json").read_text())["front"]
    assert entries[1]["latency_ms"] == 2.0
    assert entries[1]["adapter_bytes"] == 8000


def test_without_further_objectives_nothing_is_written_about_them(
    tmp_path: Path, make_record: Callable[..., TrialRecord]
) -> None:
    record = make_record(0)
    assert "costs" not in record.to_dict()
    write_trials(tmp_path / "trials.parquet", [record], [])
    assert not set(COSTS) & set(pq.read_table(tmp_path / "trials.parquet").column_names)
    assert TrialRecord.from_dict(record.to_dict()) == record
    measured = replace(record, costs={"latency_ms": 2.5, "peak_memory_mb": float("nan")})
    assert TrialRecord.from_dict(measured.to_dict()).costs == {"latency_ms": 2.5}


def test_people_see_every_objective(records: list[TrialRecord], tmp_path: Path) -> None:
    console = Console(width=100, record=True, file=(tmp_path / "out").open("w"))
    console.print(front_table(front_of(records)))
    shown = console.export_text()
    assert "bytes" in shown.splitlines()[0]
    assert [line.split()[-4:-2] for line in shown.splitlines()[1:3]] == [["4k", "3"], ["8k", "2"]]
    note = search_markdown("Intro.", records, front_of(records))
    assert "| adapter_bytes | latency_ms |" in note
    assert "knee **t0002**" in note
    assert "best **t0003**" in note


@pytest.mark.parametrize("count", [0, 1, 5])
def test_every_objective_has_a_panel(
    records: list[TrialRecord], tmp_path: Path, count: int
) -> None:
    plot_objectives(records[:count], NAMES, tmp_path / "objectives.svg", title="demo")
    text = (tmp_path / "objectives.svg").read_text()
    assert text.count('<g id="axes_') == len(NAMES)


def test_names_say_when_they_are_known() -> None:
    names = ("top1", "trainable_params", "forward_flops", "train_seconds", "latency_ms")
    assert costs_of(names) == ("forward_flops", "train_seconds", "latency_ms")
    assert costs_of(names, Known.MEASURED) == ("latency_ms",)
    ends = references(costs_of(names), backbone_params=100, backbone_flops=7)
    assert ends == {"forward_flops": 70.0, "train_seconds": 1e6, "latency_ms": 6e4}


def test_costs_are_short_where_they_are_shown() -> None:
    assert cost_label("forward_flops", 47_975_424) == "47.98M"
    assert cost_label("latency_ms", 3.14159) == "3.14"
    assert cost_label("latency_ms", None) == "-"
