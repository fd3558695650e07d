"""The paper's tables, trained to their end on the demo: `--set` of data and backbone, nothing else.

python -m benchmarks.paper_tables.bench --work runs/paper_tables [--tables 2 3 4] [--collect]

One search a table, one after the other. A config that several tables share is trained by the first
of them. Whatever is there already is kept: run it again to go on after an interruption. Rows that
have not been trained are null in the results. `docs/paper_tables.md` gets its tables from here.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pandas as pd

from benchmarks.paper_tables.early_test import early
from benchmarks.paper_tables.paper import FILES, ORDERINGS, PAPER, Accuracies, Ordering
from benchmarks.report import (
    Figure,
    describe_commit,
    describe_device,
    print_figures,
    write_summary,
)
from vpetl_ray.spec.load import load_spec
from vpetl_ray.spec.search_spec import SearchSpec

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PAGE = ROOT / "docs" / "paper_tables.md"
BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"
ORDER = ("2", "3", "4", "1", "6", "5")
DEMO = (
    "data.source=demo",
    "data.path=null",
    "backbone.arch=swin3d_nano",
    "backbone.weights=demo",
)
NUM_TEST_CLIPS = 960


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a table on the demo; accuracies in percent, None where it was not trained."""

    table: str
    name: str
    key: str
    """Of what it builds and how it is trained: equal in all tables that have it."""
    trainable_params: int
    val_top1: float | None = None
    test_top1: float | None = None
    epochs: int | None = None
    seconds: float | None = None
    trained_in: str | None = None
    """The table whose search trained it."""


def rows_of(table: str) -> list[Row]:
    spec = demo_spec(table)
    space = spec.space()
    configs = [(trial.name, space.build(trial.values)) for trial in spec.start_plan().trials]
    return [
        Row(table=table, name=name, key=config.key, trainable_params=space.count(config))
        for name, config in configs
    ]


def demo_spec(table: str) -> SearchSpec:
    return load_spec(_file(table), DEMO)


def _file(table: str) -> Path:
    return ROOT / "search_spaces" / "paper" / f"{FILES[table]}.yaml"


def trained_in(work: Path, table: str) -> dict[str, Row]:
    """What the table's own search has finished, by key."""
    path = work / FILES[table] / "trials.parquet"
    if not path.exists():
        return {}
    trials = pd.read_parquet(path).set_index("name")
    early_tests = early(path.parent)
    found = {}
    for row in rows_of(table):
        if row.name not in trials.index or trials.state[row.name] != "complete":
            continue
        trial = trials.loc[row.name]
        test_top1 = early_tests.get(trial.id) if pd.isna(trial.test_top1) else trial.test_top1
        found[row.key] = replace(
            row,
            val_top1=round(float(trial.top1), 2),
            test_top1=None if test_top1 is None else round(float(test_top1), 2),
            epochs=int(trial.epochs),
            seconds=round(float(trial.seconds), 1),
            trained_in=table,
        )
    return found


def train(work: Path, table: str, known: set[str]) -> None:
    """Run the table's search on the rows that no other table has trained, or go on with it."""
    out = work / FILES[table]
    is_begun = (out / "study.db").exists()
    rows = rows_of(table)
    if is_begun:
        only = load_spec(out / "spec.yaml").search.only
        wanted = [row for row in rows if only is None or row.name in only]
    else:
        wanted = [row for row in rows if row.key not in known]
        only = None if len(wanted) == len(rows) else tuple(row.name for row in wanted)
    if is_begun and _is_finished(out, wanted):
        return
    command = [sys.executable, "-m", "vpetl_ray.search", str(_file(table)), "--out", str(out)]
    for override in (*DEMO, *([] if only is None else [f"search.only={json.dumps(only)}"])):
        command += ["--set", override]
    subprocess.run([*command, *(["--resume"] if is_begun else [])], check=True, cwd=ROOT)


def _is_finished(out: Path, wanted: Sequence[Row]) -> bool:
    path = out / "trials.parquet"
    tested = set(pd.read_parquet(path).dropna(subset="test_top1").name) if path.exists() else set()
    return all(row.name in tested for row in wanted)


def collect(work: Path) -> dict[str, list[Row]]:
    """Every table's rows, with what is known of each."""
    known: dict[str, Row] = {}
    for table in ORDER:
        for key, row in trained_in(work, table).items():
            known.setdefault(key, row)

    def filled(row: Row) -> Row:
        there = known.get(row.key)
        return row if there is None else replace(there, table=row.table, name=row.name)

    return {table: [filled(row) for row in rows_of(table)] for table in sorted(FILES)}


def figures_of(tables: dict[str, list[Row]]) -> list[Figure]:
    rows = [row for table in tables.values() for row in table]
    differences = {ordering: difference(ordering, tables) for ordering in ORDERINGS}
    measured = [d for d in differences.values() if d is not None]
    error = pair_error(row.test_top1 for row in rows)
    return [
        Figure(figure="rows of the six tables", value=len(rows)),
        Figure(figure="rows trained", value=sum(row.test_top1 is not None for row in rows)),
        Figure(
            figure="distinct configs trained",
            value=len({row.key for row in rows if row.test_top1 is not None}),
        ),
        Figure(figure="orderings of SSv2 that were looked at", value=len(measured)),
        Figure(figure="of them, the same way on the demo", value=sum(d > 0 for d in measured)),
        Figure(
            figure="of them, the same way by more than two standard errors",
            value=sum(d > 2 * error for d in measured),
        ),
        Figure(
            figure="of them, the other way by more than two standard errors",
            value=sum(d < -2 * error for d in measured),
        ),
        *(
            Figure(
                figure=f"Table {o.table}: {o.above} above {o.below} "
                f"(SSv2 {_signed(o.paper[0])}, HMDB51 {_signed(o.paper[1])})",
                value=found,
                unit="points",
            )
            for o, found in differences.items()
        ),
    ]


