import pytest

from vpetl_ray.models.arch import get_arch
from vpetl_ray.tuning.domains import Choice, FloatRange, Subset
from vpetl_ray.tuning.space import CLASSIFIER, Space
from vpetl_ray.tuning.start import START_CONFIGS, StartTrial, own_values, plan_start

SWITCH = Choice(options=(True, False))
WIDTHS = Choice(options=(2, 4, 8, 16, 32, 64, 128))
TREE = {
    "petl.patt.targets": Subset(items=("q", "k", "v")),
    "petl.patt.d_bottle": WIDTHS,
    "petl.patt.scale": FloatRange(low=0.25, high=4, log=True),
    "petl.adapter.enabled": SWITCH,
    "petl.adapter.d_bottle": WIDTHS,
    "petl.adapter.scale": FloatRange(low=0.2, high=4, log=True),
    "training.learning_rate": FloatRange(low=1e-3, high=1e-1, log=True),
    "training.epochs": 2,
    "training.batch_size": 8,
}


def make_space(arch="swin3d_b", num_classes=174, **changes):
    tree = {path: value for path, value in (TREE | changes).items() if value is not None}
    return Space(arch=get_arch(arch), num_classes=num_classes, tree=tree)


def counts(space, budget=None):
    plan = plan_start(space, list(START_CONFIGS), budget=budget)
    return {trial.name: space.count(space.build(trial.values)) for trial in plan.trials}, plan


def test_paper_settings_on_swin_b_have_the_counts_of_the_paper():
    found, plan = counts(make_space())
    assert found == {
        "linear probe": 178_350,
        "paper adapter": 1_732_014,
        "paper PATT(K,V)": 4_825_774,
        "paper Swin-BAPAT": 6_379_438,
    }
    assert not plan.left_out


def test_numbers_move_to_the_nearest_member():
    _, plan = counts(make_space())
    adapter = plan.trials[1].values
    assert adapter["petl.adapter.scale"] == 0.2
    assert adapter["training.learning_rate"] == 0.01


def test_a_budget_narrows_the_widths_of_the_paper():
    found, plan = counts(make_space("swin3d_nano", 12), budget=45_000)
    assert found["linear probe"] == 1548
    assert found["paper Swin-BAPAT"] <= 45_000
    bapat = plan.trials[3].values
    assert bapat["petl.patt.d_bottle"] >= 8
    assert bapat["petl.adapter.d_bottle"] >= 8


@pytest.mark.parametrize(
    ("changes", "left_out"),
    [
        pytest.param(
            {"petl.patt.targets": ("q",)},
            {
                "linear_probe": "patt is always on in this space",
                "paper_adapter": "patt is always on in this space",
                "paper_patt_kv": "petl.patt.targets cannot be ('k', 'v') in this space",
                "paper_swin_bapat": "petl.patt.targets cannot be ('k', 'v') in this space",
            },
            id="only queries",
        ),
        pytest.param(
            dict.fromkeys(path for path in TREE if path.startswith("petl.adapter")),
            {
                "paper_adapter": "this space has no adapter",
                "paper_swin_bapat": "this space has no adapter",
            },
            id="no adapter",
        ),
        pytest.param(
            {CLASSIFIER: False},
            dict.fromkeys(START_CONFIGS, f"{CLASSIFIER} cannot be True in this space"),
            id="frozen classifier",
        ),
    ],
)
def test_what_the_space_does_not_contain_is_left_out_with_a_reason(changes, left_out):
    assert counts(make_space(**changes))[1].left_out == left_out


def test_nothing_fits_a_tiny_budget():
    _, plan = counts(make_space("swin3d_nano", 12), budget=1000)
    assert not plan.trials
    assert set(plan.left_out.values()) == {"it is over the budget at any width of this space"}


def test_own_values_are_completed_and_methods_not_named_are_off():
    space = make_space("swin3d_nano", 12)
    values = own_values(space, {"petl.patt.targets": ("v",), "petl.patt.d_bottle": 4})
    config = space.build(values)
    assert config.describe() == "patt(v) 4"
    assert config.recipe.learning_rate == 0.01


def test_own_value_outside_its_domain_is_refused():
    with pytest.raises(ValueError, match=r"petl\.patt\.d_bottle: 5 is not in its domain"):
        own_values(make_space(), {"petl.patt.d_bottle": 5})


def test_a_method_of_which_a_value_is_named_is_on():
    space = make_space(**{"petl.adapter.enabled": Choice(options=(False, True))})
    values = own_values(space, {"petl.adapter.d_bottle": 16, "petl.patt.targets": ()})
    assert space.build(values).describe() == "adapter 16"


def test_entries_keep_their_order():
    own = StartTrial("mine", {"petl.patt.d_bottle": 4})
    plan = plan_start(make_space(), ["paper_adapter", own, "linear_probe"])
    assert [trial.name for trial in plan.trials] == ["paper adapter", "mine", "linear probe"]
