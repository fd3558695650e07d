"""Who falls behind, who only seems to, and what is kept of it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vpetl_ray.errors import SearchError, SpecError
from vpetl_ray.results.confirmed import (
    Confirmation,
    Member,
    optimism,
    run_id,
    take_up,
    write_confirmed,
)
from vpetl_ray.results.standings import Scores, Standing, judge, mean_hypervolume, pooled_noise


def scores(name, params, *values):
    return Scores(id=name, trainable_params=params, values=values)


def test_a_member_clearly_beaten_by_a_cheaper_one_is_behind_and_says_by_whom():
    cheap, dear, best = judge(
        [
            scores("a", 100, 80.0, 80.4, 80.2),
            scores("b", 200, 76.0, 76.4, 76.2),
            scores("c", 300, 85.0, 85.4, 85.2),
        ]
    )
    assert cheap.standing is Standing.CONFIRMED
    assert (dear.standing, dear.beaten_by) == (Standing.BEHIND, "a")
    assert dear.gap == pytest.approx(4.0)
    assert dear.noise < dear.gap
    assert best.standing is Standing.CONFIRMED


def test_a_gap_within_the_seeds_spread_marks_nobody():
    _, dear = judge([scores("a", 100, 80.0, 82.0, 84.0), scores("b", 200, 79.0, 81.0, 83.0)])
    assert dear.standing is Standing.LEVEL
    assert dear.noise > dear.gap == pytest.approx(1.0)


def test_a_dearer_member_never_beats_and_of_equal_price_the_better_does():
    first, second = judge([scores("a", 100, 70.0, 70.1), scores("b", 100, 80.0, 80.1)])
    assert (first.standing, second.standing) == (Standing.BEHIND, Standing.CONFIRMED)
    cheap, _ = judge([scores("a", 100, 70.0, 70.1), scores("b", 101, 80.0, 80.1)])
    assert cheap.standing is Standing.CONFIRMED


def test_one_seed_each_says_nothing_about_noise():
    _, dear = judge([scores("a", 100, 80.0), scores("b", 200, 40.0)])
    assert (dear.standing, dear.noise) == (Standing.LEVEL, None)
    assert pooled_noise([scores("a", 100, 80.0)]).sd is None


def test_of_equal_members_hardly_one_search_in_ten_marks_any():
    rng = np.random.default_rng(0)
    marked = behind = 0
    for _ in range(150):
        members = [scores(str(i), i, *rng.normal(80, 1, 3)) for i in range(8)]
        standings = [verdict.standing for verdict in judge(members)]
        behind += standings.count(Standing.BEHIND)
        marked += Standing.BEHIND in standings
    assert behind / (150 * 8) < 0.05
    assert marked / 150 < 0.3


def member(name, params, search_top1, **changes):
    return Member(
        id=name, name=None, trainable_params=params, config={"petl.adapter.d_bottle": params},
        search_top1=search_top1, search_test_top1=None, **changes,
    )  # fmt: skip


@pytest.fixture
def known(make_record):
    confirmation = Confirmation(
        name="demo", backbone="swin3d_nano", max_params=10_000, search_seed=0,
        overrides=("training.epochs=8",), num_test_clips=960,
        members=(member("t0001", 100, 72.0), member("t0002", 1000, 82.0)),
    )  # fmt: skip
    values = {("t0001", 1): 70.0, ("t0001", 2): 71.0, ("t0002", 1): 79.0}
    for (name, seed), top1 in values.items():
        record = make_record(
            0,
            id=run_id(name, seed),
            top1=top1,
            test_top1=top1 - 1,
            config={"seed": seed},
            group=None,
        )
        confirmation = confirmation.with_record(name, seed, record)
    return confirmation


def test_what_is_kept_is_taken_up_again_with_seeds_members_and_figures(known, tmp_path: Path):
    write_confirmed(tmp_path, known)
    written = json.loads((tmp_path / "confirmed.json").read_text())
    first = written["members"][0]
    assert first["mean"] == {"val_top1": 70.5, "test_top1": 69.5}
    assert first["sd"]["test_top1"] == pytest.approx(0.5**0.5)
    assert first["standing"] == "confirmed"
    assert written["hypervolume"] == pytest.approx(2 * 69.5 + 1 * (78.0 - 69.5))
    fresh = replace(known, members=(member("t0002", 1000, 82.0), member("t0009", 5000, 90.0)))
    again = take_up(tmp_path, fresh)
    assert [m.id for m in again.members] == ["t0001", "t0002", "t0009"]
    assert {m.id: sorted(m.seeds) for m in again.members} == {
        "t0001": [1, 2], "t0002": [1], "t0009": [],
    }  # fmt: skip
    assert again.members[0].scores == known.members[0].scores
    assert again.members[0].seeds[1].curve == known.members[0].seeds[1].curve


def test_other_settings_are_not_mixed_with_what_is_kept(known, tmp_path: Path):
    write_confirmed(tmp_path, known)
    with pytest.raises(SpecError, match=r"was made with training.epochs=8, now it is none"):
        take_up(tmp_path, replace(known, overrides=()))
    (tmp_path / "confirmed.json").write_text("{}")
    with pytest.raises(SearchError, match=r"cannot be read as confirmed\.json"):
        take_up(tmp_path, known)


def test_the_luck_of_the_chosen_is_said(known):
    assert optimism(known.members) == pytest.approx(((72.0 - 70.5) + (82.0 - 79.0)) / 2)
    assert optimism([member("t0009", 1, 50.0)]) is None
    assert mean_hypervolume([], max_params=100) == 0.0
