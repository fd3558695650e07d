"""Options that several doors have, each written once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

MAX_SEED = 2**32 - 1

Address = Annotated[
    str | None,
    typer.Option(help="A running Ray cluster; RAY_ADDRESS is used, too.", show_default="local"),
]

Profile = Annotated[
    bool,
    typer.Option(
        "--profile",
        help="Say where the time of the first trial goes, and write a trace of it (Chrome's JSON).",
    ),
]
Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A search's folder (runs/x, runs/x@knee, runs/x@t0007), a folder or file of one "
        "model, models:/NAME@ALIAS, or an MLflow run id.",
        show_default=False,
    ),
]
Backbone = Annotated[
    Path | None,
    typer.Option(help="The backbone's weights, where they are not found by themselves."),
]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1.", show_default="a GPU if there is one")
]
TrackingUri = Annotated[
    str | None,
    typer.Option(
        help="The MLflow store of a model that is named there.",
        show_default="MLFLOW_TRACKING_URI, else runs/*/mlflow.db",
    ),
]
