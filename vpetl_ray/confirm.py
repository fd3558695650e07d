"""A door: `python -m vpetl_ray.confirm DIR` trains a search's front again, with other seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from vpetl_ray.confirm_source import ConfirmPlan, plan_confirmation
from vpetl_ray.door_options import MAX_SEED, Address
from vpetl_ray.errors import SearchError, VpetlError
from vpetl_ray.exits import EXIT_FAILED, EXIT_INPUT, end_interrupted, fail, run_door
from vpetl_ray.results.records import TrialState
from vpetl_ray.stop_signals import set_last_words


def confirm(
    directory: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="A search's results folder.", show_default=False),
    ],
    seeds: Annotated[
        int | None,
        typer.Option(
            "--seeds",
            min=1,
            max=1000,
            help="How many seeds: those after the search's own.",
            show_default="3",
        ),
    ] = None,
    seed: Annotated[
        list[int] | None,
        typer.Option(
            "--seed", min=0, max=MAX_SEED, help="Or this seed; give it again for more seeds."
        ),
    ] = None,
    trials: Annotated[
        str | None,
        typer.Option(
            help="Ids with commas between, such as t0003,t0007.", show_default="the front"
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY.PATH=VALUE",
            help="Override a value of the search's spec: training, resources or tracking.",
        ),
    ] = None,
    address: Address = None,
) -> None:
    """Train the front's members again with several seeds, and test each: what is left of it?

    What is done is in DIR/confirmed.json; run it again to go on, or with more seeds or trials.
    Exit codes: 0 all is done; 1 a run failed; 2 the input is wrong; 130 interrupted
    by Ctrl-C, 143 by SIGTERM.
    """
    console = Console(markup=False)
    try:
        plan = plan_confirmation(
            directory.absolute(),
            trials=[word.strip() for word in trials.split(",")] if trials else (),
            seeds=seed or (),
            num_seeds=seeds,
            overrides=overrides or (),
        )
        if plan.runs:
            plan.spec.check_files()
    except VpetlError as error:
        fail(str(error), EXIT_INPUT)
    words = "; what was finished is kept, run it again to go on"
    set_last_words(words)
    try:
        _confirm(console, plan, address=address)
    except SearchError as error:
        fail(f"{error}; what was finished is in {plan.directory}", EXIT_FAILED)
    except VpetlError as error:
        fail(str(error), EXIT_INPUT)
    except KeyboardInterrupt:
        end_interrupted(words)


def _confirm(console: Console, plan: ConfirmPlan, *, address: str | None) -> None:
    # Here, so that `--help` and a mistake in the input answer without torch and Ray.
    from vpetl_ray.confirm_display import closing_lines, confirmed_table  # noqa: PLC0415
    from vpetl_ray.confirm_job import ConfirmJob  # noqa: PLC0415

    result = ConfirmJob(plan, address=address, console=console).run()
    known = result.confirmation
    if known.scores:
        console.print()
        console.print(confirmed_table(known))
        for line in closing_lines(known):
            console.print(line, highlight=False, soft_wrap=True)
        console.print(f"\nresults   {plan.directory / 'confirmed.json'}", soft_wrap=True)
    if result.mlflow_problem:
        console.print(result.mlflow_problem, markup=False, soft_wrap=True)
    wanted = {run.record.id for run in plan.runs}
    ended = [r for m in known.members for r in m.seeds.values() if r.id in wanted]
    failed = [record for record in ended if record.state is not TrialState.COMPLETE]
    if not result.is_whole:
        done = sum(record.test_top1 is not None for record in ended)
        end_interrupted(f" after {done} of {len(plan.runs)} runs; run it again to go on")
    if failed:
        raise SearchError(f"{len(failed)} of {len(plan.runs)} runs failed: {failed[0].reason}")


def main() -> None:
    """Run the command; also installed as `vpetl-confirm`."""
    run_door(confirm)


if __name__ == "__main__":
    main()
