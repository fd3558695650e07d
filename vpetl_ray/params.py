"""A door: what every part of a config costs in trainable parameters, without building anything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from vpetl_ray.errors import VpetlError

if TYPE_CHECKING:
    from vpetl_ray.petl.count import Count
    from vpetl_ray.petl.paper_figures import Figure, PaperTable
    from vpetl_ray.spec.search_spec import SearchSpec
    from vpetl_ray.tuning.domains import Domain, Value
    from vpetl_ray.tuning.space import Space, TrialConfig

EXIT_INPUT = 2
LEARNED = "learned"
_MIN_WIDTH = 80
_LABEL_WIDTH = 18
_COLUMN_WIDTH = 14
_MARKS = "*#^+"  # one column each: tables must fit into 80


def params(
    spec: Annotated[
        Path | None, typer.Argument(help="A search space file (YAML).", show_default=False)
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY.PATH=VALUE", help="Override a value of the file."),
    ] = None,
    classes: Annotated[
        int | None, typer.Option(min=1, help="Classes of the data, if the file does not say.")
    ] = None,
    paper: Annotated[
        bool, typer.Option("--paper", help="Print the paper's tables beside our counts.")
    ] = False,
) -> None:
    """List the trainable parameters of a space's configs, part by part; or the paper's tables.

    Exit codes: 0; 2 the spec is wrong.
    """
    console = Console(markup=False)
    if console.width < _MIN_WIDTH and not console.is_terminal:
        console = Console(width=_MIN_WIDTH, markup=False)
    try:
        if paper == (spec is not None):
            raise VpetlError("give a search space file or --paper, one of the two")
        if spec is None:
            _print_paper(console)
        else:
            from vpetl_ray.spec.load import load_spec  # noqa: PLC0415 --paper needs none of it

            _print_spec(console, load_spec(spec, overrides or []), classes)
    except VpetlError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(EXIT_INPUT) from None


def _print_spec(console: Console, spec: SearchSpec, num_classes: int | None) -> None:
    from vpetl_ray.models.arch import count_backbone  # noqa: PLC0415
    from vpetl_ray.petl.count import count_trainable  # noqa: PLC0415

    num_classes = spec.classes(num_classes)
    backbone = count_backbone(spec.arch)
    limit = spec.given_budget
    configs = _configs(spec, num_classes)
    counts = {
        name: count_trainable(config.petl, spec.arch, num_classes)
        for name, config in configs.items()
    }
    console.print(
        f"{spec.name}: {spec.backbone.arch}, {_spaced(backbone)} frozen parameters, "
        f"{num_classes} classes, " + ("no budget" if limit is None else f"budget {_spaced(limit)}"),
        highlight=False,
        soft_wrap=True,
    )
    per_table = max(1, (console.width - _LABEL_WIDTH) // _COLUMN_WIDTH)
    names = iter(counts)
    while some := list(islice(names, per_table)):
        chosen = {name: counts[name] for name in some}
        console.print()
        console.print(_parts_table(chosen, _part_names(counts), backbone, limit))
    console.print()
    for name, config in configs.items():
        console.print(f"{name} = {config.describe()}", highlight=False, soft_wrap=True)


def _part_names(counts: Mapping[str, Count]) -> list[str]:
    """Name every part of any config, the classifier last."""
    from vpetl_ray.petl.count import CLASSIFIER  # noqa: PLC0415

    parts = {part for count in counts.values() for part in count.parts}
    return sorted(parts, key=lambda part: (part == CLASSIFIER, part))


def _parts_table(
    counts: Mapping[str, Count], parts: Sequence[str], backbone: int, limit: int | None
) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("trainable", no_wrap=True)
    for name in counts:
        table.add_column(name, justify="right", max_width=_COLUMN_WIDTH - 2)
    for part in parts:
        cells = (count.parts.get(part, 0) for count in counts.values())
        table.add_row(part, *(_spaced(cell) if cell else "-" for cell in cells))
    totals = [count.total for count in counts.values()]
    table.add_section()
    table.add_row("total", *(_spaced(total) for total in totals), style="bold")
    table.add_row("of the backbone", *(f"{total / backbone:.2%}" for total in totals))
    if limit is not None:
        within = ("yes" if total <= limit else "no" for total in totals)
        table.add_row("within the budget", *within)
    return table


def _configs(spec: SearchSpec, num_classes: int) -> dict[str, TrialConfig]:
    """Pick the smallest config, those that are tried first, and the largest."""
    from vpetl_ray.tuning.space_size import smallest_values  # noqa: PLC0415

    space = spec.space(num_classes)
    start = spec.start_plan(num_classes)
    return {
        "smallest": space.build(smallest_values(space)),
        **{trial.name: space.build(trial.values) for trial in start.trials},
        "largest": space.build(_largest_values(space)),
    }


def _largest_values(space: Space) -> Mapping[str, Value]:
    """Find a config with the most trainable parameters.

    More targets, width, stages, and a learned scale never cost less, so only alternatives that
    cannot be ordered that way are compared.
    """
    from vpetl_ray.tuning.method_space import base_of  # noqa: PLC0415

    methods = space.methods.values()
    counted = {m.path(f) for m in methods for f in m.domains if base_of(f) in m.counted}
    candidates = [
        list(_large_members(domain, is_counted=path in counted))
        for path, domain in space.domains.items()
    ]
    choices = (dict(zip(space.domains, chosen, strict=True)) for chosen in product(*candidates))

    def values(wanted: Mapping[str, Value]) -> Mapping[str, Value]:
        return space.walk(lambda path, _: wanted[path])

    return max(map(values, choices), key=lambda chosen: space.count(space.build(chosen)))


def _large_members(domain: Domain, *, is_counted: bool) -> Iterator[Value]:
    from vpetl_ray.tuning.domains import FloatRange, IntRange, Subset  # noqa: PLC0415
    from vpetl_ray.tuning.method_space import grid_members  # noqa: PLC0415

    if isinstance(domain, IntRange | FloatRange):
        yield domain.high
        return
    if isinstance(domain, Subset):
        yield domain.items
        return
    members = list(grid_members(domain, 1))
    # Some members have no order: lists, words such as a kernel's, and null.
    odd = [m for m in members if m is None or (isinstance(m, str) and m != LEARNED)]
    is_list = all(isinstance(member, tuple) for member in members)
    if is_list or (is_counted and odd):
        yield from members
    else:
        # Of numbers the largest; true before false; "learned" before all.
        yield max(members, key=_size)


def _size(member: Value) -> float:
    if isinstance(member, str):
        return float("inf") if member == LEARNED else -1.0
    return float(member) if isinstance(member, int | float) else -2.0


def _print_paper(console: Console) -> None:
    from vpetl_ray.petl.paper_tables import paper_tables  # noqa: PLC0415

    for table in paper_tables():
        reasons: dict[str, str] = {}
        console.print(_paper_table(table, reasons))
        for reason, mark in reasons.items():
            console.print(f"{mark} {reason}", highlight=False, style="dim")
        console.print()
    console.print(
        "Ours is exact, by arithmetic, for Video Swin-B, in Table 5 for ViT-B; the difference is "
        "ours less the paper's, both in millions with two decimals.",
        highlight=False,
    )


def _paper_table(table: PaperTable, reasons: dict[str, str]) -> Table:
    shown = Table(
        title=table.title, title_justify="left", box=None, pad_edge=False, header_style="bold"
    )
    shown.add_column("trainable parameters", no_wrap=True)
    for column in table.columns:
        shown.add_column(f"{column}\npaper", justify="right")
        shown.add_column("\nours", justify="right", no_wrap=True)
        shown.add_column("\ndiff.", justify="left", no_wrap=True)
    for row in table.rows:
        cells = [cell for figure in row.figures for cell in _figure_cells(figure, reasons)]
        shown.add_row(row.label, *cells)
    return shown


def _figure_cells(figure: Figure | None, reasons: dict[str, str]) -> Sequence[str]:
    if figure is None:
        return "", "", ""
    difference = figure.difference
    if not difference:
        return f"{figure.millions:.2f}M", _spaced(figure.ours), " 0.00"
    mark = reasons.setdefault(figure.reason, _MARKS[len(reasons)])
    return f"{figure.millions:.2f}M", _spaced(figure.ours), f"{difference:+.2f}{mark}"


def _spaced(number: int) -> str:
    return f"{number:,}".replace(",", " ")


def main() -> None:
    """Run the command; also installed as `vpetl-params`."""
    typer.run(params)


if __name__ == "__main__":
    main()
