"""What a search ran on: versions, machine, git commit."""

import os
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = (
    "vpetl_ray",
    "torch",
    "ray",
    "optuna",
    "mlflow",
    "numpy",
    "pyarrow",
    "pytorchvideo",
    "av",
)
_GIT_SECONDS = 10


def environment_facts(directory: Path | str | None = None) -> dict[str, str]:
    """Facts by name, for tags and reports; what cannot be found out is left out.

    Asks for versions without importing the packages, so it costs milliseconds.

    Args:
        directory: where to look for a git repository; default: where this package lies.
    """
    facts = {"python": platform.python_version(), "platform": platform.platform()}
    facts["cpus"] = str(os.cpu_count())
    for package in _PACKAGES:
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            continue
    return facts | git_facts(Path(directory) if directory else Path(__file__).parent)


def git_facts(directory: Path) -> dict[str, str]:
    """``git_commit`` and ``git_dirty`` of the repository round a directory; empty without one."""
    commit = _git(directory, ["rev-parse", "HEAD"])
    if commit is None:
        return {}
    changes = _git(directory, ["status", "--porcelain", "--untracked-files=no"])
    return {"git_commit": commit, "git_dirty": str(changes != "").lower()}


def _git(directory: Path, arguments: Sequence[str]) -> str | None:
    try:
        done = subprocess.run(  # noqa: S603 - fixed arguments, no shell
            ["git", "-C", str(directory), *arguments],  # noqa: S607 - the user's own git
            capture_output=True,
            text=True,
            timeout=_GIT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