def difference(ordering: Ordering, tables: dict[str, list[Row]]) -> float | None:
    """By how many points of test accuracy the row is above on the demo."""
    top1 = {row.name: row.test_top1 for row in tables[ordering.table]}
    above, below = top1[ordering.above], top1[ordering.below]
    return None if above is None or below is None else round(above - below, 2)


def pair_error(top1: Iterable[float | None]) -> float:
    """Standard error of a difference between two typical rows: clips alone, not seeds."""
    shares = sorted(value / 100 for value in top1 if value is not None)
    if not shares:
        return math.nan
    share = shares[len(shares) // 2]
    return 100 * math.sqrt(2 * share * (1 - share) / NUM_TEST_CLIPS)


def markdown(tables: dict[str, list[Row]]) -> str:
    parts = []
    for table in ("2", "3", "4"):
        parts += [f"## {_title(table)}", _table(tables[table])]
    others = [t for t in ("1", "5", "6") if all(row.test_top1 for row in tables[t])]
    for table in others:
        parts += [f"## {_title(table)}", _table(tables[table])]
    return "\n\n".join([*parts, "## Orderings", _ordering_table(tables)])


def _title(table: str) -> str:
    words = {
        "1": "positions",
        "2": "methods and widths",
        "3": "the scale s of PATT (Swin-BAPAT 128)",
        "4": "where PATT is inserted (Swin-BAPAT 128)",
        "5": "ViT-B's rows (on the demo: the nano Swin)",
        "6": "the classifier of Swin-BAPAT",
    }
    return f"Table {table}: {words[table]}"


def _table(rows: Sequence[Row]) -> str:
    lines = [
        "| row | demo: trainable | demo: val | demo: test | paper: SSv2 | paper: HMDB51 |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        ssv2, hmdb51 = PAPER[row.table][row.name]
        cells = [f"{row.trainable_params:,}", _figure(row.val_top1), _figure(row.test_top1)]
        cells += [_figure(ssv2, 2), _figure(hmdb51, 2)]
        lines.append(f"| {row.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _ordering_table(tables: dict[str, list[Row]]) -> str:
    error = pair_error(row.test_top1 for rows in tables.values() for row in rows)
    lines = [
        "| table | above | below | SSv2 | HMDB51 | demo | on the demo |",
        "|---|---|---|---:|---:|---:|---|",
    ]
    for ordering in ORDERINGS:
        found = difference(ordering, tables)
        cells = [*map(_signed, ordering.paper), _signed(found), verdict(found, ordering, error)]
        lines.append(
            f"| {ordering.table} | {ordering.above} | {ordering.below} | {' | '.join(cells)} |"
        )
    return "\n".join(lines)


def verdict(found: float | None, ordering: Ordering, error: float) -> str:
    """Say whom of the paper's two data sets the demo sides with, if it sides."""
    if found is None:
        return "not trained"
    if abs(found) <= 2 * error:
        return "within the noise"
    names = ("SSv2", "HMDB51")
    same = [n for n, d in zip(names, _known(ordering.paper), strict=True) if d * found > 0]
    return f"as on {' and '.join(same)}" if same else "the other way"


def _known(paper: Accuracies) -> tuple[float, float]:
    return paper[0] or 0.0, paper[1] or 0.0


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.1f}"


def _figure(value: float | None, digits: int = 1) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def write(tables: dict[str, list[Row]], commit: str) -> None:
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    for table, rows in tables.items():
        document = {
            "file": str(_file(table).relative_to(ROOT)),
            "overrides": DEMO,
            "device": describe_device(),
            "commit": commit,
            "rows": [asdict(row) for row in rows],
        }
        (results / f"table{table}.json").write_text(json.dumps(document, indent=2) + "\n")
    figures = figures_of(tables)
    print_figures("The paper's tables on the demo", figures)
    write_summary(HERE, figures, commit=commit)
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    page = f"{before}{BEGIN}\n\n{markdown(tables)}\n\n{END}{after}"
    PAGE.write_text(page, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of the searches")
    parser.add_argument("--tables", nargs="+", choices=ORDER, default=list(ORDER))
    parser.add_argument("--collect", action="store_true", help="train nothing")
    parser.add_argument("--commit", help="that trained what is collected, if it is another")
    options = parser.parse_args()
    work = options.work.absolute()
    for table in () if options.collect else options.tables:
        train(work, table, {key for t in ORDER if t != table for key in trained_in(work, t)})
        write(collect(work), options.commit or describe_commit(HERE))
    if options.collect:
        write(collect(work), options.commit or describe_commit(HERE))


if __name__ == "__main__":
    main()
