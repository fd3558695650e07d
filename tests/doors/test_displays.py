"""What is on the screen while something is trained, in a terminal and without one."""

import dataclasses
import io
from pathlib import Path

import pytest
from rich.console import Console

from vpetl_ray.console import SearchDisplay
from vpetl_ray.exits import say_where
from vpetl_ray.finetune_display import FinetuneDisplay, seeds_table
from vpetl_ray.front_table import front_table, list_table
from vpetl_ray.results.records import EpochRow, TrialRecord, TrialState
from vpetl_ray.results.tracking import TrackingReport


def record(trial_id, number, **values):
    values = {"state": TrialState.COMPLETE, "top1": 80.0, "config": {"seed": number}, **values}
    return TrialRecord(id=trial_id, number=number, trainable_params=1234, **values)


def screen(*, is_terminal):
    return Console(file=io.StringIO(), force_terminal=is_terminal, width=100, height=30)


@pytest.mark.parametrize("is_terminal", [True, False], ids=["terminal", "log"])
def test_a_search_is_shown_from_its_first_stage_to_its_last_trial(is_terminal):
    console = screen(is_terminal=is_terminal)
    with SearchDisplay(console, name="mine") as display:
        display.stage("preparing the clips")
        display.begin([], 1, 2)
        display.on_start("t0000", 1234, None)
        display.on_epoch("t0000", EpochRow(epoch=1, top1=50.0))
        display.on_record(record("t0000", 0))
    text = console.file.getvalue()
    assert "mine" in text
    assert "t0000" in text
    assert "80.0" in text


def test_a_name_that_looks_like_markup_is_shown_as_it_is():
    console = screen(is_terminal=False)
    named = [dataclasses.replace(record("t0000", 0), name="a[/x]")]
    console.print(front_table(named))
    console.print(list_table(named))
    told = TrackingReport(
        delivered=1, undelivered=0, is_complete=True, parent_run_id="1", problem=None,
        ui_command="mlflow ui o[/x]", ui_page="http://h/[/y]",
    )  # fmt: skip
    say_where(console, Path("o[/x]"), told)
    text = console.file.getvalue()
    assert text.count("a[/x]") == 2
    assert "results   o[/x]" in text


COSTS = {
    "forward_flops": 1.2345e9,
    "latency_ms": 12.345,
    "peak_memory_mb": 512.0,
    "adapter_bytes": 161_234,
    "train_seconds": 16.2,
}


@pytest.mark.parametrize("num_costs", [0, 2, 5])
def test_in_80_columns_no_number_is_cut_and_the_live_table_keeps_its_height(num_costs):
    long = {"petl.patt.targets": "qkv", "petl.patt.d_bottle": 16, "petl.adapter.d_bottle": 32}
    long |= {"petl.patt.stages": "1+2+3", "petl.adapter.placement": "sequential"}
    costs = dict(list(COSTS.items())[:num_costs])
    records = [
        record(
            f"t{i:04d}",
            i,
            config=long if i % 2 else {"petl.patt.targets": "k", "petl.patt.d_bottle": 2},
            top1=60.0 + i,
            test_top1=61.0 + i,
            costs=costs,
        )
        for i in range(6)
    ]
    now = [0.0]
    name = "a_search_with_a_name_of_more_than_forty_letters"
    display = SearchDisplay(Console(file=io.StringIO(), width=80), name=name, clock=lambda: now[0])
    display.begin([], 2, 100)
    display.on_start("t0000", 1234, None)
    heights = []
    for number, done in enumerate(records, start=1):
        now[0] = 3.0 * number
        display.on_record(done)
        console = Console(file=io.StringIO(), width=80)
        console.print(display._render())
        lines = console.file.getvalue().splitlines()
        heights.append(len(lines))
    assert max(map(len, lines)) <= 80
    # Equal parameters: only the best is on the front, so each state has one row.
    assert len(set(heights)) == 1
    [row] = [line for line in lines if line.startswith("t0")]
    assert row.split()[0] == "t0005"
    for number in ("1,234", "65.0", "66.0", *(["1.234G", "12.3"] if num_costs else [])):
        assert number in row.split()
    console = Console(file=io.StringIO(), width=80)
    console.print(front_table(records, bend="t0003", width=80))
    text = console.file.getvalue()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    assert ("not shown: bytes, train s, PPT; front.json has all" in text) == (num_costs == 5)


@pytest.mark.parametrize("is_terminal", [True, False], ids=["terminal", "log"])
def test_seeds_are_shown_with_their_epochs_and_results(is_terminal):
    console = screen(is_terminal=is_terminal)
    with FinetuneDisplay(console, name="mine", num_seeds=2) as display:
        display.stage("preparing the clips")
        display.begin(num_epochs=2, num_views=12)
        display.on_start("seed3", 1234, None)
        display.on_start("seed4", 1234, None)
        display.on_epoch("seed3", EpochRow(epoch=1, top1=50.0))
        display.on_record(record("seed3", 0, test_top1=70.5, test_top1_multi_view=71.5))
        display.on_record(record("seed4", 1, state=TrialState.FAILED, reason="it diverged"))
    text = console.file.getvalue()
    assert "val 80.0 %, test 70.5 %, 12 views 71.5 %" in text
    assert "failed: it diverged" in text


def test_the_table_has_means_and_deviations_and_only_what_was_measured():
    records = [
        record("seed0", 0, test_top1=70.0, test_top1_multi_view=72.0),
        record("seed1", 1, test_top1=72.0, test_top1_multi_view=72.0, top1=82.0),
        record("seed2", 2, state=TrialState.FAILED, top1=1.0),
    ]
    console = screen(is_terminal=False)
    console.print(seeds_table(records, num_views=12))
    console.print(seeds_table(records[:1], num_views=1))
    several, single = console.file.getvalue().split("seed ", 2)[1:]
    assert "81.0 ± 1.4" in several
    assert "71.0 ± 1.4" in several
    assert "72.0 ± 0.0" in several
    assert "failed" in several
    assert "views" not in single
    assert "mean" not in single
