"""A door: `python -m vpetl_ray.pick NAME --max-params 1M` chooses a model of a front."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from vpetl_ray.door_options import Backbone, TrackingUri
from vpetl_ray.errors import SpecError, VpetlError
from vpetl_ray.inference.find import find_adapter, read_front
from vpetl_ray.results.labels import config_label
from vpetl_ray.results.mlflow_models import (
    Version,
    download_version,
    find_store,
    list_versions,
    set_alias,
)
from vpetl_ray.results.pareto_choice import Member, Wanted, choose

if TYPE_CHECKING:
    from collections.abc import Mapping

EXIT_NONE, EXIT_INPUT = 1, 2
PICKED = "picked"
_UNITS = {"": 1, "k": 1_000, "m": 1_000_000, "g": 1_000_000_000}
_COUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([kKmMgG]?)")


@dataclass(frozen=True, kw_only=True)
class _Source:
    """Where a front is: a folder, or MLflow's registry."""

    members: tuple[Member, ...]
    folder: Path | None = None
    place: str = ""
    """The folder, or the address on object storage that it was copied from."""
    keep: tempfile.TemporaryDirectory[str] | None = None
    """The folder of the copy, removed with this object."""
    uri: str = ""
    versions: Mapping[str, Version] | None = None
    """By trial, of a registered model."""


def pick(
    name: Annotated[
        str,
        typer.Argument(
            help="A search's results folder or its address (s3://...), or the name of its "
            "registered model in MLflow.",
            show_default=False,
        ),
    ],
    max_params: Annotated[
        str | None,
        typer.Option(help="The most accurate with at most so many parameters: 500k, 1M."),
    ] = None,
    min_top1: Annotated[
        float | None,
        typer.Option(min=0, max=100, help="The cheapest with at least this accuracy, percent."),
    ] = None,
    knee: Annotated[
        bool, typer.Option("--knee", help="Where more parameters stop paying.")
    ] = False,
    alias: Annotated[
        str, typer.Option(help="What the version is called in MLflow from now on; '' for nothing.")
    ] = PICKED,
    out: Annotated[
        Path | None, typer.Option(help="Also write the model and its card into this new folder.")
    ] = None,
    bundle: Annotated[
        bool, typer.Option("--bundle", help="With the backbone's weights: it needs no other file.")
    ] = False,
    backbone: Backbone = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """Choose a member of a front, name it, and say how to use it. Without a wish: the knee.

    Exit codes: 0; 1 no member is as wished; 2 the input is wrong.
    """
    console = Console(markup=False)
    try:
        wanted = Wanted(
            max_params=_count(max_params),
            min_top1=min_top1,
            knee=knee or not (max_params or min_top1),
        )
        if bundle and out is None:
            raise SpecError("--bundle: goes with --out, which says where to")
        source = _source(name, tracking_uri)
        chosen = choose(source.members, wanted)
        if chosen is None:
            nearest = wanted.nearest(source.members)
            typer.echo(f"{name}: no member of the front has {wanted}; {nearest}", err=True)
            raise typer.Exit(EXIT_NONE)
        _show(console, source.members, chosen)
        _say(console, _named(source, chosen, alias, name))
        if out is not None:
            _write(console, source, chosen, out, bundle=bundle, backbone=backbone)
    except VpetlError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(EXIT_INPUT) from None


def _count(text: str | None) -> int | None:
    """Read 500k or 1M."""
    if text is None:
        return None
    match = _COUNT.fullmatch(text.strip().replace("_", "").replace(",", ""))
    if match is None:
        raise SpecError(f"--max-params: must be a count such as 38924, 500k or 1M, got {text!r}")
    count = float(match[1]) * _UNITS[match[2].lower()]
    if not isfinite(count):
        raise SpecError(f"--max-params: must be a count such as 500k or 1M, got {text[:20]}...")
    return round(count)


def _source(name: str, tracking_uri: str | None) -> _Source:
    folder = Path(name).expanduser()
    keep: tempfile.TemporaryDirectory[str] | None = None
    if "://" in name:
        from vpetl_ray.data.mirror import download_results  # noqa: PLC0415 - pyarrow is slow

        folder, keep = download_results(name)
    if folder.is_dir():
        members = (
            Member(
                trial=entry["id"],
                trainable_params=entry["trainable_params"],
                top1=entry["top1"],
                test_top1=entry["test_top1"],
                config=entry["name"] or config_label(entry["config"]),
            )
            for entry in read_front(folder)
        )
        place = name.rstrip("/") if keep else str(folder)
        return _Source(members=tuple(members), folder=folder, place=place, keep=keep)
    uri = find_store(name, name, tracking_uri)
    versions = {version.member.trial: version for version in list_versions(uri, name)}
    members_of = tuple(version.member for version in versions.values())
    return _Source(members=members_of, uri=uri, versions=versions)


def _show(console: Console, members: Sequence[Member], chosen: Member) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    table.add_column("trial")
    table.add_column("config", overflow="fold", max_width=36)
    for name in ("parameters", "top-1 %", "test %"):
        table.add_column(name, justify="right")
    for member in members:
        is_chosen = member == chosen
        test = "-" if member.test_top1 is None else f"{member.test_top1:.1f}"
        table.add_row(
            "→" if is_chosen else "",
            member.trial,
            member.config,
            f"{member.trainable_params:,}",
            f"{member.top1:.1f}",
            test,
            style="bold" if is_chosen else "",
        )
    console.print(table)


def _named(source: _Source, chosen: Member, alias: str, name: str) -> str:
    """Give the model the alias where it is registered; say what it is called now."""
    if source.versions is None:
        return f"{source.place}@{chosen.trial}"
    version = source.versions[chosen.trial]
    if not alias:
        return version.uri
    set_alias(source.uri, version, alias)
    return f"models:/{name}@{alias}"


def _say(console: Console, model: str) -> None:
    console.print(f"\nuse it    python -m vpetl_ray.predict {model} VIDEO...", soft_wrap=True)
    console.print(f"ship it   python -m vpetl_ray.export {model} --format onnx", soft_wrap=True)


def _write(
    console: Console,
    source: _Source,
    chosen: Member,
    out: Path,
    *,
    bundle: bool,
    backbone: Path | None,
) -> None:
    from vpetl_ray.inference.model_folder import CARD, write_folder  # noqa: PLC0415 - torch
    from vpetl_ray.results.card_files import card_of  # noqa: PLC0415

    with tempfile.TemporaryDirectory(prefix="vpetl_pick_") as scratch:
        if source.folder is not None:
            adapter = find_adapter(source.folder, chosen.trial)
            card = card_of(source.folder, chosen.trial)
        else:
            assert source.versions is not None
            version = source.versions[chosen.trial]
            adapter = find_adapter(download_version(source.uri, version, Path(scratch)))
            card = (adapter.parent / CARD).read_text(encoding="utf-8")
        size = write_folder(out, adapter, card, bundle=bundle, backbone=backbone)
    console.print(f"written   {out} ({size / 1000:,.0f} kB)", soft_wrap=True, highlight=False)


def main() -> None:
    """Run the command; also installed as `vpetl-pick`."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(pick)
    app()


if __name__ == "__main__":
    main()
