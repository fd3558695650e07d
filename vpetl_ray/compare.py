"""A door: `python -m vpetl_ray.compare DIR DIR...` lays the fronts of searches over each other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from vpetl_ray.errors import VpetlError

if TYPE_CHECKING:
    from vpetl_ray.results.comparison import Comparison

EXIT_INPUT = 2


def compare(
    directories: Annotated[
        list[Path],
        typer.Argument(
            metavar="DIR DIR...",
            help="Results folders of searches; ratios are to the first.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Where the pictures go.")] = Path("runs/compare"),
) -> None:
    """Compare searches: fronts over each other, hypervolumes from one reference point.

    Writes compare.png, compare.svg, compare.html and compare.json.

    Exit codes: 0; 2 a folder is no search's.
    """
    # Here, so that `--help` answers at once.
    from vpetl_ray.results import comparison  # noqa: PLC0415
    from vpetl_ray.results.search_folder import read_search  # noqa: PLC0415

    console = Console(markup=False)
    try:
        found = comparison.compare([read_search(directory) for directory in directories])
        out.mkdir(parents=True, exist_ok=True)
        paths = comparison.write_comparison(out, found)
    except VpetlError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(EXIT_INPUT) from None
    console.print(_table(found))
    console.print(comparison.sentence(found), highlight=False, soft_wrap=True)
    for remark in found.remarks:
        console.print(f"mind: {remark}", highlight=False, soft_wrap=True)
    for path in paths:
        console.print(str(path), highlight=False, soft_wrap=True)


def _table(found: Comparison) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("search", overflow="fold", max_width=30)
    for name in ("trials", "front", "hypervolume", "ratio", "best top-1 %"):
        table.add_column(name, justify="right")
    for entry in found.entries:
        best = "-" if entry.best is None else f"{entry.best:.1f}"
        numbers = (f"{entry.num_trials}", f"{len(entry.front)}", f"{entry.hypervolume:.1f}")
        table.add_row(entry.name, *numbers, f"{entry.ratio:.3f}", best)
    return table


def main() -> None:
    """Run the command; also installed as `vpetl-compare`."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(compare)
    app()


if __name__ == "__main__":
    main()
