import pytest

from vpetl_ray.petl.paper_tables import Figure, paper_tables

FIGURES: dict[str, Figure] = {
    f"{table.title}, {row.label}, {column}": figure
    for table in paper_tables()
    for row in table.rows
    for column, figure in zip(table.columns, row.figures, strict=True)
    if figure is not None
}


@pytest.mark.parametrize("figure", FIGURES.values(), ids=FIGURES)
def test_count_is_the_papers_to_its_last_digit_or_a_reason_says_why_not(figure: Figure):
    is_contradiction = figure.millions == 7.63
    assert abs(figure.difference) <= 0.01 or is_contradiction
    assert not figure.difference or figure.reason


def test_every_table_has_its_rows():
    assert [len(table.rows) for table in paper_tables()] == [2, 14, 5, 7]
