"""The number that users feel: how long until the same list of configs is trained?

    python -m benchmarks.makespan.bench [--plain-trials 4 | --all] [--plain-steps torchvision]
        [--precision bf16] [--work runs/makespan]

24 configs of the demo's space, drawn at random from seed 0, and the linear probe among them:

- ours: `python -m vpetl_ray.search` without early stopping, from videos that were never decoded
  and an empty cache to the front, tested and in MLflow;
- plain: Ray's own pattern (`plain.py`), a `Tuner` over `TorchTrainer` with pytorchvideo and
  torchvision's model; with `--plain-steps ours` it is lent our fast step.

Both train in the same precision, by default in the one that this CPU is faster in.

Plain takes the better part of an hour for all of them (`--all`). By default it trains a sample of
the list, drawn from seed 0; what its trials took from the first start to the last end is multiplied
by 24 over their number, Ray's own start counted once, and the figure is marked as extrapolated.
What is in the work folder already is not done again.

Accuracies count as the same when the mean difference over the trials that both trained is within
two standard errors of one accuracy on the validation clips.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd

from benchmarks.makespan.plain import PlainTrial, Steps, run_plain
from benchmarks.report import Figure, print_figures, write_summary
from vpetl_ray.spec.dry_run import multiplies_bf16
from vpetl_ray.spec.load import load_spec
from vpetl_ray.spec.search_spec import SearchSpec
from vpetl_ray.tuning.stored_values import values_from_columns

FOLDER = Path(__file__).parent
SPEC = FOLDER.parents[1] / "search_spaces" / "position_scale.yaml"
NUM_TRIALS = 24
NUM_CONCURRENT = 2
FLOOR = 6.0
OVERRIDES = ("search.sampler=random", f"search.trials={NUM_TRIALS}", "search.start=[linear_probe]")


def run_ours(work: Path, precision: str) -> float:
    """Seconds of the whole command; the videos are there, all else is made."""
    seconds_file, cache = work / "ours.seconds", work / "cache"
    if seconds_file.exists():
        return float(seconds_file.read_text())
    environment = {**os.environ, "VPETL_CACHE": str(cache)}
    for folder in (work / "ours", cache / "clips", cache / "features"):
        shutil.rmtree(folder, ignore_errors=True)
    subprocess.run(
        [sys.executable, "-c", LIST_VIDEOS], env=environment, check=True, cwd=SPEC.parents[1]
    )
    command = [sys.executable, "-m", "vpetl_ray.search", str(SPEC), "--out", str(work / "ours")]
    for override in (*overrides(precision), f"resources.groups={NUM_CONCURRENT}"):
        command += ["--set", override]
    start = time.monotonic()
    subprocess.run(command, env=environment, check=True, cwd=SPEC.parents[1])
    seconds = time.monotonic() - start
    seconds_file.write_text(str(seconds))
    return seconds


def overrides(precision: str) -> tuple[str, ...]:
    return (*OVERRIDES, f"training.precision={precision}")


LIST_VIDEOS = """
from vpetl_ray.data.config import DataConfig
if __name__ == "__main__":
    DataConfig().list_videos(num_processes=2)
"""


def listed(spec: SearchSpec, rows: pd.DataFrame) -> list[PlainTrial]:
    """The configs of the search, as its table says them."""
    space = spec.space()
    trials = []
    for row in rows.drop(columns="curve", errors="ignore").to_dict("records"):
        columns = {str(path): value for path, value in row.items() if not pd.isna(value)}
        config = space.build(values_from_columns(space, columns)[0])
        trials.append(
            PlainTrial(
                id=str(row["id"]),
                petl=config.petl.to_dict(),
                recipe=config.recipe.to_dict(),
            )
        )
    return trials


def train_plain(
    spec: SearchSpec, trials: Sequence[PlainTrial], work: Path, steps: Steps
) -> tuple[dict[str, dict[str, Any]], float]:
    """Rows by trial, of now or before, and the seconds that are no trial's."""
    results, overhead_file = work / f"plain_{steps}.jsonl", work / f"plain_{steps}.overhead"
    done = _rows(results)
    missing = [trial for trial in trials if trial.id not in done]
    if missing:
        os.environ["VPETL_CACHE"] = str(work / "cache")
        videos = spec.data_config().list_videos(num_processes=2)
        seconds = run_plain(
            missing,
            videos={
                str(split): [(item.path, item.label) for item in items]
                for split, items in videos.splits.items()
            },
            num_classes=len(videos.classes),
            seed=spec.seed,
            num_concurrent=NUM_CONCURRENT,
            steps=steps,
            results=results,
        )
        done = _rows(results)
        overhead = seconds - _span([done[trial.id] for trial in missing])
        overhead_file.write_text(str(overhead))
    return {t.id: done[t.id] for t in trials}, float(overhead_file.read_text())


