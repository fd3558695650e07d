"""A door: `python -m vpetl_ray.predict MODEL VIDEO...` says what is in videos."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vpetl_ray.door_options import Backbone, Device, Model, TrackingUri
from vpetl_ray.errors import DataError, VpetlError
from vpetl_ray.loading import load

if TYPE_CHECKING:
    from vpetl_ray.inference.video_model import Prediction

EXIT_SKIPPED, EXIT_INPUT = 1, 2


def predict(
    model: Model,
    videos: Annotated[
        list[Path],
        typer.Argument(metavar="VIDEO...", help="Files, or folders of files.", show_default=False),
    ],
    top: Annotated[int, typer.Option(min=1, help="Classes to show of each video.")] = 5,
    all_views: Annotated[
        bool,
        typer.Option(
            "--all-views", help="Average over all views of final figures, not the middle alone."
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a line of JSON for each video.")
    ] = False,
    backbone: Backbone = None,
    device: Device = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """Classify videos.

    Exit codes: 0; 1 a video could not be read and was skipped; 2 the model or the input is wrong.
    """
    console = Console(markup=False)
    try:
        files = list(_files(videos))
        loaded = load(model, backbone=backbone, device=device, tracking_uri=tracking_uri)
    except VpetlError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(EXIT_INPUT) from None
    answers = loaded.predict_many(files, views="all" if all_views else "centre")
    skipped = list(_show(console, answers, top, as_json=as_json))
    for reason in skipped:
        typer.echo(f"skipped: {printable(str(reason))}", err=True)
    if skipped:
        raise typer.Exit(EXIT_SKIPPED)


def _files(videos: Sequence[Path]) -> Iterator[Path]:
    """Give the files that are meant: of a folder, all that are videos by their name."""
    from vpetl_ray.data.folder import VIDEO_SUFFIXES  # noqa: PLC0415 - not for `--help`

    for path in videos:
        if not path.is_dir():
            yield path
            continue
        found = sorted(p for p in path.rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES)
        if not found:
            raise DataError(f"{path}: has no videos ({', '.join(sorted(VIDEO_SUFFIXES))})")
        yield from found


def _show(
    console: Console, answers: Iterable[Prediction | DataError], top: int, *, as_json: bool
) -> Iterator[DataError]:
    """Show each answer when it is there; give what could not be read."""
    if console.is_terminal and not as_json:
        table = _table(top)
        for answer in answers:
            if isinstance(answer, DataError):
                yield answer
            else:
                _add(table, answer, top)
        if table.row_count:
            console.print(table)
        return
    for answer in answers:
        if isinstance(answer, DataError):
            yield answer
        elif as_json:
            typer.echo(json.dumps({"video": answer.video, "top": dict(answer.top(top))}))
        else:
            told = ", ".join(f"{printable(label)} {100 * p:.1f}%" for label, p in answer.top(top))
            typer.echo(f"{printable(answer.video)}: {told}")


def printable(text: str) -> str:
    """Give a name as a terminal may have it: what is no character to be seen is escaped."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


def _table(top: int) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("video", overflow="fold", max_width=34)
    table.add_column("class" if top == 1 else f"top {top}")
    table.add_column("%", justify="right")
    table.add_column("")
    return table


def _add(table: Table, answer: Prediction, top: int) -> None:
    for rank, (label, probability) in enumerate(answer.top(top)):
        name = printable(answer.video) if rank == 0 else ""
        style = "bold" if rank == 0 else "dim"
        bar = "█" * round(20 * probability)
        table.add_row(name, Text(printable(label), style=style), f"{100 * probability:.1f}", bar)


def main() -> None:
    """Run the command; also installed as `vpetl-predict`."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(predict)
    app()


if __name__ == "__main__":
    main()
