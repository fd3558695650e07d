"""A door: `python -m vpetl_ray.sync DIR` tells MLflow what it could not be told before."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from vpetl_ray.addresses import redact
from vpetl_ray.door_options import refuse_secrets
from vpetl_ray.errors import SpecError, VpetlError
from vpetl_ray.exits import EXIT_FAILED, EXIT_INPUT, end_interrupted, fail, run_door
from vpetl_ray.results.tracking import Tracker, TrackingReport
from vpetl_ray.results.waiting_records import WAITING_FILE, Waiting, read_waiting
from vpetl_ray.results_folder import SPEC_FILE, locked

PATIENCE_SECONDS = 60.0
LONGEST_SECONDS = 24 * 3600.0


def sync(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="A results folder.", show_default=False)
    ],
    tracking_uri: Annotated[
        str | None,
        typer.Option(
            help="MLflow's server or store.",
            show_default="the one that the run had; MLFLOW_TRACKING_URI where that had a password",
        ),
    ] = None,
    patience: Annotated[
        float, typer.Option(min=0, help="Seconds after which a server that only fails is left.")
    ] = PATIENCE_SECONDS,
) -> None:
    """Tell MLflow what waits in a results folder; each trial once, however often this is run.

    Exit codes: 0 MLflow has everything; 1 it could not be told, and this can be run again; 2 the
    folder is none, or a search is at work in it.
    """
    console = Console(markup=False)
    try:
        refuse_secrets({"--tracking-uri": tracking_uri})
        if not (directory / SPEC_FILE).is_file():
            raise SpecError(f"{directory}: is no results folder (it has no {SPEC_FILE})")
        with locked(directory):
            waiting = read_waiting(directory, tracking_uri)
            if waiting is None:
                console.print(f"nothing waits in {directory}: MLflow has it all", soft_wrap=True)
                return
            report = _deliver(waiting, console, patience)
            if report.is_complete:
                (directory / WAITING_FILE).unlink()
    except SpecError as error:
        fail(str(error), EXIT_INPUT)
    except VpetlError as error:
        fail(redact(str(error)), EXIT_FAILED)
    except KeyboardInterrupt:
        end_interrupted("; run it again, nothing is told twice")
    if not report.is_complete:
        fail(f"MLflow lacks {report.undelivered} still: {report.problem}", EXIT_FAILED)
    console.print(
        f"MLflow has all {report.delivered}: {report.ui_page}", soft_wrap=True, highlight=False
    )


def _deliver(waiting: Waiting, console: Console, patience: float) -> TrackingReport:
    tracker = Tracker(
        waiting.info, warn=lambda text: console.print(text, markup=False, highlight=False)
    )
    tracker.start()
    for record, adapter in waiting.trials.values():
        tracker.log_trial(record, adapter if adapter and adapter.is_file() else None)
    summary = waiting.summary
    if summary is not None:
        tracker.update(
            tuple(summary["front"]), summary["metrics"], tuple(summary["files"]), summary["note"]
        )
    if waiting.registration is not None:
        tracker.register(waiting.registration)
    return tracker.finish(waiting.status, timeout=LONGEST_SECONDS, patience=patience)


def main() -> None:
    """Run the command; also installed as `vpetl-sync`."""
    run_door(sync)


if __name__ == "__main__":
    main()
