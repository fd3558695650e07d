"""Options that several doors have, each written once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from vpetl_ray.addresses import has_secret
from vpetl_ray.errors import SpecError

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
        help="A search's folder (runs/x, runs/x@knee, runs/x@t0007) or address "
        "(s3://bucket/runs/x@knee), a folder or file of one model, "
        "models:/NAME@ALIAS, or an MLflow run id.",
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


def refuse_secrets(given: Mapping[str, str | None]) -> None:
    """Check that no address has a password or token in it: commands are seen by others, and logged.

    Args:
        given: the address that each option was given.

    Raises:
        SpecError: one has. It is not shown.
    """
    for option, address in given.items():
        if address and "://" in address and has_secret(address):
            raise SpecError(
                f"{option}: holds a password or token, and a command line is seen by others; "
                "set it in the environment instead: MLFLOW_TRACKING_USERNAME and _PASSWORD, "
                "RAY_AUTH_TOKEN, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
