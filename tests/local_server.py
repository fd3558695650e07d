"""A real server on loopback, for as long as a test takes."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

SECONDS_TO_START = 180
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
"""With this environment's own commands: MLflow starts `uvicorn` by its name."""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def mlflow(*words, folder, ping="health", port=None, **env):
    """Run `python -m mlflow WORDS --host --port`; give its address once it answers."""
    port = port or free_port()
    uri = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", *map(str, words)]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    path = folder / "server.log"
    with path.open("ab") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            cwd=folder,
            env={**os.environ, "PATH": PATH, **env},
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + SECONDS_TO_START
        while not _answers(f"{uri}/{ping}"):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(path.read_text()[-2000:])
            time.sleep(0.3)
        yield uri
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its own session: it starts helpers
        process.wait(30)


def mlflow_server(store, folder):
    """Serve a SQLite store, as the command does that a search prints."""
    words = ("server", "--workers", 1, "--backend-store-uri", f"sqlite:///{store}")
    return mlflow(*words, folder=folder)


def _answers(address):
    try:
        urllib.request.urlopen(address, timeout=5).close()
    except (urllib.error.URLError, OSError):
        return False
    return True
