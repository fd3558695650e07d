"""What is on the screen while something is trained, in a terminal and without one."""

import io

import pytest
from rich.console import Console

from vpetl_ray.console import SearchDisplay
from vpetl_ray.finetune_display import FinetuneDisplay, seeds_table
from vpetl_ray.results.records import EpochRow, TrialRecord, TrialState


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
