from itertools import product
from statistics import median_low

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpetl_ray.models.arch import SwinArch, get_arch
from vpetl_ray.params import _largest_values
from vpetl_ray.petl.count import count_trainable
from vpetl_ray.petl.methods import METHODS
from vpetl_ray.tuning.domains import Choice, Domain, Fixed, FloatRange, IntRange, Subset
from vpetl_ray.tuning.method_space import METHOD_FIELDS
from vpetl_ray.tuning.space import CLASSIFIER, NothingToTrain, Space
from vpetl_ray.tuning.space_size import smallest_values
from vpetl_ray.tuning.start import own_values

optuna.logging.set_verbosity(optuna.logging.ERROR)

NANO = get_arch("swin3d_nano")
TOY = SwinArch(name="toy", embed_dim=8, depths=(2, 2), num_heads=(1, 2), window_size=(2, 2, 2))
TRAINING = {
    "training.learning_rate": FloatRange(low=1e-3, high=1e-1, log=True),
    "training.epochs": 2,
    "training.batch_size": 8,
}
SWITCH = Choice(options=(True, False))
STAGES = Subset(items=(1, 2, 3), min_size=1)
FULL_TREE = {
    **TRAINING,
    "petl.patt.targets": Subset(items=("q", "k", "v")),
    "petl.patt.d_bottle": Choice(options=(2, 8)),
    "petl.patt.stages": STAGES,
    "petl.adapter.enabled": SWITCH,
    "petl.adapter.placement": Choice(options=("parallel", "sequential")),
    "petl.adapter.d_bottle": IntRange(low=1, high=16, log=True),
    "petl.adapter.stages": STAGES,
    CLASSIFIER: SWITCH,
}


def make_space(tree, arch=NANO, num_classes=5):
    return Space(arch=arch, num_classes=num_classes, tree=tree)


def probe_values(space):
    off = {"petl.patt.enabled": True, "petl.patt.targets": (), "petl.adapter.enabled": False}
    return space.walk(lambda path, domain: off.get(path, next(iter(_members(domain)))))


def _members(domain: Domain):
    return (domain.middle,) if isinstance(domain, FloatRange) else domain.members()


def every_config(space):
    """Key to count of every config, by trying every combination of every value."""
    counts = {}
    paths = list(space.domains)
    for chosen in product(*(_members(domain) for domain in space.domains.values())):
        picked = dict(zip(paths, chosen, strict=True))
        try:
            config = space.build(picked)
        except NothingToTrain:
            continue
        counts[config.key] = space.count(config)
    return counts


def subsets(items, *, min_size=0):
    lists = st.lists(st.sampled_from(items), unique=True, min_size=1, max_size=2)
    return st.builds(
        lambda chosen, low: Subset(items=tuple(sorted(chosen)), min_size=low),
        lists,
        st.integers(min_size, 1),
    )


FLAGS = st.sampled_from([SWITCH, Fixed(value=True), Fixed(value=False)])
WIDTHS = st.sampled_from(
    [
        Fixed(value=3),
        Choice(options=(1, 4)),
        IntRange(low=2, high=6, step=2),
        Choice(options=(7, 2)),
    ]
)
SCALES = st.sampled_from(
    [Fixed(value=0.8), Choice(options=(0.5, 1.0, "learned")), FloatRange(low=0.1, high=2)]
)


@st.composite
def trees(draw):
    tree = dict(TRAINING)
    if draw(st.booleans()):
        tree |= {
            "petl.patt.targets": draw(subsets(("k", "q"))),
            "petl.patt.d_bottle": draw(WIDTHS),
            "petl.patt.scale": draw(SCALES),
            "petl.patt.stages": draw(subsets((1, 2))),
        }
    if draw(st.booleans()):
        tree |= {
            "petl.adapter.enabled": draw(FLAGS),
            "petl.adapter.d_bottle": draw(WIDTHS),
            "petl.adapter.placement": draw(
                st.sampled_from([Fixed(value="parallel"), FULL_TREE["petl.adapter.placement"]])
            ),
        }
    tree[CLASSIFIER] = draw(FLAGS)
    if draw(st.booleans()):
        tree["training.optimizer"] = Choice(options=("adamw", "sgd"))
        tree["training.momentum"] = Choice(options=(0.5, 0.9))
        tree["training.epochs"] = Choice(options=(1, 3))
    return tree


@settings(deadline=None, max_examples=80)
@given(tree=trees(), quantile=st.floats(0, 1))
def test_summary_equals_trying_every_combination(tree, quantile):
    space = make_space(tree, TOY, 3)
    counts = sorted(every_config(space).values())
    if not counts:
        with pytest.raises(ValueError, match="every method is off"):
            space.summary()
        return
    budget = counts[int(quantile * (len(counts) - 1))]
    summary = space.summary(budget)
    assert summary.exact
    assert summary.num_structures == len(counts)
    assert (summary.smallest, summary.largest) == (counts[0], counts[-1])
    assert summary.median == median_low(counts)
    within = sum(count <= budget for count in counts) / len(counts)
    assert summary.share_within_budget == pytest.approx(within)
    assert space.count(space.build(smallest_values(space))) == counts[0]


