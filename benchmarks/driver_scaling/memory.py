"""What every worker group costs the driver's node: processes that compute nothing.

Real groups on a private Ray cluster, with a runner that trains nothing, and Tune's real actors. The
memory that a process has for itself is what one more of it takes.
"""

from __future__ import annotations

import tempfile
import threading
from collections import defaultdict
from pathlib import Path

import psutil

from benchmarks.orchestration.bench import quiet, run_warm
from benchmarks.report import Figure
from vpetl_ray.tuning.cluster import ray_session

NUM_GROUPS = 2
NUM_TRIALS = 60
KINDS = {
    "ray::TrainController": "Ray Train's controller",
    "ray::SynchronizationActor": "Ray Train's barrier",
    "ray::ResourceTrainable": "Tune's actor of a running trial",
}


def measure_memory() -> list[Figure]:
    """Private memory of a group's processes beside the driver, and all of them together."""
    found: dict[str, list[float]] = defaultdict(list)
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(0.5):
            for process in psutil.Process().children(recursive=True):
                try:
                    name = "".join(process.cmdline()[:1]).partition(".")[0]
                    if name in KINDS:
                        found[name].append(process.memory_full_info().uss / 1e6)
                except psutil.Error:
                    continue

    watcher = threading.Thread(target=watch)
    with (
        tempfile.TemporaryDirectory() as folder,
        quiet(),
        ray_session("local", num_cpus=NUM_GROUPS),
    ):
        watcher.start()
        try:
            run_warm(NUM_TRIALS, NUM_GROUPS, 1, Path(folder))
        finally:
            is_over.set()
            watcher.join()
    most = {text: max(found[name]) for name, text in KINDS.items()}
    figures = [
        Figure(figure=f"driver's node: {text}", value=value, unit="MB", better="lower")
        for text, value in most.items()
    ]
    return [
        *figures,
        Figure(
            figure="driver's node: memory of each further group",
            value=sum(most.values()),
            unit="MB",
            better="lower",
        ),
    ]
