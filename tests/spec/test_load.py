from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vpetl_ray.data.catalogue import SOURCES
from vpetl_ray.errors import SpecError
from vpetl_ray.spec.load import load_spec
from vpetl_ray.spec.search_spec import SearchSpec
from vpetl_ray.spec.sections import TrainingSection
from vpetl_ray.spec.special_kinds import budget_in_parameters
from vpetl_ray.training.recipe import Recipe
from vpetl_ray.tuning.domains import Choice, Fixed, FloatRange, IntRange, Subset

from .conftest import MINIMAL

SHIPPED = sorted((Path(__file__).parents[2] / "search_spaces").rglob("*.yaml"))
FLAGSHIP = next(path for path in SHIPPED if path.stem == "position_scale")
# Without its comments, so that every mutation hits something.
BARE = "".join(
    line.split("#")[0].rstrip() + "\n"
    for line in FLAGSHIP.read_text().splitlines()
    if line.split("#")[0].strip()
)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_resolved_spec_loads_to_an_equal_one(path, write):
    spec = load_spec(path)
    again = load_spec(write(spec.to_yaml(), "again.yaml"))
    assert again == spec
    assert again.to_yaml() == spec.to_yaml()


def test_the_budget_of_the_flagship_binds():
    spec = load_spec(FLAGSHIP)
    assert spec.given_budget < spec.space().summary().largest


def test_awkward_values_survive_a_round_trip(write):
    text = MINIMAL + (
        'tracking: {experiment: "1e3", uri: "on"}\n'
        "data: {source: folder, path: 'a: b #c'}\n"
        "search: {start: [{name: 'it''s, [mine]', petl: {patt: {targets: [v, q]}}, "
        "training: {learning_rate: 0.01}}], max_minutes: 1e-5}\n"
    )
    spec = load_spec(write(text))
    assert spec.tracking.experiment == "1e3"
    assert spec.search.max_minutes == 1e-5
    assert load_spec(write(spec.to_yaml(), "again.yaml")) == spec


def test_domains_are_read(write):
    text = """\
name: domains
petl:
  patt:
    enabled: {choice: [true, false]}
    targets: {choice: [[v, k], [q, k, v]]}
    d_bottle: {int: [2, 64], log: true}
    scale: {choice: [0.8, learned]}
    stages: {subset: [3, 1], min: 1}
  adapter: {d_bottle: {int: [4, 16], step: 4}}
training: {learning_rate: {float: [1e-3, .1], log: true}, epochs: 1, batch_size: 4}
"""
    spec = load_spec(write(text))
    patt = spec.petl.patt
    assert patt.targets == Choice(options=(("k", "v"), ("q", "k", "v")))
    assert patt.d_bottle == IntRange(low=2, high=64, log=True)
    assert patt.scale == Choice(options=(0.8, "learned"))
    assert patt.stages == Subset(items=(1, 3), min_size=1)
    assert spec.petl.adapter.d_bottle == IntRange(low=4, high=16, step=4)
    assert spec.training.learning_rate == FloatRange(low=1e-3, high=0.1, log=True)
    assert spec.space().domains["petl.adapter.stages"] == Fixed(value=(1, 2, 3))
    assert load_spec(write(spec.to_yaml(), "again.yaml")) == spec


def test_words_of_yaml_1_1_are_words_and_1e_3_is_a_number(write):
    spec = load_spec(write(MINIMAL.replace("small", "on")), ["training.learning_rate=1e-3"])
    assert spec.name == "on"
    assert spec.training.learning_rate == Fixed(value=1e-3)


def test_overrides_win_and_can_add_and_remove(write):
    overrides = [
        "petl.patt=null",
        "petl.adapter.d_bottle={choice: [1, 2]}",
        "search.trials=7",
        "training.learning_rate=0.5",
        "budget.trainable_params=3k",
    ]
    spec = load_spec(write(), overrides)
    assert spec.petl.patt is None
    assert spec.petl.adapter.d_bottle == Choice(options=(1, 2))
    assert (spec.search.trials, spec.given_budget) == (7, 3000)


def test_one_end_of_a_domain_can_be_overridden(write):
    spec = load_spec(write(), ["petl.patt.d_bottle.choice=[9]"])
    assert spec.petl.patt.d_bottle == Choice(options=(9,))


def test_paths_are_relative_to_the_file_and_to_the_command(write, tmp_path, monkeypatch):
    (tmp_path / "specs").mkdir()
    path = write(MINIMAL + "data: {source: folder, path: videos}\n", "specs/a.yaml").absolute()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    spec = load_spec(path, ["backbone.weights=w.pth"])
    assert spec.data.path == str(tmp_path / "specs" / "videos")
    assert spec.backbone.weights == str(tmp_path / "elsewhere" / "w.pth")