@settings(deadline=None, max_examples=25)
@given(tree=trees())
def test_grid_lists_every_config_once(tree):
    space = make_space(tree, TOY, 3)
    keys = []
    for values in space.grid(points=1):
        try:
            keys.append(space.build(values).key)
        except NothingToTrain:
            continue
    assert len(keys) == len(set(keys))
    assert set(keys) == set(every_config(space))


@settings(deadline=None, max_examples=60)
@given(tree=trees(), seed=st.integers(0, 10_000), ask_inactive=st.booleans())
def test_suggested_values_build_count_and_come_back(tree, seed, ask_inactive):
    space = make_space(tree, TOY, 3)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    values = space.suggest(study.ask(space.distributions if ask_inactive else None))
    try:
        config = space.build(values)
    except NothingToTrain:
        assert not config_trains(space, values)
        return
    assert space.count(config) == count_trainable(config.petl, TOY, 3).total > 0
    assert set(space.params_for(config.values)) <= set(space.distributions)
    assert space.suggest(optuna.trial.FixedTrial(space.params_for(values))) == values
    assert space.build(space.from_json(space.to_json(values))) == config
    row = space.config_columns(values)
    assert tuple(row) == space.columns
    assert all(value is None for path, value in row.items() if path not in values)


def config_trains(space, values):
    return values[CLASSIFIER] or any(space.is_on(name, values) for name in space.methods)


def test_a_bottleneck_exists_only_where_its_method_is_on():
    space = make_space(FULL_TREE)
    trial = optuna.trial.FixedTrial(
        {"petl.patt.targets": "none", "petl.adapter.enabled": False, "unused": 1}
    )
    values = space.suggest(trial)
    assert not [path for path in values if "d_bottle" in path or "stages" in path]
    assert "training.learning_rate" not in values
    assert values[CLASSIFIER] is True
    assert space.build(values).is_probe


def test_linear_probes_with_other_learning_rates_are_one_config():
    space = make_space(FULL_TREE)
    values = probe_values(space)
    one = space.build({**values, "training.learning_rate": 1e-3, "petl.patt.d_bottle": 2})
    other = space.build({**values, "training.learning_rate": 1e-2, "petl.patt.d_bottle": 8})
    assert one.key == other.key
    assert one == other


def test_configs_that_train_differently_have_different_keys():
    space = make_space(FULL_TREE)
    fields = {"petl.adapter.d_bottle": 3, "petl.adapter.stages": (2,), "petl.patt.targets": ("q",)}
    base = own_values(space, fields)
    keys = {space.build(base).key}
    for path, value in (
        ("training.learning_rate", 2e-3),
        ("petl.adapter.d_bottle", 4),
        ("petl.adapter.stages", (1, 2)),
        ("petl.patt.targets", ("q", "v")),
        (CLASSIFIER, not base[CLASSIFIER]),
    ):
        keys.add(space.build({**base, path: value}).key)
    assert len(keys) == 6


def test_a_frozen_classifier_with_every_method_off_is_no_config():
    space = make_space({**FULL_TREE, CLASSIFIER: False})
    with pytest.raises(NothingToTrain, match="every method is off"):
        space.build(probe_values(space))


def test_subsets_are_written_short():
    space = make_space(FULL_TREE)
    values = {"petl.patt.targets": ("k", "v"), "petl.patt.stages": (1, 3)}
    row = space.config_columns(values)
    assert row["petl.patt.targets"] == "kv"
    assert row["petl.patt.stages"] == "1+3"
    assert row["petl.adapter.d_bottle"] is None


