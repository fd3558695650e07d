"""Blocks and values of every stage in a file: read, explained, written, searched."""

from pathlib import Path

import optuna
import pytest

from vpetl_ray.petl.count import count_trainable
from vpetl_ray.spec.by_arch import AnyOfAll, PerStage
from vpetl_ray.spec.load import load_spec
from vpetl_ray.tuning.domains import Choice, Fixed, IntRange, Subset
from vpetl_ray.tuning.space_size import smallest_values

optuna.logging.set_verbosity(optuna.logging.ERROR)

LAYERWISE = Path(__file__).parents[2] / "search_spaces" / "layerwise.yaml"
PATT = """\
name: x
petl:
  patt:
    blocks: BLOCKS
    stages: STAGES
    d_bottle: WIDTH
    scale: SCALE
training: {learning_rate: 1e-2, epochs: 2, batch_size: 8}
"""
DEFAULTS = {"BLOCKS": "all", "STAGES": "all", "WIDTH": "4", "SCALE": "0.8"}
WIDTHS = Choice(options=(2, 4))


def patt(**changes):
    text = PATT
    for name, value in (DEFAULTS | changes).items():
        text = text.replace(name, value)
    return text


def domains(spec):
    return {
        path.removeprefix("petl.patt."): domain
        for path, domain in spec.space(12).domains.items()
        if path.startswith("petl.patt.")
    }


def test_all_in_a_subset_is_every_block_or_stage_of_the_backbone(write):
    spec = load_spec(write(patt(BLOCKS="{subset: all, min: 2}")))
    assert spec.petl.patt.blocks == AnyOfAll(min_size=2)
    assert domains(spec)["blocks"] == Subset(items=(1, 2, 3, 4, 5, 6), min_size=2)
    stages = load_spec(write(patt(STAGES="{subset: all}")))
    assert domains(stages)["stages"] == Subset(items=(1, 2, 3))
    swin_b = load_spec(
        write(patt(BLOCKS="{subset: all}") + "backbone: {arch: swin3d_b, weights: w}")
    )
    assert domains(swin_b)["blocks"] == Subset(items=tuple(range(1, 25)))


def test_blocks_that_are_all_are_no_path_of_the_space(write):
    assert "blocks" not in domains(load_spec(write(patt())))


def test_only_blocks_of_the_chosen_stages_are_searched(write):
    spec = load_spec(write(patt(BLOCKS="{subset: all}", STAGES="[2, 3]")))
    assert domains(spec)["blocks"] == Subset(items=(3, 4, 5, 6))
    fixed = load_spec(write(patt(BLOCKS="[1, 3, 6]", STAGES="[2, 3]")))
    assert domains(fixed)["blocks"] == Fixed(value=(3, 6))


def test_one_domain_is_that_of_every_stage(write):
    spec = load_spec(write(patt(WIDTH="{per_stage: {choice: [2, 4]}}")))
    assert spec.petl.patt.d_bottle == PerStage(domains=(WIDTHS,))
    assert [domains(spec)[f"d_bottle.stage{stage}"] for stage in (1, 2, 3)] == [WIDTHS] * 3


def test_a_list_has_a_value_or_domain_for_each_stage(write):
    text = patt(WIDTH="{per_stage: [2, {choice: [2, 4]}, {int: [8, 64], log: true}]}")
    spec = load_spec(write(text))
    assert [domains(spec)[f"d_bottle.stage{stage}"] for stage in (1, 2, 3)] == [
        Fixed(value=2),
        WIDTHS,
        IntRange(low=8, high=64, log=True),
    ]


ROUND_TRIPS = {
    "subset of all": patt(BLOCKS="{subset: all, min: 1}"),
    "some blocks": patt(BLOCKS="{subset: [1, 2, 6]}"),
    "fixed blocks": patt(BLOCKS="[6, 1]", STAGES="[1, 3]"),
    "choice of blocks": patt(BLOCKS="{choice: [all, [1, 2], []]}"),
    "one domain": patt(WIDTH="{per_stage: {int: [2, 8], step: 2}}"),
    "one value": patt(WIDTH="{per_stage: 3}"),
    "one each": patt(WIDTH="{per_stage: [1, {choice: [2, 3]}, 4]}"),
    "scales": patt(SCALE="{per_stage: {choice: [learned, 0.1]}}"),
}


@pytest.mark.parametrize("text", ROUND_TRIPS.values(), ids=ROUND_TRIPS)
def test_resolved_spec_loads_to_an_equal_one(text, write):
    spec = load_spec(write(text))
    again = load_spec(write(spec.to_yaml(), "again.yaml"))
    assert again == spec
    assert again.space(12).domains == spec.space(12).domains
    assert again.to_yaml() == spec.to_yaml()


