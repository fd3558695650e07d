"""A door: `python -m vpetl_ray.prepare SPEC.yaml` decodes a data set into its clip store."""

from __future__ import annotations

import logging
import os
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

from vpetl_ray.data.decode_pool import usable_cores
from vpetl_ray.data.decoder import MakeDecoder
from vpetl_ray.data.prepare_store import PreparedStore, prepare_store
from vpetl_ray.data.store_files import BuildProgress
from vpetl_ray.decode_words import before_sentence
from vpetl_ray.errors import VpetlError
from vpetl_ray.exits import EXIT_INPUT, run_door
from vpetl_ray.spec.load import load_spec
from vpetl_ray.stop_signals import exit_code, ignore_signals

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
    address: Annotated[
        str | None,
        typer.Option(
            help="A Ray cluster to decode on, if it has more cores; RAY_ADDRESS is used, too.",
            show_default="this machine",
        ),
    ] = None,
) -> None:
    """Decode the videos of a spec into the clip store that the search reads.

    A search does this by itself where it was not done before. A store that is there already is
    checked and kept. One that was broken off goes on from what was decoded. Exit codes: 0 the store
    is ready; 2 the spec or the videos are wrong; 130 interrupted by Ctrl-C, 143 by SIGTERM, the
    same command goes on.
    """
    console = Console(markup=False)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    watch = _Watch()
    try:
        config = load_spec(spec, overrides or []).data_config()
        with _progress(console, watch):
            videos = config.list_videos(num_processes=processes or usable_cores())
            watch.found(videos.num_videos)
            prepared = prepare_store(
                config,
                data_set=videos,
                num_processes=processes,
                make_decoder=_decoder_of(address, processes),
                progress=watch,
            )
    except VpetlError as error:
        Console(stderr=True).print(str(error), style="red", markup=False, highlight=False)
        raise typer.Exit(EXIT_INPUT) from None
    except KeyboardInterrupt:
        ignore_signals()
        Console(stderr=True).print(watch.last_words, markup=False, highlight=False)
        raise typer.Exit(exit_code()) from None
    _report(console, prepared)


def _decoder_of(address: str | None, num_processes: int | None) -> MakeDecoder | None:
    if not (address or os.environ.get("RAY_ADDRESS")):
        return None  # and Ray, whose import takes seconds, is left alone
    from vpetl_ray.tuning.ray_decode import cluster_decoder  # noqa: PLC0415

    return cluster_decoder(address, num_processes=num_processes)


class _Watch:
    """Shows a build's progress, from the first decoded video on with a bar."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._state: BuildProgress | None = None
        self._start = 0.0

    @property
    def last_words(self) -> str:
        """What is said of a build that was interrupted."""
        if self._state is None:
            return "interrupted before anything was decoded"
        done, of = self._state.num_done, self._state.num_videos
        return f"interrupted at {done:,} of {of:,} clips; the same command goes on from about there"

    def begin(self, progress: Progress) -> None:
        """Show progress here."""
        self._progress = progress
        # The demo draws its videos first, a large folder takes a while to list.
        self._task = progress.add_task("finding videos", total=None, speed="", size="", skipped="")

    def found(self, num_videos: int) -> None:
        """Show what is waited for until the first video is decoded."""
        assert self._progress is not None
        self._progress.update(self._task, description="starting decoders", total=num_videos)

    def __call__(self, state: BuildProgress) -> None:
        assert self._progress is not None
        is_first_new = self._state is None or self._state.num_done == self._state.num_before
        self._state = state
        new = state.num_done - state.num_before
        if new and is_first_new:
            self._begin_new(state)
        seconds = time.monotonic() - self._start
        speed = f"{(new - 1) / seconds:,.0f} clips/s" if new > 1 and seconds > 0 else ""
        self._progress.update(
            self._task,
            description=f"decoding, {state.place}" if new else "decoded before",
            total=state.num_videos,
            completed=state.num_done,
            speed=speed,
            size=f"{state.num_bytes / 1e6:,.0f} MB",
            skipped=f"{state.num_skipped} skipped" if state.num_skipped else "",
        )

    def _begin_new(self, state: BuildProgress) -> None:
        """Start the clock: what was there already must not count as speed."""
        assert self._progress is not None
        self._start = time.monotonic()
        self._progress.reset(self._task, total=state.num_videos, completed=state.num_before)
        if state.num_before:
            self._progress.console.print(before_sentence(state), markup=False, highlight=False)


@contextmanager
def _progress(console: Console, watch: _Watch) -> Iterator[None]:
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
        watch.begin(progress)
        yield


def _report(console: Console, prepared: PreparedStore) -> None:
    store = prepared.store
    for note in prepared.notes:
        console.print(f"note: {note}", markup=False, highlight=False)
    if store.skipped:
        number = len(store.skipped)
        were = (
            "video could not be read and was"
            if number == 1
            else "videos could not be read and were"
        )
        console.print(f"{number:,} {were} skipped:")
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
        done = prepared.progress.num_done - prepared.progress.num_before
        speed = f"{prepared.seconds:.1f} s, {done / prepared.seconds:,.0f} clips/s"
        table.add_row("decoded in", f"{speed}, {prepared.progress.place}")
    else:
        table.add_row("decoded", "before; found whole")
    console.print(table)
    console.print(f"store     {store.path}", markup=False, highlight=False, soft_wrap=True)


def main() -> None:
    """Run the command line."""
    run_door(prepare)


if __name__ == "__main__":
    main()
