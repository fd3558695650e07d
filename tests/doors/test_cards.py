"""The model card: everything that somebody asks of a model whom the search has left behind."""

import json

import av
import pytest
import torch
from mlflow import MlflowClient

import vpetl_ray
from vpetl_ray.inference.find import choose_member
from vpetl_ray.petl.adapter_file import read_header
from vpetl_ray.results.card_files import card_of, renew_cards
from vpetl_ray.results.labels import config_label
from vpetl_ray.results.mlflow_registry import renew_card
from vpetl_ray.results.model_card import CardFacts, model_card
from vpetl_ray.results.records import read_trials

pytestmark = pytest.mark.timeout(280)  # the first one waits for the search


@pytest.fixture(scope="module")
def member(search):
    return choose_member(search, "best")


@pytest.fixture(scope="module")
def record(search, member):
    return next(r for r in read_trials(search / "trials.parquet") if r.id == member["id"])


@pytest.fixture(scope="module")
def adapter(search, member):
    return search / "adapters" / f"{member['id']}.safetensors"


@pytest.fixture(scope="module")
def card(adapter):
    return adapter.with_suffix(".md").read_text()


def cells(card):
    """Read the rows of all its tables: what stands left, to what stands right."""
    rows = [line.strip("|").split(" | ") for line in card.splitlines() if line.startswith("| ")]
    return {row[0].strip(): row[1].strip() for row in rows if len(row) == 2}


def test_a_card_says_all_about_a_model(card, member, record, adapter, videos):
    name = record.name or f"`{config_label(record.config)}`"
    assert card.splitlines()[0] == f"# tiny {member['id']}: {name}"
    told = cells(card)
    assert told["data"] == f"folder ({videos}), 2 classes; 16 train, 8 val, 8 test clips"
    assert told["a clip"].startswith("4 frames at 32 x 32")
    assert told["backbone"] == (
        "swin3d_nano, frozen, 576,676 parameters; weights: the demo's own, hash "
        f"{read_header(adapter)['backbone']}"
    )
    assert "Apache-2.0" in told["backbone's licence"]
    assert "CC BY 4.0" in told["backbone's licence"]
    assert told["trainable parameters"] == told["all"] == f"{member['trainable_params']:,}"
    assert told["top-1, validation"].startswith(f"{member['top1']:.1f}%, by which it was selected")
    assert told["top-1, test"] == f"{member['test_top1']:.1f}% (one seed)"
    assert told["time"].startswith(f"{record.seconds:.1f} s")
    assert told["seed"].partition(";")[0] == "3"
    for version in (
        f"vpetl_ray {vpetl_ray.__version__}",
        f"torch {torch.__version__.partition('+')[0]}",
        f"av {av.__version__}",
    ):
        assert version in told["versions"]
    assert "Classes: left, right" in card
    for path, value in member["config"].items():
        if value is not None:
            shown = str(value).lower() if isinstance(value, bool) else value
            assert f"\n{path}: {shown}\n" in card


def test_its_parts_add_up(card):
    [table] = [part for part in card.split("\n\n") if part.startswith("| part |")]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]
    counts = {name: int(count.replace(",", "")) for name, count in rows}
    assert counts.pop("all") == sum(counts.values())


def test_its_command_makes_the_model_again(trained_again, member):
    [seed] = json.loads((trained_again / "results.json").read_text())["seeds"]
    assert (seed["val_top1"], seed["test_top1"]) == (member["top1"], member["test_top1"])


def test_other_weights_bring_another_licence(record, adapter):
    facts = CardFacts(
        search="mine", data="ssv2", data_path=None, num_clips={"train": 1}, classes=("a", "b"),
        backbone="swin3d_b", backbone_params=1, weights="/w/swin_base.pth", seed=0,
    )  # fmt: skip
    told = cells(model_card(facts, record, adapter))
    assert "weights: the file swin_base.pth, hash " in told["backbone"]
    assert "publisher" in told["backbone's licence"]
    assert "Apache" not in told["backbone's licence"]


def test_several_seeds_are_told_in_the_card_and_in_mlflow(search, member, adapter, card):
    confirmed, before = search / "confirmed.json", None
    if confirmed.is_file():
        before = confirmed.read_bytes()
    entry = {
        "id": member["id"],
        "mean": {"val_top1": 81.25, "test_top1": 80.0},
        "sd": {"val_top1": 1.26, "test_top1": None},
        "seeds": [{"seed": 4}, {"seed": 5}],
    }
    store = MlflowClient(f"sqlite:///{search}/mlflow.db")
    [version] = [
        v for v in store.search_model_versions("name = 'tiny'") if v.tags["trial"] == member["id"]
    ]
    try:
        confirmed.write_text(json.dumps({"members": [entry]}))
        cards = renew_cards(search, [member["id"], "t9999"])
        assert cards == {member["id"]: adapter.with_suffix(".md").read_text()}
        told = cells(cards[member["id"]])
        assert told["top-1, validation, confirmed"] == "81.2% ± 1.3 over seeds 4, 5"
        assert told["top-1, test, confirmed"] == "80.0% over seeds 4, 5"
        assert told["seed"] == "3; confirmed with seeds 4, 5"
        renew_card(store, version.run_id, cards[member["id"]])
        now = store.get_model_version("tiny", version.version)
        assert now.description == cards[member["id"]]
    finally:
        confirmed.unlink()
        if before is not None:
            confirmed.write_bytes(before)
        adapter.with_suffix(".md").write_text(card)
        renew_card(store, version.run_id, card)
    assert cells(card_of(search, member["id"]))["trainable parameters"]