def test_a_file_without_a_name_is_called_by_its_own(write):
    assert (
        load_spec(write(MINIMAL.replace("name: small\n", ""), "my space.yaml")).name == "my_space"
    )


def test_every_field_of_the_recipe_can_be_written():
    assert set(TrainingSection.model_fields) == {field.name for field in fields(Recipe)}


def test_defaults_of_the_recipe_are_the_defaults_of_the_spec(write):
    training = load_spec(write()).training
    recipe = Recipe(learning_rate=1e-2, epochs=2, batch_size=8)
    for field in fields(Recipe):
        given = getattr(training, field.name)
        assert getattr(given, "value", given) == getattr(recipe, field.name), field.name


def test_every_key_is_described():
    def check(model):
        for name, info in model.model_fields.items():
            assert info.description, name
            for kind in (info.annotation, *getattr(info.annotation, "__args__", ())):
                if hasattr(kind, "model_fields"):
                    check(kind)

    check(SearchSpec)


def test_data_defaults_depend_on_the_source(write):
    demo = load_spec(write()).data
    assert (demo.size, demo.short_side, demo.flip, demo.num_classes) == (32, 32, 0.0, 12)
    folder = load_spec(write(), ["data={source: folder, path: .}"]).data
    assert (folder.size, folder.short_side, folder.flip) == (224, 256, 0.5)
    assert folder.num_classes is None


def test_every_source_can_be_named_and_brings_its_defaults(write):
    loaded = {
        name: load_spec(write(), [f"data={{source: {name}, path: data}}"]).data
        for name, source in SOURCES.items()
        if source.needs_path
    }
    frames = {name: data.frames for name, data in loaded.items()}
    assert frames == {"folder": 8, "csv": 8, "hmdb51": 8, "ssv2": 8, **dict.fromkeys(
        ("cifar100", "svhn", "food101"), 1)}  # fmt: skip
    assert {name for name, data in loaded.items() if data.flip == 0} == {"ssv2", "svhn"}
    assert {data.test_segments for data in loaded.values()} == {None}  # finetune takes more


def test_options_of_a_source_reach_the_data_floor(write):
    config = load_spec(write(), ["data={source: hmdb51, path: a, split: 3}"]).data_config()
    assert config.split == 3
    config = load_spec(write(), ["data={source: csv, path: a, outside_paths: true}"]).data_config()
    assert config.outside_paths


@pytest.mark.parametrize(
    ("budget", "parameters"),
    [
        (None, None),
        (45_000, 45_000),
        ("45000", 45_000),
        ("120k", 120_000),
        ("5M", 5_000_000),
        ("1.61M", 1_610_000),
        ("2%", 11_469),
        ("0.29%", 1_663),
        ("100%", 573_486),
    ],
)
def test_budget_in_parameters(budget, parameters):
    assert budget_in_parameters(budget, 573_486) == parameters


def test_without_a_budget_the_largest_config_is_the_limit(write):
    spec = load_spec(write())
    assert spec.given_budget is None
    assert spec.budget_limit() == spec.space().summary().largest


def test_the_linear_probe_is_always_tried_first(write):
    plan = load_spec(write(), ["search.start=[paper_patt_kv]"]).start_plan()
    assert [trial.name for trial in plan.trials] == ["linear probe", "paper PATT(K,V)"]


def test_own_start_configs_reach_the_plan(write):
    text = "search.start=[{name: wide, petl: {patt: {targets: [v], d_bottle: 4, stages: all}}}]"
    spec = load_spec(write(), [text])
    wide = spec.start_plan().trials[1]
    assert wide.name == "wide"
    assert spec.space().build(wide.values).describe() == "patt(v) 4"


LIST = "search={sampler: list, start: [{name: wide, petl: {patt: {d_bottle: 4}}}, linear_probe]}"


def test_a_list_is_exactly_its_start_configs_in_their_order(write):
    spec = load_spec(write(), [LIST])
    assert [trial.name for trial in spec.start_plan().trials] == ["wide", "linear probe"]
    assert (spec.search.trials, spec.num_trials()) == (None, 2)
    assert load_spec(write(), [LIST, "search.trials=1"]).num_trials() == 1
    only = load_spec(write(), [LIST, "search.only=[wide]"])
    assert [trial.name for trial in only.start_plan().trials] == ["wide"]
    assert only.num_trials() == 1


