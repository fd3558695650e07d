"""The demo's search with and without early stopping: the same front, for how many epochs?

    python -m benchmarks.early_stopping.bench --work runs/early_stopping [--seeds 0 1 2]

The README's search of 30 trials at full length; and 21 trials that wait after a quarter of their
epochs, of which one in two goes on (`search.halving: {eta: 2}`). On the table of `search_quality`
that many trials and that eta lose least among those that train so few epochs. A search that has
finished is not run again, one that was cut off goes on; each takes some minutes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import mean, stdev

import pandas as pd

from benchmarks.report import Figure, print_figures, write_summary
from vpetl_ray.results.front import front_hypervolume

HERE = Path(__file__).parent
SPEC = HERE.parents[1] / "search_spaces" / "position_scale.yaml"
KINDS: Mapping[str, tuple[str, ...]] = {
    "stopped": ("search.trials=21", "search.halving={eta: 2}"),
    "full": (),
}
REFERENCE_TOP1 = 50.0
"""Below the linear probe; the front's right edge is twice the budget."""


def search(kind: str, seed: int, work: Path) -> Path:
    """Run a search to its end; return its results folder."""
    folder = work / f"{kind}{seed}"
    if not (folder / "importance.json").exists():  # its last file
        command = [sys.executable, "-m", "vpetl_ray.search", str(SPEC), "--out", str(folder)]
        settings = [f"seed={seed}", *KINDS[kind]]
        arguments = [word for setting in settings for word in ("--set", setting)]
        is_begun = (folder / "spec.yaml").exists()
        resume = ["--resume"] if is_begun else []
        subprocess.run([*command, *arguments, *resume], check=True)
    return folder


def measure(folder: Path) -> tuple[float, float]:
    """Return the epochs that a search trained, the probe's as one, and its front's hypervolume."""
    trials = pd.read_parquet(folder / "trials.parquet")
    document = json.loads((folder / "front.json").read_text())
    trained = trials[trials.state != "infeasible"]
    is_probe = trained.name == "linear probe"
    epochs = float(trained[~is_probe].epochs.sum() + is_probe.sum())
    front = document["front"]
    volume = front_hypervolume(
        [member["trainable_params"] for member in front],
        [member["test_top1"] for member in front],
        max_params=2.0 * document["budget"],
        min_top1=REFERENCE_TOP1,
    )
    return epochs, volume


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    options = parser.parse_args()
    found = {
        kind: [measure(search(kind, seed, options.work)) for seed in options.seeds]
        for kind in KINDS
    }
    for kind, values in found.items():
        for seed, (epochs, volume) in zip(options.seeds, values, strict=True):
            print(f"{kind:8s} seed {seed}: {epochs:4.0f} epochs, hypervolume {volume:6.2f}")
    epochs = {kind: mean(value[0] for value in values) for kind, values in found.items()}
    volumes = {kind: [value[1] for value in values] for kind, values in found.items()}
    lost = mean(volumes["full"]) - mean(volumes["stopped"])
    error = (sum(stdev(v) ** 2 / len(v) for v in volumes.values())) ** 0.5
    figures = [
        Figure(figure="seeds of each", value=len(options.seeds), floor=3),
        Figure(
            figure="training epochs, stopped over full",
            value=epochs["stopped"] / epochs["full"],
            floor=0.45,
            better="lower",
        ),
        Figure(figure="hypervolume on test, full", value=mean(volumes["full"])),
        Figure(figure="hypervolume on test, stopped", value=mean(volumes["stopped"])),
        Figure(
            figure="hypervolume lost, in standard errors of the seeds",
            value=lost / error,
            floor=2.0,
            better="lower",
        ),
    ]
    print_figures("early stopping on the demo", figures)
    write_summary(HERE, figures)


if __name__ == "__main__":
    main()
