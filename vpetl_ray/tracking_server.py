"""A door: `python -m vpetl_ray.tracking_server` serves MLflow from PostgreSQL, with a login.

Everything comes from the environment, so that it is the same plain, under systemd, in a container
and on Kubernetes, and so that no password is ever in a command line:

    POSTGRES_HOST, POSTGRES_PORT, POSTGRES_USER, POSTGRES_DB, POSTGRES_PASSWORD
    MLFLOW_ADMIN_PASSWORD            of the user `admin`, who may add others; 12 characters or more
    MLFLOW_FLASK_SERVER_SECRET_KEY   signs the web page's forms
    MLFLOW_ARTIFACTS                 a folder, or s3://bucket/path
    MLFLOW_HOST, MLFLOW_PORT         127.0.0.1 and 5000
    MLFLOW_ALLOWED_HOSTS             names that browsers and clients may call it by
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from vpetl_ray.errors import SpecError

EXIT_INPUT = 2
_SECRETS = ("POSTGRES_PASSWORD", "MLFLOW_ADMIN_PASSWORD", "MLFLOW_FLASK_SERVER_SECRET_KEY")
_MIN_LENGTH = 12
"""Of the administrator's password, says MLflow."""


def server_environment(given: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Return what MLflow's server reads, and write the file that its login reads.

    Args:
        given: the environment.
        folder: for that file, which holds the database's password; only its owner may read it.

    Raises:
        SpecError: a secret is missing or too short.
    """
    missing = [name for name in _SECRETS if not given.get(name)]
    if missing:
        raise SpecError(f"{', '.join(missing)}: not set; the server does not start without")
    if len(given["MLFLOW_ADMIN_PASSWORD"]) < _MIN_LENGTH:
        raise SpecError(f"MLFLOW_ADMIN_PASSWORD: must have at least {_MIN_LENGTH} characters")
    user, password = (
        quote(given.get(name, default), safe="")
        for name, default in (("POSTGRES_USER", "mlflow"), ("POSTGRES_PASSWORD", ""))
    )
    host, port = given.get("POSTGRES_HOST", "127.0.0.1"), given.get("POSTGRES_PORT", "5432")
    name = given.get("POSTGRES_DB", "mlflow")
    # The driver by name: SQLAlchemy's default for PostgreSQL has changed.
    uri = f"postgresql+psycopg2://{user}:{password}@{host}:{port}/{name}"
    login = folder / "login.ini"
    login.touch(mode=0o600)
    login.write_text(
        "[mlflow]\n"
        "default_permission = READ\n"
        f"database_uri = {uri.replace('%', '%%')}\n"
        "admin_username = admin\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        "grant_default_workspace_access = false\n"
        # Checking a password takes as long as writing a batch; one a minute is enough.
        "auth_cache_ttl_seconds = 60\n",
        encoding="utf-8",
    )
    environment = {
        **given,
        "MLFLOW_BACKEND_STORE_URI": uri,
        "MLFLOW_ARTIFACTS_DESTINATION": given.get("MLFLOW_ARTIFACTS", "mlartifacts"),
        "MLFLOW_AUTH_CONFIG_PATH": str(login),
        "MLFLOW_AUTH_ADMIN_PASSWORD": given["MLFLOW_ADMIN_PASSWORD"],
        "MLFLOW_HOST": given.get("MLFLOW_HOST", "127.0.0.1"),
        "MLFLOW_PORT": given.get("MLFLOW_PORT", "5000"),
    }
    if given.get("MLFLOW_ALLOWED_HOSTS"):
        environment["MLFLOW_SERVER_ALLOWED_HOSTS"] = given["MLFLOW_ALLOWED_HOSTS"]
    for name in ("POSTGRES_PASSWORD", "MLFLOW_ADMIN_PASSWORD"):
        environment.pop(name)  # once is enough
    return environment


def tracking_server(
    workers: Annotated[int, typer.Option(min=1, help="Processes that answer.")] = 1,
) -> None:
    """Serve MLflow from PostgreSQL, with a login; settings come from the environment.

    POSTGRES_HOST, _PORT, _USER, _DB, _PASSWORD; MLFLOW_ADMIN_PASSWORD for the user `admin`;
    MLFLOW_FLASK_SERVER_SECRET_KEY; MLFLOW_ARTIFACTS; MLFLOW_HOST (127.0.0.1), MLFLOW_PORT (5000),
    MLFLOW_ALLOWED_HOSTS. Searches use it by MLFLOW_TRACKING_URI, _USERNAME and _PASSWORD.
    """
    folder = Path(tempfile.mkdtemp(prefix="vpetl_mlflow_"))
    try:
        environment = server_environment(os.environ, folder)
    except SpecError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(EXIT_INPUT) from None
    # `exec`: signals go to MLflow itself, which ends in order.
    os.execve(  # noqa: S606 - no shell, and every word is ours
        sys.executable,
        [
            sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth",
            "--workers", str(workers),
        ],
        environment,
    )  # fmt: skip


def main() -> None:
    """Run the command; also installed as `vpetl-mlflow-server`."""
    typer.run(tracking_server)


if __name__ == "__main__":
    main()
