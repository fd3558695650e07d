import pytest

from vpetl_ray.models.arch import get_arch
from vpetl_ray.petl.config import PetlConfig
from vpetl_ray.petl.count import count_trainable
from vpetl_ray.petl.methods import BitFitConfig, PositionConfig
from vpetl_ray.petl.paper_figures import SSV2, SWIN_B, Figure
from vpetl_ray.petl.paper_table_5 import DATA_SETS, table_5
from vpetl_ray.petl.paper_tables import paper_tables

FIGURES: dict[str, Figure] = {
    f"{table.title}, {row.label}, {column}": figure
    for table in paper_tables()
    for row in table.rows
    for column, figure in zip(table.columns, row.figures, strict=True)
    if figure is not None
}


@pytest.mark.parametrize("figure", FIGURES.values(), ids=FIGURES)
def test_count_is_the_papers_to_its_last_digit_or_a_reason_says_why_not(figure: Figure):
    told = ("SSv2's classifier", "biases alone")
    is_told_why = figure.millions == 7.63 or any(words in figure.reason for words in told)
    assert abs(figure.difference) <= 0.01 or is_told_why
    assert not figure.difference or figure.reason


def test_every_table_has_its_rows():
    assert [len(table.rows) for table in paper_tables()] == [10, 18, 7, 8, 9]


@pytest.mark.parametrize(("train_classifier", "exact"), [(True, 1_292_790), (False, 1_114_440)])
def test_papers_bitfit_is_biases_position_tables_and_norms(train_classifier: bool, exact: int):
    methods = (BitFitConfig(rel_pos=True), PositionConfig(kinds=("norm1", "norm2")))
    config = PetlConfig(methods=methods, train_classifier=train_classifier)
    assert count_trainable(config, get_arch(SWIN_B), SSV2).total == exact
    row = next(row for row in paper_tables()[1].rows if row.label == "BitFit")
    assert round(exact / 1e6, 2) in {figure.millions for figure in row.figures if figure}


def test_table_5_is_the_mean_over_data_sets_and_their_backbones():
    means = [figure.ours for row in table_5().rows for figure in row.figures]
    assert means[:4] == [86_037_130, 67_057, 76_273, 1_256_689]
    assert len(DATA_SETS) == 5


def test_vit_bapat_of_table_5_is_the_papers_without_the_classifier_of_ssv2():
    figures = [row.figures[0] for row in table_5().rows if "BAPAT" in row.label]
    assert len(figures) == 4
    for figure in figures:
        without = figure.ours - 174 * 769 / 5
        assert round(without / 1e6, 2) == figure.millions
        assert figure.difference == 0.03
