"""A door: `python -m vpetl_ray.prepare SPEC.yaml` decodes a data set into its clip store."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from vpetl_ray.data.prepare_store import PreparedStore, prepare_store
from vpetl_ray.data.store_files import BuildProgress
from vpetl_ray.errors import VpetlError
from vpetl_ray.spec.load import load_spec

EXIT_INPUT, EXIT_INTERRUPTED = 2, 130
_MAX_SHOWN = 20


def prepare(
    spec: Annotated[Path, typer.Argument(help="The search space file (YAML).", show_default=False)],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY.PATH=VALUE", help="Override a value of the file."),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(min=1, help="Decoder processes.", show_default="one for each core"),
    ] = None,
) -> None:
    """Decode the videos of a spec into the clip store that the search reads.

    A search does this by itself where it was not done before. A store that is there already is
    checked and kept. Exit codes: 0 the store is ready; 2 the spec or the videos are wrong;
    130 interrupted (nothing is left behind).
    """
    console = Console()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        config = load_spec(spec, overrides or []).data_config()
        with _progress(console) as watch:
            prepared = prepare_store(config, num_processes=processes, progress=watch)
    except VpetlError as error:
        Console(stderr=True).print(str(error), style="red", markup=False, highlight=False)
        raise typer.Exit(EXIT_INPUT) from None
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted; nothing was kept")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    _report(console, prepared)


class _Watch:
    """Shows a build's progress, from the first decoded video on with a bar."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        # The demo draws its videos first, a large folder takes a while to list.
        self._task = progress.add_task("finding videos", total=None, speed="", size="", skipped="")
        self._start: float | None = None

    def __call__(self, state: BuildProgress) -> None:
        now = time.monotonic()
        self._start = self._start or now
        speed = (state.num_done - 1) / (now - self._start) if now > self._start else 0.0
        self._progress.update(
            self._task,
            description="decoding",
            total=state.num_videos,
            completed=state.num_done,
            speed=f"{speed:,.0f} clips/s",
            size=f"{state.num_bytes / 1e6:,.0f} MB",
            skipped=f"{state.num_skipped} skipped" if state.num_skipped else "",
        )


@contextmanager
def _progress(console: Console) -> Iterator[_Watch]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TextColumn("{task.fields[size]}"),
        TextColumn("[yellow]{task.fields[skipped]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield _Watch(progress)


def _report(console: Console, prepared: PreparedStore) -> None:
    store = prepared.store
    for note in prepared.notes:
        console.print(f"note: {note}", markup=False, highlight=False)
    if store.skipped:
        console.print(f"{len(store.skipped)} videos could not be read and were skipped:")
        for entry in store.skipped[:_MAX_SHOWN]:
            name = entry.path if entry.path.isprintable() else repr(entry.path)
            console.print(f"  {name}: {entry.reason}", markup=False, highlight=False)
        if len(store.skipped) > _MAX_SHOWN:
            console.print(f"  and {len(store.skipped) - _MAX_SHOWN} more")
    seals = store.manifest.files
    table = Table.grid(padding=(0, 2))
    table.add_row("clips", ", ".join(f"{split} {seals[split].num_clips:,}" for split in seals))
    table.add_row("classes", f"{len(store.classes):,}")
    table.add_row("size", f"{store.num_bytes / 1e6:,.1f} MB")
    if prepared.was_built:
        speed = store.num_clips / prepared.seconds
        table.add_row("decoded in", f"{prepared.seconds:.1f} s, {speed:,.0f} clips/s")
    else:
        table.add_row("decoded", "before; found whole")
    console.print(table)
    console.print(f"store     {store.path}", markup=False, highlight=False, soft_wrap=True)


def main() -> None:
    """Run the command line."""
    typer.run(prepare)


if __name__ == "__main__":
    main()
