"""A door: `python -m vpetl_ray.finetune SPEC_OR_CONFIG` trains one config fully and tests it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from vpetl_ray.door_options import MAX_SEED, Address, Profile
from vpetl_ray.errors import SearchError, SpecError, VpetlError
from vpetl_ray.exits import (
    EXIT_FAILED,
    EXIT_INPUT,
    end_interrupted,
    fail,
    run_door,
    say_what_mlflow_lacks,
    say_where,
)
from vpetl_ray.finetune_source import Chosen, Request, choose
from vpetl_ray.profile_table import say_profile
from vpetl_ray.results.records import TrialState
from vpetl_ray.results_folder import check_new_folder
from vpetl_ray.stop_signals import set_last_words


def finetune(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SPEC_OR_CONFIG",
            help="A spec without open values; a search's results folder or front.json; an MLflow "
            "run id; or a config file (with --spec).",
            show_default=False,
        ),
    ],
    seed: Annotated[
        list[int] | None,
        typer.Option(
            "--seed",
            min=0,
            max=MAX_SEED,
            help="Train with this seed; give it again for more seeds.",
            show_default="the spec's",
        ),
    ] = None,
    trial: Annotated[
        str | None,
        typer.Option(
            help="Which trial of a search: an id such as t0007, or best, knee, smallest.",
            show_default="best",
        ),
    ] = None,
    spec: Annotated[
        Path | None,
        typer.Option(help="Of a config file: the spec that says data, backbone and training."),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY.PATH=VALUE", help="Override a value of the spec."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Results folder.", show_default="runs/<name>-finetune")
    ] = None,
    tracking_uri: Annotated[
        str | None,
        typer.Option(
            help="MLflow store: an MLflow run id is looked up there, and the result logged.",
            show_default="tracking.uri of the spec",
        ),
    ] = None,
    address: Address = None,
    profile: Profile = False,
) -> None:
    """Train one config at full length, once for each seed, and test it in several views.

    Exit codes: 0 every seed was trained and tested; 1 one failed; 2 the input is wrong and nothing
    was created; 130 interrupted by Ctrl-C, 143 by SIGTERM. Seeds that were finished are kept.
    """
    console = Console(markup=False)
    try:
        request = Request(
            source=source,
            overrides=tuple(overrides or ()),
            trial=trial,
            spec=spec,
            tracking_uri=tracking_uri,
        )
        chosen = choose(request)
        seeds = _distinct(seed or [chosen.spec.seed])
        directory = (out or Path("runs") / f"{chosen.spec.name}-finetune").absolute()
        chosen.spec.check_files()
        check_new_folder(directory)
    except VpetlError as error:
        fail(str(error), EXIT_INPUT)
    words = f"; what was finished is in {directory}"
    set_last_words(words)
    try:
        _finetune(console, chosen, seeds, directory, address=address, profile=profile)
    except SearchError as error:
        fail(f"{error}; what was finished is in {directory}", EXIT_FAILED)
    except VpetlError as error:
        fail(str(error), EXIT_INPUT)
    except KeyboardInterrupt:
        end_interrupted(words)


def _finetune(
    console: Console,
    chosen: Chosen,
    seeds: list[int],
    directory: Path,
    *,
    address: str | None,
    profile: bool,
) -> None:
    # Here, so that `--help` and a mistake in the input answer without torch and Ray.
    from vpetl_ray.finetune_display import seeds_table  # noqa: PLC0415
    from vpetl_ray.finetune_job import FinetuneJob, origin_label  # noqa: PLC0415
    from vpetl_ray.spec.search_spec import spaced  # noqa: PLC0415

    job = FinetuneJob(chosen, seeds, directory, address=address, console=console, profile=profile)
    result = job.run()
    if result.records:
        what = f"{chosen.config.describe()}, {spaced(result.facts.trainable_params)} parameters"
        console.print()
        console.print(f"{what}; {origin_label(chosen)}", highlight=False, soft_wrap=True)
        console.print(seeds_table(result.records, num_views=result.facts.views["total"]))
        say_where(console, directory, result.tracking)
    if profile:
        say_profile(console, directory, decode_seconds=job.decode_seconds)
    say_what_mlflow_lacks(
        console, result.tracking, what="seeds", file="results.json", directory=directory
    )
    failed = [record for record in result.records if record.state is not TrialState.COMPLETE]
    if not result.is_whole:
        done = len(result.records) - len(failed)
        end_interrupted(f" after {done} of {len(seeds)} seeds; what was finished is in {directory}")
    if failed:
        raise SearchError(f"{len(failed)} of {len(seeds)} seeds failed: {failed[0].reason}")


def _distinct(seeds: list[int]) -> list[int]:
    twice = {seed for seed in seeds if seeds.count(seed) > 1}
    if twice:
        raise SpecError(f"--seed: {min(twice)} is given twice")
    return seeds


def main() -> None:
    """Run the command; also installed as `vpetl-finetune`."""
    run_door(finetune)


if __name__ == "__main__":
    main()
