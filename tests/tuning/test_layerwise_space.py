"""Blocks, and values of every stage's own: asked for, counted and built."""

from itertools import product
from statistics import median_low

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpetl_ray.models.arch import SwinArch, get_arch
from vpetl_ray.params import _largest_values
from vpetl_ray.tuning.domains import Choice, Fixed, FloatRange, IntRange, Subset
from vpetl_ray.tuning.space import CLASSIFIER, NothingToTrain, Space
from vpetl_ray.tuning.space_size import smallest_values
from vpetl_ray.tuning.start import START_CONFIGS, own_values, plan_start

optuna.logging.set_verbosity(optuna.logging.ERROR)

TOY = SwinArch(name="toy", embed_dim=8, depths=(2, 2), num_heads=(1, 2), window_size=(2, 2, 2))
NANO = get_arch("swin3d_nano")
TRAINING = {"training.learning_rate": 0.01, "training.epochs": 2, "training.batch_size": 8}
WIDTHS = Choice(options=(2, 4, 8, 16))


def make_space(tree, arch=TOY, num_classes=3):
    return Space(arch=arch, num_classes=num_classes, tree={**TRAINING, **tree})


def counts_of_all(space):
    """Key to count of every config, by trying every combination of every value."""
    counts = {}
    paths = list(space.domains)
    for chosen in product(*(domain.members() for domain in space.domains.values())):
        try:
            config = space.build(dict(zip(paths, chosen, strict=True)))
        except NothingToTrain:
            continue
        counts[config.key] = space.count(config)
    return counts


def lists(*items, most):
    return st.lists(st.sampled_from(items), unique=True, min_size=1, max_size=most)


PLACES = {
    "stages": st.one_of(
        st.just(Fixed(value=(1, 2))),
        st.builds(
            lambda items, low: Subset(items=tuple(sorted(items)), min_size=low),
            lists(1, 2, most=2),
            st.integers(0, 1),
        ),
    ),
    "blocks": st.one_of(
        st.builds(
            lambda items, low: Subset(items=tuple(sorted(items)), min_size=min(low, len(items))),
            lists(1, 2, 3, 4, most=4),
            st.integers(0, 3),
        ),
        st.just(Choice(options=((1, 2, 3, 4), (2, 3), ()))),
        st.just(Fixed(value=(2, 4))),
    ),
}
DOMAINS = st.sampled_from([Fixed(value=3), Choice(options=(1, 4)), IntRange(low=2, high=6, step=2)])
SCALES = st.sampled_from([Fixed(value=0.8), Choice(options=(0.5, 1.0, "learned"))])
METHODS = {
    "patt": {"targets": Subset(items=("k", "q"), min_size=1)},
    "adapter": {"enabled": Choice(options=(True, False))},
}


@st.composite
def trees(draw):
    name = draw(st.sampled_from(list(METHODS)))
    fields = dict(METHODS[name])
    where = draw(st.sampled_from(list(PLACES)))
    fields[where] = draw(PLACES[where])
    for field, domains in (("d_bottle", DOMAINS), ("scale", SCALES)):
        if draw(st.booleans()):
            fields |= {f"{field}.stage{stage}": draw(domains) for stage in (1, 2)}
        else:
            fields[field] = draw(domains)
    return {f"petl.{name}.{field}": domain for field, domain in fields.items()}


