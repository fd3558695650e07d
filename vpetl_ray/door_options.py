"""Options that several doors have, each written once."""

from __future__ import annotations

from typing import Annotated

import typer

MAX_SEED = 2**32 - 1

Address = Annotated[
    str | None,
    typer.Option(help="A running Ray cluster; RAY_ADDRESS is used, too.", show_default="local"),
]
