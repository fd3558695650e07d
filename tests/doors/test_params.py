from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from vpetl_ray.params import _largest_values, params
from vpetl_ray.spec.load import load_spec
from vpetl_ray.tuning.space_size import smallest_values

FLAGSHIP = Path(__file__).parents[2] / "search_spaces" / "position_scale.yaml"

app = typer.Typer()
app.command()(params)


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_paper_prints_its_figure_ours_and_the_difference_within_80_columns():
    result = run("--paper")
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert max(map(len, lines)) <= 80
    for title in ("Table 1", "Table 2", "Table 4", "Table 5", "Table 6"):
        assert any(line.startswith(title) for line in lines)
    for row in (
        "Full-tuning 87.82M 87 817 334 0.00",
        "Tune FC Layer 0.18M 178 350 0.00 0.05M 52 275 0.00",
        "AdaptFormer-Swin 64 1.73M 1 732 014 0.00 1.61M 1 605 939 0.00",
        "Attn, SoftMax 0.95M 953 160 0.00",
        "BitFit 1.29M 315 566 -0.97* 1.11M 137 216 -0.97*",
        "Prefix 128, 17 tokens 6.57M 6 573 486 0.00 6.40M 6 395 136 0.00",
        "Concat (K, V) 6.38M 6 379 438 0.00 6.20M 6 201 088 0.00",
        "No Z (K, V) 8.74M 8 737 710 0.00 8.56M 8 559 360 0.00",
        "PATT 32 1.35M 1 358 254 +0.01# 1.17M 1 179 904 +0.01#",
        "Swin-BAPAT 256 11.00M 11 002 798 0.00 10.83M 10 824 448 -0.01#",
        "Ours (Q, K, V) 7.93M 7 931 566 0.00 7.63M 7 753 216 +0.12*",
        "Full-tuning 86.04M 86 037 130 0.00",
        "VPT, 1 deep token 0.08M 76 273 0.00",
        "AdaptFormer-64 1.26M 1 256 689 0.00",
        "Our ViT-BAPAT-128 4.79M 4 815 601 +0.03*",
        "Swin-BAPAT 32 2.79M 2 785 843 0.00 2.74M 2 733 568 -0.01*",
    ):
        assert row.split() in [line.split() for line in lines]


def test_spec_is_listed_part_by_part_from_the_smallest_to_the_largest_config():
    result = run(FLAGSHIP)
    assert result.exit_code == 0
    assert max(len(line) for line in result.output.splitlines()) <= 100
    summary = load_spec(FLAGSHIP).space().summary()
    for text in ("patt.stage1", "adapter.stage3", "classifier", "total", "of the backbone"):
        assert text in result.output
    for count in (summary.smallest, summary.largest):
        assert f"{count:,}".replace(",", " ") in result.output
    assert "linear probe" in result.output


@pytest.mark.parametrize(
    "override",
    [
        "seed=0",
        "petl.patt.stages={choice: [[1, 2], [3]]}",
        "petl.patt.scale={choice: [0.5, learned]}",
        "petl.patt.targets={choice: [[q], [k, v], [q, v]]}",
        "petl.adapter.d_bottle={int: [3, 50]}",
    ],
)
def test_largest_and_smallest_config_are_those_of_the_summary(override: str):
    space = load_spec(FLAGSHIP, [override]).space()
    summary = space.summary()
    assert space.count(space.build(_largest_values(space))) == summary.largest
    assert space.count(space.build(smallest_values(space))) == summary.smallest


def test_override_and_classes_change_the_counts():
    result = run(FLAGSHIP, "--set", "petl.adapter.d_bottle=64")
    assert "8 384" in result.output
    assert result.exit_code == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "give a search space file or --paper, one of the two"),
        ((FLAGSHIP, "--paper"), "one of the two"),
        (("absent.yaml",), "absent.yaml: no such file"),
        ((FLAGSHIP, "--set", "petl.patt.d_bottle=0"), "petl.patt.d_bottle"),
    ],
    ids=["nothing", "both", "no file", "bad value"],
)
def test_mistake_is_one_sentence_and_exit_code_2(words: tuple[object, ...], message: str):
    result = run(*words)
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output
