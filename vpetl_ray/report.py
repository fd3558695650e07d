"""A door: `python -m vpetl_ray.report DIR` draws a search, also one that runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vpetl_ray.errors import VpetlError

EXIT_INPUT = 2


def report(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="A search's results folder.", show_default=False)
    ],
    out: Annotated[
        Path | None, typer.Option(help="Where the files go.", show_default="the folder itself")
    ] = None,
) -> None:
    """Draw a search: report.html, one page that needs no network, and every figure as PNG and SVG.

    Of a search that runs, what is known so far; its page then renews itself.

    Exit codes: 0; 2 it is no search's folder.
    """
    try:
        paths = _draw(directory, out or directory)
    except VpetlError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(EXIT_INPUT) from None
    for path in paths:
        typer.echo(str(path))


def _draw(directory: Path, out: Path) -> list[Path]:
    # Here, so that `--help` answers at once.
    from vpetl_ray.models.arch import get_arch  # noqa: PLC0415
    from vpetl_ray.results.figures import plot_front  # noqa: PLC0415
    from vpetl_ray.results.objective_figure import plot_objectives  # noqa: PLC0415
    from vpetl_ray.results.paper_points import paper_points  # noqa: PLC0415
    from vpetl_ray.results.report import write_report  # noqa: PLC0415
    from vpetl_ray.results.search_files import OBJECTIVES_FIGURE  # noqa: PLC0415
    from vpetl_ray.results.search_folder import read_search  # noqa: PLC0415
    from vpetl_ray.results.search_page import write_search_page  # noqa: PLC0415

    search = read_search(directory)
    facts, records = search.facts, search.records
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / "front.png", out / "front.svg"]
    for path in paths:
        plot_front(
            records,
            path,
            title=facts.name,
            subtitle=f"{facts.backbone}, frozen",
            budget=facts.budget,
            paper=paper_points(facts.backbone, facts.data),
        )
    if facts.references:
        further = [out / OBJECTIVES_FIGURE, (out / OBJECTIVES_FIGURE).with_suffix(".svg")]
        for path in further:
            plot_objectives(records, tuple(facts.references), path, title=facts.name)
        paths += further
    written = write_report(
        out,
        records,
        name=facts.name,
        arch=get_arch(facts.backbone),
        max_params=facts.backbone_params,
        references=facts.references,
        also_svg=True,
    )
    pictures = [path for path in written.files if path.suffix == ".png"]
    paths += [p for picture in pictures for p in (picture, picture.with_suffix(".svg"))]
    # With the importances that were found just now, whether it runs or not.
    page = write_search_page(out, facts, records, is_running=search.is_running)
    return [*paths, page]


def main() -> None:
    """Run the command; also installed as `vpetl-report`."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(report)
    app()


if __name__ == "__main__":
    main()
