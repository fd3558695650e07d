"""The README's first command, from a fresh clone and an empty cache to a finished front.

python -m benchmarks.demo_search.bench
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.report import Figure, print_figures, write_summary
from vpetl_ray.spec.load import load_spec

ROOT = Path(__file__).parents[2]
SEARCH_FLOOR_SECONDS = 360.0


def readme_command(name: str) -> str:
    """The code block that follows `<!-- command: NAME -->` in the README."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(rf"<!-- command: {name} -->\n```bash\n(.*?)\n```", text, re.DOTALL)
    if found is None:
        raise SystemExit(f"the README has no command {name}")
    return found.group(1)


def timed(command: str, folder: Path, cache: Path) -> float:
    environment = {**os.environ, "VPETL_CACHE": str(cache)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    start = time.monotonic()
    subprocess.run(["bash", "-c", command], cwd=folder, env=environment, check=True)
    return time.monotonic() - start


def share_within_budget(budget: int) -> float:
    """Of the space's configs; the sampler proposes no other, so that none is refused."""
    spec = load_spec(ROOT / "search_spaces" / "position_scale.yaml")
    return spec.space().summary(budget).share_within_budget


def figures_of(results: Path, install: float, search: float) -> list[Figure]:
    trials = pd.read_parquet(results / "trials.parquet")
    document: dict[str, Any] = json.loads((results / "front.json").read_text())
    front = document["front"]
    complete = trials[trials.state == "complete"]
    probe = complete[complete.name == "linear probe"].iloc[0]
    allowed = share_within_budget(document["budget"])
    best = max(front, key=lambda member: member["top1"])
    tested = {member["id"]: member["test_top1"] for member in front}
    return [
        Figure(figure="install, seconds", value=install, unit="s", better="lower"),
        Figure(
            figure="search, seconds",
            value=search,
            unit="s",
            floor=SEARCH_FLOOR_SECONDS,
            better="lower",
        ),
        Figure(figure="trials trained", value=len(complete), floor=24),
        Figure(figure="points on the front", value=len(front), floor=4),
        Figure(
            figure="trials above the budget",
            value=float((complete.trainable_params > document["budget"]).sum()),
            floor=0,
            better="lower",
        ),
        Figure(
            figure="configs of the space that the budget allows",
            value=100.0 * allowed,
            unit="%",
            floor=99.0,
            better="lower",
        ),
        Figure(
            figure="best minus linear probe, validation",
            value=best["top1"] - probe.top1,
            unit="points",
            floor=15,
        ),
        Figure(
            figure="best minus linear probe, test",
            value=best["test_top1"] - tested[probe.id] if probe.id in tested else None,
            unit="points",
            floor=15,
        ),
        Figure(figure="best, test", value=best["test_top1"], unit="%"),
        Figure(
            figure="median seconds a trial",
            value=float(complete[complete.name != "linear probe"].seconds.median()),
            unit="s",
            better="lower",
        ),
    ]


def main() -> None:
    install_command, _, search_command = readme_command("demo").rpartition(" && ")
    with tempfile.TemporaryDirectory() as scratch:
        clone = Path(scratch) / "clone"
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
        cache = Path(scratch) / "cache"
        install = timed(install_command, clone, cache)
        search = timed(search_command, clone, cache)
        results = clone / "runs" / "position_scale"
        figures = figures_of(results, install, search)
        kept = Path(__file__).parent / "results"
        kept.mkdir(exist_ok=True)
        for name in ("front.png", "front.json"):
            shutil.copy(results / name, kept / name)
    print_figures("The README's first command", figures)
    write_summary(Path(__file__).parent, figures)


if __name__ == "__main__":
    main()
