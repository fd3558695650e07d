"""How the doors that train end: exit codes, and what is said last."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import typer
from rich.console import Console

from vpetl_ray.addresses import redact
from vpetl_ray.results.tracking import TrackingReport
from vpetl_ray.stop_signals import exit_code, ignore_signals, interrupted, signals_unwind

EXIT_DONE, EXIT_FAILED, EXIT_INPUT = 0, 1, 2


def run_door(command: Callable[..., Any]) -> NoReturn:
    """Run a command line as the whole of its process, which Ctrl-C and SIGTERM unwind."""

    @functools.wraps(command)
    def unwound(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except KeyboardInterrupt:  # before it has words of its own for that
            end_interrupted("")

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(unwound)
    code: int | str | None = EXIT_DONE
    with signals_unwind():
        try:
            app()
        except SystemExit as end:
            code = end.code
        finally:
            ignore_signals()
    # Left to itself, the interpreter takes apart all that torch, Ray and MLflow have built, for 2 s
    # after the last line, and pyarrow waits for requests to object storage that were given up.
    if "pyarrow.fs" in sys.modules:
        atexit.unregister(getattr(sys.modules["pyarrow.fs"], "ensure_s3_finalized", print))
    atexit._run_exitfuncs()
    with contextlib.suppress(OSError):  # nobody reads any more
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def fail(message: str, code: int) -> NoReturn:
    """End with a sentence for the user."""
    typer.echo(redact(message), err=True)
    raise typer.Exit(code)


def end_interrupted(rest: str) -> NoReturn:
    """End after Ctrl-C (130) or SIGTERM (143), with one line that says how to go on.

    Args:
        rest: what follows "interrupted" in that line.
    """
    ignore_signals()
    fail(interrupted(rest), exit_code())


def say_where(console: Console, directory: Path, tracking: TrackingReport) -> None:
    """Say where the results are, and how to open them in MLflow."""
    console.print(f"\nresults   {directory}", soft_wrap=True, markup=False, highlight=False)
    console.print(f"MLflow    {tracking.ui_command}", soft_wrap=True, markup=False, highlight=False)
    if tracking.ui_page != tracking.ui_command:
        page = f"          then open {tracking.ui_page}"
        console.print(page, soft_wrap=True, markup=False, highlight=False)


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