@settings(deadline=None, max_examples=60)
@given(tree=trees())
def test_summary_equals_trying_every_combination(tree):
    space = make_space(tree)
    counts = sorted(counts_of_all(space).values())
    summary = space.summary(counts[len(counts) // 2])
    assert summary.exact
    assert summary.num_structures == len(counts)
    assert (summary.smallest, summary.largest) == (counts[0], counts[-1])
    assert summary.median == median_low(counts)
    within = sum(count <= counts[len(counts) // 2] for count in counts) / len(counts)
    assert summary.share_within_budget == pytest.approx(within)
    assert space.count(space.build(smallest_values(space))) == counts[0]
    assert space.count(space.build(_largest_values(space))) == counts[-1]
    keys = [space.build(values).key for values in space.grid(points=1)]
    assert len(keys) == len(set(keys)) == len(counts)


@settings(deadline=None, max_examples=60)
@given(tree=trees(), seed=st.integers(0, 10_000), ask_inactive=st.booleans())
def test_suggested_values_build_and_come_back(tree, seed, ask_inactive):
    space = make_space(tree)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    values = space.suggest(study.ask(space.distributions if ask_inactive else None))
    config = space.build(values)
    config.petl.check(TOY)
    assert set(space.params_for(values)) <= set(space.distributions)
    assert space.suggest(optuna.trial.FixedTrial(space.params_for(values))) == values
    assert space.build(space.from_json(space.to_json(values))) == config
    assert tuple(space.config_columns(values)) == space.columns


def patt_tree(**fields):
    given = {"targets": ("k", "v"), **fields}
    return {f"petl.patt.{field}": domain for field, domain in given.items()}


def by_stage(field, domain, num=3):
    return {f"{field}.stage{stage}": domain for stage in range(1, num + 1)}


def test_a_width_is_asked_for_only_where_its_stage_has_a_block():
    blocks = Subset(items=(1, 2, 3, 4, 5, 6))
    space = make_space(patt_tree(blocks=blocks, **by_stage("d_bottle", WIDTHS)), NANO)
    picked = {"petl.patt.blocks": (2, 5), "petl.patt.d_bottle.stage1": 4}
    values = space.walk(lambda path, domain: picked.get(path, next(iter(domain.members()))))
    assert [path for path in values if "d_bottle" in path] == [
        "petl.patt.d_bottle.stage1",
        "petl.patt.d_bottle.stage3",
    ]
    assert space.build(values).describe() == "patt(kv) 4 block 2, patt(kv) 2 block 5"
    off = space.walk(lambda path, domain: () if "blocks" in path else next(iter(domain.members())))
    assert space.build(off).is_probe


def test_equal_widths_of_all_stages_are_one_width():
    own = make_space(patt_tree(**by_stage("d_bottle", WIDTHS)), NANO)
    same = make_space(patt_tree(d_bottle=WIDTHS), NANO)
    values = own.walk(
        lambda path, domain: 8 if "d_bottle" in path else next(iter(domain.members()))
    )
    assert own.build(values).petl == same.build({**values, "petl.patt.d_bottle": 8}).petl


def test_more_than_32_sets_of_blocks_are_one_switch_each():
    blocks = Subset(items=tuple(range(1, 7)))
    space = make_space(patt_tree(blocks=blocks, d_bottle=2), NANO)
    assert {f"petl.patt.blocks[{block}]" for block in range(1, 7)} <= set(space.distributions)
    assert space.summary().num_structures == 2**6


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        pytest.param(
            {"stages": Subset(items=(1, 2)), "blocks": Subset(items=(1,)), "d_bottle": 1},
            "the stages are searched too",
            id="both searched",
        ),
        pytest.param(
            {"stages": (2,), "blocks": Subset(items=(1, 3)), "d_bottle": 1},
            "1 is in none of the stages",
            id="block of another stage",
        ),
        pytest.param(
            {"d_bottle.stage1": 1}, r"d_bottle\.stage2 is missing", id="one stage is missing"
        ),
        pytest.param(
            {**by_stage("d_bottle", 1, 2), "d_bottle": 1},
            r"no config has petl\.patt\.d_bottle",
            id="one width and one of each stage",
        ),
    ],
)
def test_space_refuses_what_does_not_fit_together(fields, message):
    with pytest.raises(ValueError, match=message):
        make_space(patt_tree(**fields))


def test_billions_of_layerwise_configs_are_counted_at_once():
    arch = get_arch("swin3d_b")
    blocks = Subset(items=tuple(range(1, 25)))
    widths = IntRange(low=4, high=256, step=4)
    tree = {
        **patt_tree(targets=Subset(items=("q", "k", "v")), blocks=blocks),
        **{f"petl.patt.{path}": d for path, d in by_stage("d_bottle", widths, 4).items()},
        "petl.adapter.blocks": blocks,
        **{f"petl.adapter.{path}": d for path, d in by_stage("d_bottle", widths, 4).items()},
        CLASSIFIER: True,
    }
    space = make_space(tree, arch, 174)
    summary = space.summary(5_000_000)
    per_method = 1
    for num_blocks in (2, 2, 18, 2):
        per_method *= 1 + (2**num_blocks - 1) * widths.size
    assert summary.num_structures == (7 * (per_method - 1) + 1) * per_method
    assert not summary.exact
    assert summary.smallest == 178_350
    assert summary.largest == space.count(space.build(_largest_values(space)))
    assert 0 < summary.share_within_budget < 1


def test_paper_settings_are_found_where_every_stage_has_a_width():
    tree = {
        **patt_tree(targets=Subset(items=("q", "k", "v")), blocks=Subset(items=(1, 2, 3, 4, 5, 6))),
        **{f"petl.patt.{path}": d for path, d in by_stage("d_bottle", WIDTHS).items()},
        "petl.adapter.enabled": Choice(options=(True, False)),
        "petl.adapter.d_bottle": WIDTHS,
    }
    space = make_space(tree, NANO, 12)
    plan = plan_start(space, list(START_CONFIGS), budget=40_000)
    assert not plan.left_out
    built = {trial.name: space.build(trial.values) for trial in plan.trials}
    assert built["paper PATT(K,V)"].describe() == "patt(kv) 16"
    assert all(space.count(config) <= 40_000 for config in built.values())


def test_own_start_config_of_some_blocks():
    tree = patt_tree(blocks=Subset(items=(1, 2, 3, 4, 5, 6)), **by_stage("d_bottle", WIDTHS))
    given = {"petl.patt.blocks": (1, 2, 6), "petl.patt.d_bottle.stage1": 16}
    config = make_space(tree, NANO)
    built = config.build(own_values(config, given))
    assert built.describe() == "patt(kv) 16 stage 1, patt(kv) 8 block 6"


def test_a_continuous_range_of_a_stage_is_counted_once():
    scales = by_stage("scale", FloatRange(low=0.1, high=1))
    space = make_space(patt_tree(d_bottle=WIDTHS, **scales), NANO)
    summary = space.summary()
    assert summary.num_structures == 4
    assert summary.continuous == tuple(f"petl.patt.{path}" for path in scales)