def test_a_list_need_not_have_the_linear_probe_and_a_grid_is_all_of_it(write):
    start = "search.start=[{name: wide, petl: {patt: {d_bottle: 4}}}]"
    spec = load_spec(write(), ["search.sampler=list", start])
    assert [trial.name for trial in spec.start_plan().trials] == ["wide"]
    grid = load_spec(write(), ["search.sampler=grid"])
    assert grid.num_trials() == grid.space().summary().size == 15
    assert load_spec(write()).search.trials == load_spec(write()).num_trials() == 30


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["search.sampler=list"], "search.start: is missing; the configs of a list are"),
        (["search={sampler: list, start: []}"], "search.start: is empty; the configs of a list"),
        (
            [LIST, "search.only=[wied]"],
            "search.only: 'wied' is not in search.start; did you mean 'wide'?; it has wide, linear",
        ),
        (["search.only=[wide]", "search.start=[linear_probe]"], "search.only: is for search.samp"),
        (
            ["search={sampler: list, start: [paper_adapter]}"],
            "search.start: paper_adapter cannot be in the list: this space has no adapter",
        ),
        (
            [LIST.replace("linear_probe", "{name: again, petl: {patt: {d_bottle: 4}}}")],
            "search.start: 'wide' and 'again' are the same config; take one of them out",
        ),
        (
            [LIST, "budget.trainable_params=2k"],
            "search.start: 'wide' has 10 084 parameters, above the budget of 2 000",
        ),
        (
            [LIST, "petl.classifier.train=false"],
            "search.start: linear_probe cannot be in the list: petl.classifier.train cannot be",
        ),
    ],
    ids=[
        "no start",
        "empty start",
        "unknown name",
        "no list",
        "not in it",
        "twice",
        "over budget",
        "frozen",
    ],
)
def test_what_is_wrong_with_a_list_is_said_when_it_is_loaded(mistakes, overrides, message):
    assert message in mistakes(MINIMAL, *overrides)[0]


def test_overrides_are_checked_like_the_file(write):
    with pytest.raises(
        SpecError, match=r"in --set: petl\.patt\.targets: 'x' is not one of q, k, v"
    ):
        load_spec(write(), ["petl.patt.targets=[x]"])


# Mutations of real files: whatever they are, the answer is a spec or a sentence.

PATHS = [line.split(":")[0].strip() for line in BARE.splitlines()]
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=10**30, max_value=10**60),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(["all", "auto", "learned", "5%", "2M", "demo", "folder", "x", "tpe", "grid"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.one_of(
                st.sampled_from(["choice", "int", "float", "subset", "log", "min", "step", "name"]),
                st.sampled_from(PATHS),
                st.text(max_size=6),
            ),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=8,
)


def places(tree, path=()):
    yield path
    entries = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in entries:
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))
        else:
            yield (*path, key)


@settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_mutated_files_load_or_give_a_sentence(data, write):
    tree = yaml.safe_load(BARE)
    for _ in range(data.draw(st.integers(1, 3))):
        where = data.draw(st.sampled_from(list(places(tree))))
        value = data.draw(VALUES)
        if not where:
            continue
        place = tree
        for key in where[:-1]:
            place = place[key]
        if isinstance(place, dict) and data.draw(st.booleans()):
            place[data.draw(st.one_of(st.sampled_from(PATHS), st.text(max_size=5)))] = value
        else:
            place[where[-1]] = value
    loads_or_explains(write(yaml.safe_dump(tree, allow_unicode=True).encode()))


@settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_files_with_broken_bytes_load_or_give_a_sentence(data, write):
    content = bytearray(BARE.encode())
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(content)))
        stop = data.draw(st.integers(start, min(start + 40, len(content))))
        piece = data.draw(
            st.one_of(
                st.binary(max_size=6),
                st.sampled_from(
                    [b"{", b"[", b"&a ", b"*a", b"!!set ", b"? ", b"<<: ", b"\n  ", b"-"]
                ),
                st.just(bytes(content[: data.draw(st.integers(0, 60))])),
            )
        )
        content[start:stop] = piece
    loads_or_explains(write(bytes(content)))


def loads_or_explains(path):
    try:
        spec = load_spec(path)
    except SpecError as error:
        for line in str(error).split("\n"):
            assert line.startswith(("x.yaml:", "x.yaml: ", "... and")), line
            assert len(line) < 1000
        return
    Path("again.yaml").write_text(spec.to_yaml())
    assert load_spec("again.yaml") == spec
