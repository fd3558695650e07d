"""The main door: `python -m vpetl_ray.search SPEC.yaml` turns a spec into a Pareto front."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vpetl_ray.door_options import Address, Profile, refuse_secrets
from vpetl_ray.errors import DataError, SearchError, SpecError, VpetlError
from vpetl_ray.exits import (
    EXIT_FAILED,
    EXIT_INPUT,
    end_interrupted,
    fail,
    run_door,
    say_what_mlflow_lacks,
    say_where,
)
from vpetl_ray.front_table import front_table, list_table
from vpetl_ray.profile_table import say_profile
from vpetl_ray.results_folder import check_folder, default_runs, results_url
from vpetl_ray.spec.load import load_spec
from vpetl_ray.spec.search_spec import SearchSpec
from vpetl_ray.stop_signals import set_last_words

if TYPE_CHECKING:
    from vpetl_ray.data.mirror import Mirror

SECONDS_FOR_COPY, SECONDS_FOR_COPY_INTERRUPTED = 120.0, 10.0
"""How long object storage that fails is tried again at the end."""


def search(
    spec: Annotated[Path, typer.Argument(help="The search space file (YAML).", show_default=False)],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY.PATH=VALUE", help="Override a value of the file."),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            help="Results folder, or s3://bucket/path.", show_default="$VPETL_RUNS or runs, /NAME"
        ),
    ] = None,
    trials: Annotated[
        int | None, typer.Option(help="Configs to train; short for --set search.trials=N.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be searched; train nothing.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the search in the results folder.")
    ] = False,
    address: Address = None,
    tracking_uri: Annotated[
        str | None, typer.Option(help="MLflow's server or store; short for --set tracking.uri=...")
    ] = None,
    profile: Profile = False,
) -> None:
    """Search for the Pareto front of accuracy against trainable parameters.

    Exit codes: 0 a front was found; 1 the search failed and can be resumed; 2 the spec or the
    input is wrong and nothing was created; 130 interrupted by Ctrl-C, 143 by
    SIGTERM, and can be resumed.
    """
    given = [*(overrides or []), *([f"search.trials={trials}"] if trials is not None else [])]
    given += [] if tracking_uri is None else [f"tracking.uri={tracking_uri}"]
    console = Console(markup=False)
    try:
        loaded = load_spec(spec, given)
        place = out or results_url(loaded.name)
        refuse_secrets({"--out" if out else "VPETL_RUNS": place, "--address": address})
        mirror = _mirror(place, resume=resume)
        directory = mirror.folder if mirror else Path(place or default_runs() / loaded.name)
        directory = directory.absolute()
        if dry_run:
            _print_dry_run(console, loaded, address)
            return
        loaded.check_files()
        check_folder(directory, loaded, resume=resume)
    except VpetlError as error:
        fail(str(error), EXIT_INPUT)
    go_on = f"go on with: {_resume_command()}"
    set_last_words(f"; {go_on}")
    try:
        with _mirrored(console, mirror):
            _search(console, loaded, directory, address=address, go_on=go_on, profile=profile)
    except SearchError as error:
        fail(f"{error}\n{go_on}", EXIT_FAILED)
    except VpetlError as error:
        fail(str(error), EXIT_INPUT)
    except KeyboardInterrupt:
        end_interrupted(f"; {go_on}")


def _mirror(place: str | None, *, resume: bool) -> Mirror | None:
    """Prepare results on object storage; what an earlier run left there is fetched."""
    if place is None or "://" not in place:
        return None
    from vpetl_ray.data.mirror import Mirror  # noqa: PLC0415 - pyarrow's file systems are slow

    mirror = Mirror(place)
    if mirror.fetch() and not resume:
        raise SpecError(f"--out: {place} holds a search already; go on with it by --resume")
    return mirror


@contextmanager
def _mirrored(console: Console, mirror: Mirror | None) -> Iterator[None]:
    if mirror is None:
        yield
        return
    mirror.start()
    try:
        yield
    except BaseException as error:
        is_over = isinstance(error, typer.Exit | KeyboardInterrupt)
        try:
            short = SECONDS_FOR_COPY_INTERRUPTED
            mirror.finish(
                short if is_over else SECONDS_FOR_COPY, at_most=short if is_over else None
            )
        except DataError as problem:
            typer.echo(str(problem), err=True)
        raise
    try:
        mirror.finish(SECONDS_FOR_COPY)
    except DataError as problem:
        raise SearchError(str(problem)) from problem
    console.print(f"results are at {mirror.url}", highlight=False, soft_wrap=True)


def _search(
    console: Console,
    spec: SearchSpec,
    directory: Path,
    *,
    address: str | None,
    go_on: str,
    profile: bool,
) -> None:
    # Here, so that `--help`, `--dry-run` and a mistake in the spec answer without torch and Ray.
    from vpetl_ray.search_job import SearchJob  # noqa: PLC0415
    from vpetl_ray.tuning.run import TrialsEnd  # noqa: PLC0415

    job = SearchJob(spec, directory, address=address, console=console, profile=profile)
    result = job.run()
    if spec.is_list and result.records:
        console.print()
        console.print(list_table(result.records, title=spec.name))
    if result.front:
        console.print()
        known = result.facts
        table = front_table(
            result.front, title="Pareto front", bend=known.knee, width=console.width
        )
        console.print(table)
        console.print(known.sentence(), highlight=False, soft_wrap=True)
        for line in result.findings:
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        say_where(console, directory, result.tracking)
    if profile:
        say_profile(console, directory, decode_seconds=job.decode_seconds)
    say_what_mlflow_lacks(
        console, result.tracking, what="trials", file="trials.parquet", directory=directory
    )
    if result.end is TrialsEnd.INTERRUPTED:
        end_interrupted(f" after {result.num_trained} trials; {go_on}")
    if result.end is TrialsEnd.EXHAUSTED:
        console.print(
            f"The space has no more configs within the budget: {result.num_trained} were trained."
        )
    if not result.front:
        why = result.last_failure or "no trial was trained"
        raise SearchError(f"no trial was completed, so there is no front; the last reason: {why}")


def _print_dry_run(console: Console, spec: SearchSpec, address: str | None) -> None:
    from vpetl_ray.spec.dry_run import plan_dry_run  # noqa: PLC0415 - slow, see `_search`
    from vpetl_ray.tuning.claims_board import ClaimsBoard  # noqa: PLC0415
    from vpetl_ray.tuning.cluster import all_nodes, free_nodes, ray_session  # noqa: PLC0415
    from vpetl_ray.tuning.fair_shares import Claim  # noqa: PLC0415

    others: list[Claim] = []
    num_classes, nodes = None, None
    missing = spec.missing_files()
    if missing and not spec.knows_classes:
        raise SpecError("\n".join(missing))
    if spec.data.path is not None and Path(spec.data.path).exists():
        num_classes = len(spec.data_config().list_videos().classes)
    if address or os.environ.get("RAY_ADDRESS"):
        with ray_session(address):
            others = ClaimsBoard().others()
            nodes = all_nodes() if others else free_nodes()
    plan = plan_dry_run(spec, num_classes=num_classes, nodes=nodes, others=others)
    console.print(plan.spec_yaml, markup=False, highlight=False, soft_wrap=True)
    table = Table.grid(padding=(0, 2))
    for name, value in plan.facts():
        table.add_row(name, Text(value))
    console.print(table)
    for sentence in missing:
        console.print(f"missing: {sentence}", markup=False, highlight=False, soft_wrap=True)


def _resume_command() -> str:
    words = [word for word in sys.argv[1:] if word != "--resume"]
    return shlex.join(["python", "-m", "vpetl_ray.search", *words, "--resume"])


def main() -> None:
    """Run the command; also installed as `vpetl-search`."""
    run_door(search)


if __name__ == "__main__":
    main()
