"""How a front grew."""

from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from vpetl_ray.results.front import front_hypervolume, front_of
from vpetl_ray.results.history import history_of, write_history
from vpetl_ray.results.history_figure import plot_history
from vpetl_ray.results.records import TrialState, read_trials, write_trials

MAX_PARAMS = 1_000_000


@pytest.fixture
def records(make_record):
    ends = [30.0, 10.0, 20.0, 40.0]
    made = [
        make_record(i, params, top1, at_seconds=end, at_epochs=round(end / 2))
        for i, (params, top1, end) in enumerate(
            zip([1000, 5000, 100, 3000], [60.0, 70.0, 40.0, 50.0], ends, strict=True)
        )
    ]
    stopped = make_record(4, 10, 99.0, state=TrialState.STOPPED, at_seconds=25.0, at_epochs=13)
    return [*made, stopped, make_record(5, 9, None, state=TrialState.INFEASIBLE, epochs=0)]


def test_the_hypervolume_grows_in_the_order_of_ends_and_ends_at_the_fronts_own(records):
    history = history_of(records, max_params=MAX_PARAMS)
    assert [row.trial for row in history] == ["t0001", "t0002", "t0004", "t0000", "t0003"]
    areas = [row.hypervolume for row in history]
    assert areas == sorted(areas)
    assert areas[1] == areas[2], "an early accuracy of a stopped trial is none"
    front = front_of(records)
    whole = front_hypervolume(
        [r.trainable_params for r in front], [r.top1 for r in front], max_params=MAX_PARAMS
    )
    assert areas[-1] == pytest.approx(whole)
    assert [row.epochs for row in history] == [5, 10, 13, 15, 20]
    assert history[-1].training_seconds == pytest.approx(5 * 6.0)


def test_records_without_times_are_taken_in_the_order_of_asking(make_record):
    probe = {"petl.patt.targets": None, "petl.classifier.train": True}
    old = [make_record(1, top1=50.0), make_record(0, 1000, 60.0, epochs=100, config=probe)]
    history = history_of(old, max_params=MAX_PARAMS)
    assert [(row.trial, row.epochs, row.seconds) for row in history] == [
        ("t0000", 1, None),
        ("t0001", 4, None),
    ]


def test_a_table_of_an_older_version_has_records_without_times(records, tmp_path: Path):
    path = tmp_path / "trials.parquet"
    write_trials(path, records, [])
    assert read_trials(path)[0].at_seconds == 30.0
    table = pd.read_parquet(path)
    table.drop(columns=["at_seconds", "at_epochs"]).to_parquet(path)
    old = read_trials(path)
    assert [record.id for record in old] == [record.id for record in records]
    assert old[0].at_seconds is None


@pytest.mark.parametrize("count", [0, 1, 6])
def test_any_history_can_be_kept_and_drawn(records, tmp_path: Path, count):
    history = history_of(records[:count], max_params=MAX_PARAMS)
    write_history(tmp_path / "history.parquet", history)
    assert len(pd.read_parquet(tmp_path / "history.parquet")) == len(history)
    plot_history(history, tmp_path / "history.png", title="demo")
    with Image.open(tmp_path / "history.png") as image:
        assert len(image.convert("L").getcolors()) > 20