MISTAKES = {
    "block that does not exist": (
        patt(BLOCKS="{subset: [1, 7]}"),
        "x.yaml:4: petl.patt.blocks: block 7 does not exist; swin3d_nano has blocks 1 to 6",
    ),
    "block 0": (
        patt(BLOCKS="[0]"),
        "x.yaml:4: petl.patt.blocks: must be a whole number from 1 to 1 024, got 0",
    ),
    "word in a subset": (
        patt(BLOCKS="{subset: every}"),
        "x.yaml:4: petl.patt.blocks: must be a list or 'all', got 'every'",
    ),
    "more than all": (
        patt(STAGES="{subset: all, min: 4}"),
        "x.yaml:5: petl.patt.stages: min must be at most 3, the number of stages of swin3d_nano, "
        "got 4",
    ),
    "all blocks twice": (
        patt(BLOCKS="{choice: [all, [1, 2, 3, 4, 5, 6]]}"),
        "x.yaml:4: petl.patt.blocks: 'all' and [1, 2, 3, 4, 5, 6] are the same blocks",
    ),
    "both searched": (
        patt(BLOCKS="{subset: all}", STAGES="{subset: all}"),
        "x.yaml:4: petl.patt.blocks: petl.patt.stages is searched; leave one of the two out",
    ),
    "too few of each stage": (
        patt(WIDTH="{per_stage: [2, {choice: [2, 4]}]}"),
        "x.yaml:6: petl.patt.d_bottle: per_stage must list 3, one for each stage of swin3d_nano, "
        "got 2",
    ),
    "none of each stage": (
        patt(WIDTH="{per_stage: []}"),
        "x.yaml:6: petl.patt.d_bottle: an empty list; give a value or domain for each stage",
    ),
    "bad value of one stage": (
        patt(WIDTH="{per_stage: [2, 0, 2]}"),
        "x.yaml:6: petl.patt.d_bottle: must be a whole number from 1 to 65 536, got 0",
    ),
    "bad domain of every stage": (
        patt(SCALE="{per_stage: {float: [0, 2], log: true}}"),
        "x.yaml:7: petl.patt.scale: a log range must start above 0, got 0",
    ),
    "something beside it": (
        patt(WIDTH="{per_stage: 3, log: true}"),
        "x.yaml:6: petl.patt.d_bottle: unknown key 'log' beside per_stage",
    ),
    "per stage of what has no stages": (
        patt() + "  \n".join(["seed: {per_stage: 3}"]),
        "x.yaml:9: seed: must be a whole number from 0 to 4 294 967 295, got {'per_stage': 3}",
    ),
}


@pytest.mark.parametrize(("text", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistake_is_said_in_one_line(text, message, mistakes):
    assert mistakes(text) == [message]


def test_per_stage_is_refused_where_it_says_where(mistakes):
    (message,) = mistakes(patt(STAGES="{per_stage: [1]}"))
    assert message.startswith("x.yaml:5: petl.patt.stages: must be 'all' or a list, each")


START = "search: {start: [{name: mine, petl: {patt: {%s}}}]}\n"
STARTS = {
    "one width for all stages": ("d_bottle: 4", "patt(kv) 4"),
    "a width of each": ("d_bottle: {per_stage: [2, 4, 4]}, blocks: [1, 3]", "patt(kv) 2 block 1"),
    "one for each of all": ("d_bottle: {per_stage: 2}, blocks: [6, 5]", "patt(kv) 2 stage 3"),
}
BAD_STARTS = {
    "width that no stage has": ("d_bottle: 5", "5 is not a member of what is searched there"),
    "width that one stage has not": (
        "d_bottle: {per_stage: [2, 2, 8]}",
        "{'per_stage': [2, 2, 8]} is not a member of what is searched there",
    ),
    "one stage too few": (
        "d_bottle: {per_stage: [2, 2]}",
        "per_stage must list 3, one for each stage of swin3d_nano",
    ),
    "domain": ("d_bottle: {choice: [2, 4]}", "must be one value, not a domain"),
    "blocks outside": ("blocks: [9]", "[9] is not a member of what is searched there"),
}
SEARCHED = patt(BLOCKS="{subset: all}", WIDTH="{per_stage: {choice: [2, 4]}}")


@pytest.mark.parametrize(("fields", "described"), STARTS.values(), ids=STARTS)
def test_own_start_config(fields, described, write):
    spec = load_spec(write(SEARCHED + START % fields))
    (trial,) = [trial for trial in spec.start_plan().trials if trial.name == "mine"]
    assert spec.space().build(trial.values).describe().startswith(described)


@pytest.mark.parametrize(("fields", "text"), BAD_STARTS.values(), ids=BAD_STARTS)
def test_start_config_that_the_space_has_not(fields, text, mistakes):
    (message,) = mistakes(SEARCHED + START % fields)
    assert message.startswith("x.yaml:9: search.start: petl.patt.")
    assert message.endswith(text)


def test_start_config_with_stages_of_a_space_of_all_stages_is_refused(mistakes):
    (message,) = mistakes(patt() + START % "stages: [1]")
    assert message.endswith("[1] is not a member of what is searched there")


def test_start_config_may_say_all_where_all_is_fixed(write):
    spec = load_spec(write(patt() + START % "stages: [3, 2, 1], blocks: all, d_bottle: 4"))
    assert [trial.name for trial in spec.start_plan().trials][-1] == "mine"


def test_layerwise_space_proposes_what_can_be_counted_and_told_apart():
    spec = load_spec(LAYERWISE)
    space = spec.space()
    summary = space.summary(spec.given_budget)
    places = (1 + 3 * 18) ** 3  # a stage: no block, or one of 3 sets, 6 widths and 3 scales
    assert summary.num_structures == 2 * ((7 * (places - 1) + 1) * places - 1) + 1
    assert summary.num_structures > 10**6
    # PATT is off, an adapter of width 2 is in one block of 32 channels.
    assert summary.smallest == space.count(space.build(smallest_values(space))) == 2 * 64 + 2 + 32
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    keys = set()
    for _ in range(200):
        values = space.suggest(study.ask())
        config = space.build(values)
        parts = count_trainable(config.petl, space.arch, space.num_classes).parts
        assert space.count(config) == sum(parts.values()) >= summary.smallest
        assert space.build({**values, "petl.patt.d_bottle.stage9": 1}).key == config.key
        keys.add(config.key)
    assert len(keys) == 200
    turned = {path: v[::-1] if isinstance(v, tuple) else v for path, v in values.items()}
    assert space.build(turned).key == config.key
