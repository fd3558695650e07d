"""A door: `python -m vpetl_ray.export MODEL --format ...` writes a model for use elsewhere."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from vpetl_ray.door_options import Backbone, Model, TrackingUri
from vpetl_ray.errors import SpecError, VpetlError
from vpetl_ray.loading import load

if TYPE_CHECKING:
    from vpetl_ray.inference.video_model import VideoModel

EXIT_DIFFERS, EXIT_INPUT = 1, 2


class Format(StrEnum):
    """What can be written."""

    TORCH = "torch-export"
    ONNX = "onnx"
    SAFETENSORS = "safetensors"


def export(
    model: Model,
    form: Annotated[Format, typer.Option("--format", help="What to write.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(help="The file.", show_default="named by the trial, here")
    ] = None,
    videos: Annotated[
        list[Path] | None,
        typer.Option(
            help="Videos, or folders of them, to compare on; give it again for more.",
            show_default="the search's validation videos",
        ),
    ] = None,
    backbone: Backbone = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """Write a model for use without a search, what can be merged merged, and compare it.

    The file takes clips as bytes, uint8 of shape (batch, frames, height, width, 3), and gives
    logits; the safetensors file is for vpetl_ray itself, and needs no other.

    Exit codes: 0; 1 its outputs differ from the original's, and the file was removed; 2 the model
    or the input is wrong.
    """
    console = Console(markup=False)
    try:
        loaded = load(model, backbone=backbone, device="cpu", tracking_uri=tracking_uri)
        path = out or Path(_file_name(loaded.facts.trial) + _suffix(form))
        if path.exists():
            raise SpecError(f"--out: {path} exists already")
        is_good = _export(console, loaded, form, path, videos or [])
    except VpetlError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(EXIT_INPUT) from None
    if not is_good:
        raise typer.Exit(EXIT_DIFFERS)


def _file_name(trial: object) -> str:
    """Give the trial's id, which a model's file says, where it is one."""
    if isinstance(trial, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", trial):
        return trial
    raise SpecError(f"the model says that its trial is {str(trial)[:100]!r}, no id: give --out")


def _suffix(form: Format) -> str:
    from vpetl_ray.inference.export_formats import SUFFIXES  # noqa: PLC0415 - not for `--help`

    return SUFFIXES[form]


def _export(
    console: Console, model: VideoModel, form: Format, path: Path, videos: list[Path]
) -> bool:
    """Write, compare, and keep the file only if it is the same model."""
    from vpetl_ray.inference.export_check import (  # noqa: PLC0415 - not for `--help`
        compare,
        latencies_ms,
        real_clips,
    )
    from vpetl_ray.inference.export_formats import FORMATS, run_original  # noqa: PLC0415
    from vpetl_ray.inference.whole_model import merge_what_can_be  # noqa: PLC0415

    clips = real_clips(model, videos)
    original = run_original(model)
    expected = original(clips)  # before anything is merged
    num_before = _num_parameters(model)
    merged = merge_what_can_be(model.attached)
    num_after = _num_parameters(model)
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        run = FORMATS[form](model, part)
        found = compare(expected, run, clips)
        if not found.is_good:
            typer.echo(f"{path}: is not the model that it was made of: {found}", err=True)
            return False
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    model.attached.unmerge()
    before_ms, after_ms = latencies_ms([original, run], clips[0])
    table = Table(title=str(path), title_justify="left", box=None, pad_edge=False)
    for name in ("", "size", "parameters", "ms a clip"):
        table.add_column(name, justify="right" if name else "left")
    size = sum(file.stat().st_size for file in {model.weights, model.adapter})
    table.add_row("original", _megabytes(size), f"{num_before:,}", f"{before_ms:.1f}")
    table.add_row(form, _megabytes(path.stat().st_size), f"{num_after:,}", f"{after_ms:.1f}")
    console.print(table)
    console.print(str(found), highlight=False, soft_wrap=True)
    if merged:
        console.print(f"merged into the backbone: {', '.join(merged)}", highlight=False)
    return True


def _num_parameters(model: VideoModel) -> int:
    return sum(parameter.numel() for parameter in model.attached.model.parameters())


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.2f} MB"


def main() -> None:
    """Run the command; also installed as `vpetl-export`."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(export)
    app()


if __name__ == "__main__":
    main()