def _rows(path: Path) -> dict[str, dict[str, Any]]:
    lines = path.read_text().splitlines() if path.exists() else []
    return {row["id"]: row for row in map(json.loads, lines)}


def _span(rows: Sequence[Mapping[str, Any]]) -> float:
    """Seconds from the first start to the last end, as if runs had followed one another at once."""
    return float(max(row["end"] for row in rows) - min(row["start"] for row in rows))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--plain-trials", type=int, default=4)
    parser.add_argument("--all", action="store_true", help="train all of them plainly, too")
    default = "bf16" if multiplies_bf16() else "fp32"
    parser.add_argument("--precision", choices=("fp32", "bf16"), default=default)
    parser.add_argument("--plain-steps", choices=("torchvision", "ours"), default="torchvision")
    parser.add_argument("--work", type=Path, default=Path("runs/makespan"))
    options = parser.parse_args()
    work = options.work.absolute() / options.precision
    work.mkdir(parents=True, exist_ok=True)
    ours = run_ours(work, options.precision)
    spec = load_spec(SPEC, list(overrides(options.precision)))
    table = pd.read_parquet(work / "ours" / "trials.parquet")
    table = table[table.state == "complete"]
    trials = listed(spec, table)
    if len(trials) != NUM_TRIALS:
        raise SystemExit(f"{len(trials)} of {NUM_TRIALS} configs were trained")
    num_plain = NUM_TRIALS if options.all else options.plain_trials
    chosen = random.Random(0).sample(trials, num_plain)
    rows, overhead = train_plain(spec, chosen, work, options.plain_steps)
    plain = overhead + _span(list(rows.values())) * NUM_TRIALS / num_plain
    top1 = dict(zip(table.id, table.top1, strict=True))
    apart = [rows[trial.id]["top1"] - top1[trial.id] for trial in chosen]
    for trial in chosen:
        print(f"{trial.id}: ours {top1[trial.id]:.1f}%, plain {rows[trial.id]['top1']:.1f}%")
    standard_error = 100 * (0.25 / 420) ** 0.5
    mark = f", {options.precision}"
    mark += ", plain with our step" if options.plain_steps == "ours" else ""
    accuracies = f"validation accuracy{mark}"
    mark += "" if num_plain == NUM_TRIALS else f", extrapolated from {num_plain} trials"
    figures = [
        Figure(
            figure=f"makespan of {NUM_TRIALS} configs, plain over ours{mark}",
            value=plain / ours,
            unit="x",
            floor=FLOOR,
        ),
        Figure(
            figure=f"makespan, ours, {NUM_TRIALS} configs, {options.precision}",
            value=ours,
            unit="s",
        ),
        Figure(figure=f"makespan, plain, {NUM_TRIALS} configs{mark}", value=plain, unit="s"),
        Figure(
            figure=f"{accuracies}, plain minus ours, of {num_plain}",
            value=abs(fmean(apart)),
            unit="points",
            floor=2 * standard_error,
            better="lower",
        ),
        Figure(
            figure=f"{accuracies}, largest difference of a config",
            value=max(map(abs, apart)),
            unit="points",
        ),
    ]
    print_figures("The same list, plainly and with ours", figures)
    write_summary(FOLDER, figures, keep_others=True)


if __name__ == "__main__":
    main()
