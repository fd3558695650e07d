"""Does cost grow as it should? Clips/s against clips, workers and trials, and memory over trials.

    python -m benchmarks.growth.bench [--trials 500]

One worker's training, as a search has it, without Ray: clips of noise, an adapter of random width
and places in every trial, one epoch each; and the same config with DDP over as many workers as the
machine has cores, a thread each. Flat means: the last is as fast as the first, within the noise
that the table shows, and nothing is kept of a trial that is over. What a trial costs the driver,
and its memory, is in `benchmarks/search_overhead`.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import psutil
import torch
import torch.distributed as dist
from rich.console import Console
from rich.table import Table

from benchmarks.report import Figure, print_figures, write_summary
from benchmarks.step.frozen import NUM_CLASSES, RandomClips
from vpetl_ray.models.arch import get_arch
from vpetl_ray.models.build import build_model
from vpetl_ray.petl.attach import attach
from vpetl_ray.petl.config import PetlConfig
from vpetl_ray.petl.methods import AdapterConfig, PattConfig
from vpetl_ray.training.features import FeatureCache
from vpetl_ray.training.loop import FineTuning
from vpetl_ray.training.recipe import Recipe

FOLDER = Path(__file__).parent
SIZE = (8, 32, 32)
BATCH = 16
CLIPS = (64, 128, 256, 512)
NUM_CORES = max(2, min(4, os.cpu_count() or 1))


def clips_a_second(num_clips: int, rank: int = 0, world_size: int = 1) -> float:
    """Of one epoch of an adapter in every block, with its evaluation of few clips."""
    clips = RandomClips(num_clips, SIZE)
    val = RandomClips(BATCH, SIZE)
    model = build_model(get_arch("swin3d_nano"), NUM_CLASSES)
    attached = attach(model, PetlConfig(methods=(AdapterConfig(d_bottle=8),)), seed=0)
    recipe = Recipe(learning_rate=1e-3, epochs=4, batch_size=BATCH * world_size)
    tuning = FineTuning(
        model, attached, clips, val, recipe, seed=0, rank=rank, world_size=world_size
    )
    tuning.run_epoch()
    taken = [tuning.run_epoch().seconds for _ in range(3)]
    return num_clips / min(taken)


def clips_a_second_of(num_workers: int) -> float:
    """With DDP over gloo, every worker a process with one thread, the same batch for each."""
    with tempfile.TemporaryDirectory() as folder:
        meeting = f"file://{folder}/meeting"
        with ProcessPoolExecutor(num_workers, mp_context=get_context("spawn")) as pool:
            jobs = [pool.submit(_work, meeting, r, num_workers) for r in range(num_workers)]
            return min(job.result() for job in jobs)


def _work(meeting: str, rank: int, num_workers: int) -> float:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=num_workers)
    try:
        return clips_a_second(CLIPS[-1], rank, num_workers)
    finally:
        dist.destroy_process_group()


def run_trials(num_trials: int) -> list[tuple[float, float]]:
    """Seconds and resident megabytes after each of so many trials in one model."""
    model = build_model(get_arch("swin3d_nano"), NUM_CLASSES)
    train, val, cache = RandomClips(2 * BATCH, SIZE), RandomClips(BATCH, SIZE), FeatureCache()
    draw, process = random.Random(0), psutil.Process()
    rows = []
    for _ in range(num_trials):
        start = time.perf_counter()
        stages = tuple(sorted(draw.sample((1, 2, 3), draw.randint(1, 3))))
        adapter = AdapterConfig(d_bottle=draw.choice((2, 8, 32)), stages=stages)
        patt = PattConfig(targets=("k", "v"), d_bottle=draw.choice((2, 8, 32)), stages=stages)
        config = PetlConfig(methods=draw.choice(((adapter,), (patt,), (adapter, patt), ())))
        attached = attach(model, config, seed=0)
        recipe = Recipe(learning_rate=1e-3, epochs=1, batch_size=BATCH, probe_epochs=2)
        tuning = FineTuning(model, attached, train, val, recipe, seed=0, features=cache)
        while not tuning.done:
            tuning.run_epoch()
        attached.detach()
        rows.append((time.perf_counter() - start, process.memory_info().rss / 1e6))
    return rows


def _print_rows(
    by_clips: Sequence[tuple[int, float]],
    by_workers: Sequence[tuple[int, float]],
    trials: Sequence[tuple[float, float]],
) -> None:
    table = Table(title="Cost as it grows")
    for column in ("what", "number", "clips/s or s a trial", "memory"):
        table.add_column(column, justify="right")
    for number, rate in by_clips:
        table.add_row("clips", str(number), f"{rate:.0f} clips/s", "")
    for number, rate in by_workers:
        table.add_row("workers", str(number), f"{rate:.0f} clips/s", "")
    step = max(1, len(trials) // 5)
    for end in range(step, len(trials) + 1, step):
        part = trials[end - step : end]
        seconds = median(row[0] for row in part)
        table.add_row("trials", str(end), f"{seconds:.2f} s", f"{part[-1][1]:.0f} MB")
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=500)
    options = parser.parse_args()
    torch.set_num_threads(1)
    by_clips = [(number, clips_a_second(number)) for number in CLIPS]
    by_workers = [(number, clips_a_second_of(number)) for number in (1, NUM_CORES)]
    trials = run_trials(options.trials)
    _print_rows(by_clips, by_workers, trials)
    rates = [rate for _, rate in by_clips]
    fifth = max(1, len(trials) // 5)
    figures = [
        Figure(
            figure=f"clips/s with {CLIPS[-1]} clips over {CLIPS[0]}",
            value=rates[-1] / rates[0],
            unit="x",
        ),
        Figure(
            figure=f"clips/s with {NUM_CORES} workers over 1",
            value=by_workers[-1][1] / by_workers[0][1],
            unit="x",
        ),
        Figure(
            figure=f"seconds a trial, last fifth of {len(trials)} over first",
            value=median(s for s, _ in trials[-fifth:]) / median(s for s, _ in trials[:fifth]),
            unit="x",
            better="lower",
        ),
        Figure(
            figure=f"a worker's memory, after {len(trials)} trials over after {fifth}",
            value=trials[-1][1] / trials[fifth - 1][1],
            unit="x",
            floor=1.05,
            better="lower",
        ),
    ]
    print_figures("Growth", figures)
    write_summary(FOLDER, figures)


if __name__ == "__main__":
    main()
