"""Where MLflow keeps a search, and how a person opens it. Knows addresses, not MLflow."""

import shlex
import shutil
import sys
from pathlib import Path

from vpetl_ray.addresses import without_secrets


def store_in(directory: Path | str) -> tuple[str, str]:
    """Tracking URI and artifact location of a store that lies inside a search's directory."""
    root = Path(directory).resolve()
    return f"sqlite:///{root / 'mlflow.db'}", (root / "mlartifacts").as_uri()


def ui_command(uri: str) -> str:
    """Say what to type (or, of a server, to open in a browser) to see a search in MLflow.

    Credentials are not shown: a database URI has ``***`` where the reader's own go.
    """
    shown = without_secrets(uri)
    if uri.startswith(("http://", "https://")):
        return shown
    # One worker answers in half the time of MLflow's four, and serves one reader as well.
    return f"{_python()} -m mlflow ui --workers 1 --backend-store-uri {shlex.quote(shown)}"


def ui_address(uri: str) -> str:
    """Where the browser finds MLflow: the server's own address, or what `ui_command` starts."""
    is_server = uri.startswith(("http://", "https://"))
    return without_secrets(uri).rstrip("/") if is_server else "http://127.0.0.1:5000"


def _python() -> str:
    on_path = shutil.which("python")
    same = on_path is not None and Path(on_path).absolute() == Path(sys.executable).absolute()
    return "python" if same else shlex.quote(sys.executable)
