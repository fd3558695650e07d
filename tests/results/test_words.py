import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpetl_ray.addresses import redact
from vpetl_ray.results.environment import environment_facts, git_facts
from vpetl_ray.results.front import front_of
from vpetl_ray.results.labels import config_label, count_label
from vpetl_ray.results.summary import search_markdown
from vpetl_ray.results.tracking_info import TrackingInfo
from vpetl_ray.results.tracking_uri import store_in, ui_command


@pytest.mark.parametrize(
    ("count", "label"),
    [
        (0, "0"),
        (950, "950"),
        (1000, "1k"),
        (1548, "1.55k"),
        (38_924, "38.9k"),
        (999_600, "1M"),
        (87_638_984, "87.6M"),
        (3e9, "3G"),
        (4e12, "4e+03G"),
    ],
)
def test_counts_are_shown_with_three_figures(count: float, label: str) -> None:
    assert count_label(count) == label


@given(count=st.integers(0, 10**11))
def test_a_shown_count_is_right_to_half_a_percent(count: int) -> None:
    text = count_label(count)
    scale = {"k": 1e3, "M": 1e6, "G": 1e9}.get(text[-1], 1)
    assert float(text.rstrip("kMG")) * scale == pytest.approx(count, rel=0.005)


@pytest.mark.parametrize(
    ("config", "label", "brief"),
    [
        (
            {
                "petl.patt.targets": "kv",
                "petl.patt.d_bottle": 8,
                "petl.patt.scale": 0.8123,
                "petl.adapter.enabled": True,
                "petl.adapter.placement": "sequential",
                "petl.adapter.d_bottle": 16,
                "petl.adapter.scale": "learned",
                "petl.adapter.stages": "1+3",
            },
            "patt kv d8 s0.81 + adapter sequential d16 slearned @1+3",
            "patt kv d8 + adapter d16",
        ),
        (
            {
                "petl.patt.targets": "kv",
                "petl.patt.stages": "1+2+3",
                "petl.patt.blocks": "1+2+3+6+9+10",
                "petl.patt.d_bottle.stage1": 8,
                "petl.patt.d_bottle.stage2": None,
                "petl.patt.d_bottle.stage3": 4,
                "petl.patt.scale.stage1": 0.5,
                "petl.patt.scale.stage2": 0.5,
                "petl.patt.scale.stage3": 0.5,
                "petl.adapter.blocks": "none",
                "petl.adapter.d_bottle.stage1": None,
                "petl.position.enabled": True,
                "petl.position.kinds": "none",
            },
            "patt kv #1-3+6+9+10 d8/-/4 s0.5",
            "patt kv d8/-/4",
        ),
        (
            {"petl.patt.targets": None, "petl.patt.d_bottle": None, "petl.adapter.enabled": False},
            "linear probe",
            "linear probe",
        ),
        ({"petl.patt.targets": "", "petl.classifier.train": False}, "nothing trained", None),
        ({"petl.lora.rank": 4, "training.learning_rate": 0.1}, "lora r4", "lora r4"),
        (
            {
                "petl.position.kinds": "norm1+qkv",
                "petl.prompt.num_tokens": 8,
                "petl.prompt.depth": "deep",
                "petl.prompt.way": "overlap",
                "petl.bitfit.enabled": True,
                "petl.bitfit.rel_pos": True,
                "petl.bitfit.stages": "1+2",
            },
            "position norm1+qkv + prompt n8 overlap + bitfit rel_pos @1+2",
            "position norm1+qkv + prompt n8 + bitfit",
        ),
        ({}, "linear probe", "linear probe"),
    ],
    ids=["both", "layerwise", "off", "frozen", "a method to come", "in place", "empty"],
)
def test_a_config_in_few_words(config, label: str, brief: str | None) -> None:
    assert config_label(config) == label
    assert config_label(config, brief=True) == (brief or label)


def test_the_description_names_the_front_and_fits_into_a_tag(make_record) -> None:
    records = [make_record(i, 1000 + i, 20.0 + i / 10, test_top1=19.0) for i in range(500)]
    front = front_of(records)
    text = search_markdown("Where to adapt.", records, front, budget=34_409)
    assert text.startswith("Front of 500: smallest **t0000** (20.0% with 1k)")
    assert "| t0000 | 1k | 20.0% | 19.0% | 20.0 | `patt kv d8 s0.8` |" in text
    assert "24 of 500 shown" in text
    assert "500 complete" in text
    assert "34,409" in text
    assert len(text) < 4000, "MLflow keeps 5000 characters, links included"


def test_of_long_configs_fewer_are_listed_and_nothing_else_is_lost(make_record) -> None:
    config = {f"petl.{name}.blocks": "1+3+5+8+11+14" for name in ("patt", "adapter", "lora", "x")}
    config |= {f"petl.{name}.d_bottle.stage{i}": i for name in ("patt", "lora") for i in range(4)}
    records = [make_record(i, 1000 + i, 20.0 + i / 10, config=config) for i in range(30)]
    text = search_markdown("Where.", records, records, name="big", findings="What mattered: it.")
    assert len(text) < 4000
    assert " of 30 shown" in text
    assert "What mattered: it." in text
    assert "`python -m vpetl_ray.predict models:/big@knee VIDEO.mp4`" in text


def test_the_description_before_the_first_trial() -> None:
    assert search_markdown("Where to adapt.", [], []) == "Trials: none yet.\n\nWhere to adapt.\n"


SECRET_URIS = [
    "postgresql://ann:hunter22@db.example/mlflow",
    "https://ann:hunter22@mlflow.example:5000/base",
    "https://hunter22@mlflow.example",
    "mysql+pymysql://db.example/mlflow?ssl=1&password=hunter22",
    "postgresql://ann:hunter22%3B@db.example/mlflow",
]


@pytest.mark.parametrize("uri", SECRET_URIS)
def test_credentials_of_an_address_are_never_shown(uri: str) -> None:
    decoded = "hunter22;" if "%3B" in uri else "hunter22"
    for text in (ui_command(uri), redact(f"cannot reach {uri}: {decoded} refused", uri)):
        assert "hunter22" not in text
        assert "***" in text
        assert ".example" in text


def test_an_address_without_credentials_is_shown_as_it_is() -> None:
    uri = "http://mlflow.example:5000/#/x?view=front"
    assert redact(f"at {uri}", uri) == f"at {uri}"
    assert ui_command("https://mlflow.example") == "https://mlflow.example"


def test_the_ui_command_quotes_what_a_shell_would_split(tmp_path) -> None:
    uri, artifacts = store_in(tmp_path / "my runs")
    command = ui_command(uri)
    assert command.endswith(f"--backend-store-uri 'sqlite:///{tmp_path}/my runs/mlflow.db'")
    assert command.startswith(("python -m mlflow ui ", f"{sys.executable} -m mlflow ui "))
    assert artifacts.startswith("file:///")
    assert artifacts.endswith("my%20runs/mlartifacts")


def test_the_environment_is_found_without_a_repository(tmp_path) -> None:
    facts = environment_facts(tmp_path)
    assert facts["python"] == sys.version.split()[0]
    assert {"torch", "ray", "optuna", "mlflow", "platform"} <= set(facts)
    assert git_facts(tmp_path) == {}


def test_a_search_id_that_would_break_a_query_is_refused() -> None:
    with pytest.raises(ValueError, match="search_id: letters"):
        TrackingInfo(search_id="a' or 1", name="n", uri="", experiment="e", spec_text="")


def test_a_method_without_targets_is_not_named():
    config = {"petl.patt.targets": "none", "petl.adapter.d_bottle": 4}
    assert config_label(config) == "adapter d4"
