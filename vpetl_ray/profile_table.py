"""What `--profile` prints: where the time of one trial went."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

PROFILE_FOLDER = "profile"
"""In the results folder."""

_TERA = 1e12


def say_profile(console: Console, directory: Path, *, decode_seconds: float) -> None:
    """Print the profile of a results folder; a sentence where there is none."""
    from vpetl_ray.training.profile import PROFILE_FILE, TRACE_FILE  # noqa: PLC0415 - torch is slow

    folder = directory / PROFILE_FOLDER
    try:
        document = json.loads((folder / PROFILE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        console.print(f"--profile: no trial was trained to its end, {folder} has no profile")
        return
    console.print()
    console.print(profile_table(document, decode_seconds=decode_seconds))
    console.print(_rate_sentence(document), highlight=False, soft_wrap=True)
    console.print(
        f"trace of its first steps: {folder / TRACE_FILE} (chrome://tracing or ui.perfetto.dev)",
        highlight=False,
        soft_wrap=True,
    )


def profile_table(document: dict[str, Any], *, decode_seconds: float) -> Table:
    """Seconds and shares of each phase; decoding is the whole data set's, once for all trials."""
    seconds: dict[str, float] = document["seconds"]
    total = sum(seconds.values())
    table = Table(title=f"profile of {document['trial']} on {document['device']}")
    table.add_column("phase")
    table.add_column("seconds", justify="right")
    table.add_column("share", justify="right")
    table.add_row("decode, once for all trials", f"{decode_seconds:.2f}", "")
    for name, value in seconds.items():
        table.add_row(name, f"{value:.2f}", f"{100 * value / max(total, 1e-9):.1f} %")
    table.add_row("the trial", f"{total:.2f}", "", style="bold")
    return table


def _rate_sentence(document: dict[str, Any]) -> str:
    flops, num_threads = document["matmul_flops_per_second"], document["threads"]
    rate = f"{flops / _TERA:.3g} TFLOP/s" if flops > _TERA else f"{flops / 1e9:.3g} GFLOP/s"
    threads = f"{num_threads} thread{'s' * (num_threads > 1)}"
    threads = threads if document["device"] == "cpu" else "it"
    if document["share_of_matmul_rate"] is None:
        return f"one large {document['precision']} product runs at {rate} on {threads}"
    return (
        f"forward and backward run at {100 * document['share_of_matmul_rate']:.0f}% of what one "
        f"large {document['precision']} product reaches on {threads} ({rate}, measured)"
    )
