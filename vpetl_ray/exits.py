"""How the doors that train end: exit codes, and what is said last."""

from __future__ import annotations

import gc
import shlex
from collections.abc import Callable
from pathlib import Path
from signal import SIGTERM
from typing import Any, NoReturn

import typer
from rich.console import Console

from vpetl_ray.results.tracking import TrackingReport
from vpetl_ray.stop_signals import ended_by, exit_code, sigterm_unwinds

EXIT_DONE, EXIT_FAILED, EXIT_INPUT = 0, 1, 2


def run_door(command: Callable[..., Any]) -> None:
    """Run a command line of its own process, SIGTERM unwinding it."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(command)
    try:
        with sigterm_unwinds():
            app()
    finally:
        # The interpreter's last collections would go through all that torch, Ray and MLflow left
        # behind, for 2 s after the last line, only to give it to a system that takes it anyhow.
        gc.freeze()


def fail(message: str, code: int) -> NoReturn:
    """End with a sentence for the user."""
    typer.echo(message, err=True)
    raise typer.Exit(code)


def end_interrupted(rest: str) -> NoReturn:
    """End after Ctrl-C (130) or SIGTERM (143), with one line that says how to go on.

    Args:
        rest: what follows "interrupted" in that line.
    """
    by = " by SIGTERM" if ended_by() is SIGTERM else ""
    fail(f"interrupted{by}{rest}", exit_code())


def say_where(console: Console, directory: Path, tracking: TrackingReport) -> None:
    """Say where the results are, and how to open them in MLflow."""
    console.print(f"\nresults   {directory}", soft_wrap=True, highlight=False)
    console.print(f"MLflow    {tracking.ui_command}", soft_wrap=True, highlight=False)
    if tracking.ui_page != tracking.ui_command:
        console.print(f"          then open {tracking.ui_page}", soft_wrap=True, highlight=False)


def say_what_mlflow_lacks(
    console: Console, tracking: TrackingReport, directory: Path, *, what: str, file: str
) -> None:
    """Say that MLflow could not be told everything, which file has it, and how it is told later."""
    if not tracking.is_complete:
        deliver = shlex.join(["python", "-m", "vpetl_ray.sync", str(directory)])
        lacks = f"{tracking.undelivered} {what}" if tracking.undelivered else "the last changes"
        console.print(
            f"MLflow lacks {lacks}: {tracking.problem or 'there was no time'}; {file} has them "
            f"all\ntell it later: {deliver}",
            soft_wrap=True,
            markup=False,
            highlight=False,
        )