def test_a_large_subset_is_asked_item_by_item_and_keeps_its_minimum():
    domain = Subset(items=tuple(range(1, 9)), min_size=2)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen = set()
    for _ in range(60):
        member = domain.suggest(study.ask(), "p")
        assert domain.contains(member)
        assert domain.suggest(optuna.trial.FixedTrial(domain.params("p", member)), "p") == member
        seen.add(len(member))
    assert min(seen) >= 2
    assert domain.suggest(optuna.trial.FixedTrial(domain.params("p", (7, 8))), "p") == (7, 8)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(lambda: Choice(options=()), "at least one", id="empty choice"),
        pytest.param(lambda: Subset(items=()), "at least one", id="empty subset"),
        pytest.param(lambda: IntRange(low=3, high=1), "from 3 down to 1", id="reversed"),
        pytest.param(lambda: FloatRange(low=0, high=1, log=True), "above 0", id="log from 0"),
        pytest.param(lambda: Choice(options=(1, 1)), "twice", id="repeated"),
        pytest.param(lambda: Subset(items=(1, 2), min_size=3), "from 0 to 2", id="min too large"),
    ],
)
def test_domain_that_cannot_be(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_one_and_true_are_two_options():
    domain = Choice(options=(1, 2))
    assert [member for member in (True, 1) if domain.contains(member)] == [1]
    assert not any(domain.contains(member) for member in [True])


def test_space_refuses_a_path_that_no_config_has():
    with pytest.raises(ValueError, match=r"petl\.patt\.width"):
        make_space({**FULL_TREE, "petl.patt.width": 3})


def test_space_names_a_required_path_that_is_missing():
    tree = {path: domain for path, domain in FULL_TREE.items() if "epochs" not in path}
    with pytest.raises(ValueError, match=r"training\.epochs has no default"):
        make_space(tree)


def test_summary_of_a_space_of_billions_is_quick_and_says_it_is_not_exact():
    wide = {
        "petl.patt.targets": Subset(items=("q", "k", "v")),
        "petl.patt.d_bottle": IntRange(low=1, high=4096),
        "petl.patt.stages": Subset(items=(1, 2, 3, 4)),
        "petl.adapter.enabled": SWITCH,
        "petl.adapter.d_bottle": IntRange(low=1, high=4096),
        "petl.adapter.stages": Subset(items=(1, 2, 3, 4)),
    }
    space = make_space({**TRAINING, **wide}, get_arch("swin3d_b"), 174)
    summary = space.summary(5_000_000)
    assert not summary.exact
    assert summary.num_structures == (7 * 4096 * 15 + 1) * (4096 * 15 + 1)
    assert summary.smallest == 178_350
    largest = {path: list(_members(domain))[-1] for path, domain in space.domains.items()}
    largest |= {"petl.adapter.enabled": True}
    assert summary.largest == space.count(space.build(largest))
    assert 0 < summary.share_within_budget < 0.05


def test_size_text_says_what_is_continuous():
    space = make_space({**TRAINING, "petl.adapter.d_bottle": Choice(options=(1, 2))})
    assert space.summary().size_text == "2 structures x continuous: training.learning_rate"
    assert space.summary().size is None


def test_describe_is_short():
    space = make_space(FULL_TREE)
    assert space.build(probe_values(space)).describe() == "linear probe"
    smallest = space.build(smallest_values(space))
    assert smallest.describe() == "adapter 1 stage 1, classifier frozen"


METHOD_TREES = {
    "position": {"petl.position.kinds": Subset(items=("norm1", "rel_pos", "downsample"))},
    "bitfit": {"petl.bitfit.rel_pos": SWITCH},
    "full": {"petl.full.enabled": SWITCH},
    "lora": {
        "petl.lora.targets": Subset(items=("q", "v", "fc1")),
        "petl.lora.rank": Choice(options=(1, 3)),
        "petl.lora.alpha": Choice(options=(2.0, "learned")),
    },
    "st_adapter": {
        "petl.st_adapter.enabled": SWITCH,
        "petl.st_adapter.d_bottle": Choice(options=(1, 4)),
        "petl.st_adapter.kernel": Choice(options=("3x1x1", "3x3x3")),
    },
    "prefix": {"petl.prefix.num_tokens": Choice(options=(1, 2)), "petl.prefix.d_middle": 3},
    "prompt": {
        "petl.prompt.num_tokens": IntRange(low=1, high=3),
        "petl.prompt.depth": Choice(options=("deep", "shallow")),
    },
    "patt_concat": {
        "petl.patt_concat.d_bottle": Choice(options=(1, 2)),
        "petl.patt_concat.scale": Choice(options=(0.8, "learned")),
    },
    "patt_no_z": {
        "petl.patt_no_z.targets": Subset(items=("k", "v")),
        "petl.patt_no_z.d_bottle": 2,
        "petl.patt_no_z.num_tokens": Choice(options=(None, 2)),
    },
}


def test_every_method_has_a_space():
    assert set(METHOD_FIELDS) == set(METHODS) == {*METHOD_TREES, "patt", "adapter"}


@pytest.mark.parametrize("name", METHOD_TREES)
def test_space_of_a_method_is_counted_without_listing_it(name):
    stages = Subset(items=(1, 2), min_size=1)
    tree = {**TRAINING, **METHOD_TREES[name], f"petl.{name}.stages": stages, CLASSIFIER: SWITCH}
    space = make_space(tree, TOY, 3)
    counts = sorted(every_config(space).values())
    summary = space.summary()
    assert (summary.smallest, summary.largest) == (counts[0], counts[-1])
    assert space.count(space.build(smallest_values(space))) == counts[0]
    assert space.count(space.build(_largest_values(space))) == counts[-1]
    if name != "position":  # merging behind the last stage trains nothing, under several names
        assert summary.num_structures == len(counts)
        assert summary.median == median_low(counts)


def test_methods_that_train_the_same_tensors_are_never_more_than_the_backbone():
    tree = {**TRAINING, "petl.full.enabled": SWITCH, "petl.bitfit.enabled": SWITCH}
    space = make_space(tree, TOY, 3)
    counts = sorted(every_config(space).values())
    summary = space.summary()
    assert (summary.smallest, summary.largest) == (counts[0], counts[-1])
    assert not summary.exact
