"""Drawn, changed and repaired configs are members of the space, and within the budget."""

import random

import pytest

from vpetl_ray.models.arch import get_arch
from vpetl_ray.tuning.domains import Choice, FloatRange, IntRange, Subset
from vpetl_ray.tuning.drawing import draw, draw_member, draw_neighbour, mutate, repair
from vpetl_ray.tuning.space import NothingToTrain, Space

SPACE = Space(
    arch=get_arch("swin3d_nano"),
    num_classes=12,
    tree={
        "petl.patt.targets": Subset(items=("q", "k", "v")),
        "petl.patt.d_bottle": IntRange(low=2, high=64, log=True),
        "petl.adapter.enabled": Choice(options=(False, True)),
        "petl.adapter.d_bottle": Choice(options=(4, 16, 64)),
        "petl.adapter.stages": Subset(items=(1, 2, 3), min_size=1),
        "petl.classifier.train": Choice(options=(False, True)),
        "training.optimizer": "adamw",
        "training.learning_rate": FloatRange(low=1e-3, high=1e-1, log=True),
        "training.epochs": 2,
        "training.batch_size": 8,
    },
)
DOMAINS = [
    Subset(items=("q", "k", "v"), min_size=1),
    IntRange(low=2, high=64, log=True),
    IntRange(low=4, high=20, step=8),
    FloatRange(low=1e-3, high=1e-1, log=True),
    FloatRange(low=0.0, high=0.5),
    Choice(options=(2, 8, 64)),
    Choice(options=("parallel", "sequential")),
    Choice(options=((1,), (1, 2))),
]


@pytest.mark.parametrize("domain", DOMAINS, ids=str)
def test_members_and_their_neighbours_are_members(domain):
    rng = random.Random(0)
    drawn = [draw_member(domain, rng) for _ in range(200)]
    assert all(domain.contains(value) for value in drawn)
    assert all(domain.contains(draw_neighbour(domain, value, rng)) for value in drawn)
    if domain.size is not None:
        expected = {domain.nearest(member) for member in domain.members()}
        assert len(set(drawn)) >= 0.7 * len(expected), "some members are never drawn"


def test_a_neighbour_of_a_width_is_the_next_width():
    rng = random.Random(0)
    widths = {draw_neighbour(Choice(options=(64, 2, 8)), 8, rng) for _ in range(50)}
    assert widths == {2, 64}
    assert {draw_neighbour(Choice(options=(64, 2, 8)), 2, rng) for _ in range(50)} == {8}


def test_changed_configs_can_be_built_and_differ_in_little():
    rng = random.Random(1)
    changed_to_itself = 0
    for _ in range(200):
        values = draw(SPACE, rng)
        child = mutate(SPACE, values, rng)
        changed = [path for path, value in child.items() if values.get(path, value) != value]
        assert len(changed) <= 2
        changed_to_itself += dict(child) == dict(values)
        try:
            SPACE.build(child)
        except NothingToTrain:
            assert child["petl.classifier.train"] is False
    assert changed_to_itself < 40


@pytest.mark.parametrize("budget", [4_000, 20_000, 60_000])
def test_a_repaired_config_fits_and_keeps_what_and_where(budget):
    rng = random.Random(2)
    repaired = 0
    for _ in range(300):
        values = draw(SPACE, rng)
        try:
            config = SPACE.build(values)
        except NothingToTrain:
            continue
        if SPACE.count(config) <= budget:
            continue
        fitted = repair(SPACE, config.values, budget)
        if fitted is None:
            smallest = {**config.values}
            for path in ("petl.patt.d_bottle", "petl.adapter.d_bottle"):
                if path in smallest:
                    smallest[path] = next(iter(SPACE.domains[path].members()))
            assert SPACE.count(SPACE.build(smallest)) > budget
            continue
        repaired += 1
        assert SPACE.count(fitted) <= budget
        changed = {path for path, value in fitted.values.items() if config.values[path] != value}
        assert changed <= {"petl.patt.d_bottle", "petl.adapter.d_bottle"}
    assert repaired > 10


def test_a_repaired_config_is_as_large_as_the_budget_allows():
    values = {
        "petl.patt.targets": ("q", "k", "v"),
        "petl.patt.d_bottle": 64,
        "petl.adapter.enabled": False,
        "petl.classifier.train": True,
        "training.learning_rate": 1e-2,
    }
    fitted = repair(SPACE, values, 50_000)
    width = fitted.values["petl.patt.d_bottle"]
    assert 2 < width < 64
    wider = SPACE.build({**values, "petl.patt.d_bottle": width + 1})
    assert SPACE.count(fitted) <= 50_000 < SPACE.count(wider)
