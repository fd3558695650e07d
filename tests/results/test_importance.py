"""What mattered: on spaces whose answer is known."""

import json
import math
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpetl_ray.models.arch import get_arch
from vpetl_ray.results.choices import choice_table
from vpetl_ray.results.front import front_hypervolume
from vpetl_ray.results.hypervolume_share import hypervolume_shares
from vpetl_ray.results.importance import importances, trials_needed
from vpetl_ray.results.position_table import position_table
from vpetl_ray.results.records import TrialRecord, TrialState
from vpetl_ray.results.report import write_report
from vpetl_ray.results.same_length import same_length

MAX_PARAMS = 576_676
points = st.lists(st.tuples(st.integers(1, 10**6), st.integers(0, 100)), min_size=1, max_size=12)


def trials(count: int, *, seed: int = 0, noise: float = 1.0) -> list[TrialRecord]:
    """Random configs whose accuracy hangs on adapter and learning rate, never on batch size."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        is_on = bool(rng.integers(2))
        width = int(rng.choice([2, 4, 8, 16, 32, 64])) if is_on else None
        stages = str(rng.choice(["1", "2", "3", "1+2", "1+3", "2+3", "1+2+3"])) if is_on else None
        rate = float(10 ** rng.uniform(-3, -1))
        top1 = 60.0 - 20.0 * (math.log10(rate) + 2) ** 2 + rng.normal(0, noise)
        top1 += 3.0 * math.log2(width) + 6.0 * ("3" in str(stages)) if width else 0.0
        config = {
            "petl.adapter.enabled": is_on,
            "petl.adapter.d_bottle": width,
            "petl.adapter.stages": stages,
            "petl.adapter.placement": "parallel" if is_on else None,
            "petl.classifier.train": True,
            "training.learning_rate": rate,
            "training.batch_size": int(rng.choice([8, 16])),
        }
        params = 1500 + 900 * (width or 0)
        made.append(
            TrialRecord(
                id=f"t{number:04d}", number=number, state=TrialState.COMPLETE, config=config,
                trainable_params=params, top1=top1, epochs=4, seconds=10.0,
            )
        )  # fmt: skip
    return made


def found_in(records):
    sample = same_length(records, least=20)
    found = importances(sample, choice_table(sample.records), max_params=MAX_PARAMS)
    return {o.objective: ({c.name: c for c in o.choices}, o) for o in found}


@given(given_points=points)
def test_shares_sum_up_to_the_hypervolume_and_equals_share_alike(given_points):
    params, top1 = zip(*given_points, strict=True)
    shares = hypervolume_shares(params, top1, max_params=MAX_PARAMS)
    whole = front_hypervolume(params, top1, max_params=MAX_PARAMS)
    assert shares.sum() == pytest.approx(whole, abs=1e-9)
    assert (shares >= 0).all()
    by_point = {}
    for point, share in zip(given_points, shares, strict=True):
        assert by_point.setdefault(point, share) == pytest.approx(share)


def test_a_dominated_trial_has_a_share_and_what_dominates_it_a_larger_one():
    cheap, dear = hypervolume_shares([100, 1000], [50.0, 50.0], max_params=10_000)
    assert dear == pytest.approx(50.0 / 2)
    assert cheap == pytest.approx(50.0 / 2 + 50.0)


def test_what_matters_is_found_and_what_does_not_is_near_zero():
    found = found_in(trials(250))
    accuracy, whole = found["top1"]
    order = [choice.name for choice in whole.choices]
    assert order[0] == "adapter on or off"
    assert whole.is_trusted
    assert accuracy["batch_size"].share < 0.02
    assert accuracy["learning_rate"].share > 0.05
    assert accuracy["adapter d_bottle"].active == pytest.approx(0.5, abs=0.1)
    assert accuracy["learning_rate"].active == 1.0
    assert "adapter placement" not in accuracy, "the same wherever it exists: no choice"
    params, exact = found["log10_params"]
    assert exact.explained > 0.95
    assert params["learning_rate"].share < 0.02
    assert params["adapter on or off"].share > 0.8


def test_importances_are_near_the_indices_of_the_true_function():
    """Analytic: variance of each part, when exchanged among those that have it, over the whole."""
    accuracy, _ = found_in(trials(1200, noise=0.0))["top1"]
    every = np.array([r.top1 for r in trials(20_000, noise=0.0)])
    rate = -20.0 * np.random.default_rng(1).uniform(-1, 1, 9999) ** 2
    assert accuracy["learning_rate"].share == pytest.approx(rate.var() / every.var(), abs=0.06)
    widths = np.var(3.0 * np.arange(1, 7))
    assert accuracy["adapter d_bottle"].share == pytest.approx(0.5 * widths / every.var(), abs=0.06)


def test_two_thousand_trials_take_seconds():
    began = time.process_time()
    assert found_in(trials(2000))["top1"][1].explained > 0.8
    assert time.process_time() - began < 12, "of the processor: about 2 s where this was written"


def curved(make_record, number, state, accuracies):
    from vpetl_ray.results.records import EpochRow  # noqa: PLC0415

    curve = tuple(EpochRow(epoch=e, top1=t) for e, t in enumerate(accuracies, start=1))
    return make_record(
        number, state=state, top1=accuracies[-1], epochs=len(accuracies), curve=curve
    )


def test_an_early_accuracy_is_never_compared_with_a_final_one(make_record):
    stopped = [
        curved(make_record, n, TrialState.STOPPED, [10.0 + n, 20.0 + n][: 1 + n % 2])
        for n in range(30)
    ]
    complete = [
        curved(make_record, 30 + n, TrialState.COMPLETE, [30.0, 40.0, 50.0, 60.0 + n])
        for n in range(8)
    ]
    sample = same_length([*stopped, *complete], least=20)
    assert sample.epoch == 2
    assert len(sample.records) == 15 + 8
    by_number = dict(zip((r.number for r in sample.records), sample.top1, strict=True))
    assert by_number[31] == 40.0
    assert by_number[1] == 21.0
    assert "after epoch 2" in sample.sentence
    assert same_length(complete, least=20).top1[1] == 61.0, "without stopped ones, at their end"


def test_positions_are_those_where_a_method_acts():
    arch = get_arch("swin3d_nano")  # three stages of two blocks
    configs = [
        {"petl.patt.targets": "kv", "petl.patt.stages": "1+3", "petl.patt.d_bottle": 4},
        {"petl.patt.targets": "none", "petl.patt.stages": "1", "petl.adapter.d_bottle": 8},
        {"petl.adapter.d_bottle.stage1": None, "petl.adapter.d_bottle.stage2": 4},
        {"petl.adapter.blocks": "1+6", "petl.adapter.d_bottle": 4},
        {"petl.position.kinds": "norm1+qkv", "petl.position.stages": "2"},
        {"petl.classifier.train": True},
    ]
    records = [
        TrialRecord(
            id=f"t{n}", number=n, state=TrialState.COMPLETE, trainable_params=1, config=config
        )
        for n, config in enumerate(configs)
    ]
    cells = position_table(records, [10.0, 20.0, 30.0, 40.0, 50.0, 60.0], arch)
    seen = {(cell.place, cell.stage): (cell.num_trials, cell.best, cell.mean) for cell in cells}
    assert seen == {
        ("patt k", 1): (1, 10.0, 10.0), ("patt k", 3): (1, 10.0, 10.0),
        ("patt v", 1): (1, 10.0, 10.0), ("patt v", 3): (1, 10.0, 10.0),
        ("adapter", 1): (2, 40.0, 30.0), ("adapter", 2): (2, 30.0, 25.0),
        ("adapter", 3): (2, 40.0, 30.0),
        ("position norm1", 2): (1, 50.0, 50.0), ("position qkv", 2): (1, 50.0, 50.0),
    }  # fmt: skip


@pytest.mark.parametrize("count", [0, 1, 12, 40])
def test_a_report_says_what_it_found_or_what_it_lacks(tmp_path: Path, count):
    report = write_report(
        tmp_path, trials(count), name="demo", arch=get_arch("swin3d_nano"), max_params=MAX_PARAMS
    )
    written = json.loads((tmp_path / "importance.json").read_text())
    assert all(path.is_file() for path in report.files)
    if count < 40:
        assert written["objectives"] == {}
        assert written["missing_because"] in report.lines[0]
        assert not (tmp_path / "importance.png").exists()
    if count == 12:
        assert (
            f"5 choices need {trials_needed(5)} trials to be compared, there are 12"
            in (report.lines[0])
        )
    if count == 40:
        assert "what mattered for accuracy: adapter on or off" in report.lines[0]
        assert len(report.markdown) < 900, "it shares a tag of 5000 characters with the front"
        [width] = [c for c in written["objectives"]["top1"]["choices"] if "d_bottle" in c["choice"]]
        assert width["is_conditional"]
        assert (tmp_path / "importance.png").stat().st_size > 10_000
