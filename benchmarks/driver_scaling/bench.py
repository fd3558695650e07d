"""How many worker groups one driver keeps busy: 1, 8, 64 and 512 groups, 10 000 trials.

    python -m benchmarks.driver_scaling.bench [--groups 512] [--sampler ehvi] [--trials 10000]

Searcher, scheduler with early stopping, study on disk, dispatcher: the real ones. Groups are
simulated, on a clock of their own (see `simulated_tune`): 8 epochs of 60 s a trial. The tracker
with an MLflow store in a folder is measured by itself, and every trial is charged with that; with
`--deliver` it is told of every trial as well, and the run ends when MLflow has them all. One run is
one process, as memory is asked for; `--table` prints what was found so far.

`--tracker` measures the tracker alone, `--dispatcher` drives the real dispatcher actor with 512
groups that ask and report, `--memory` is what each real group takes of the driver's node, and
`--tune` is what is not simulated: Tune's own loop and Ray's messages (`--tune --groups 2 8 512`).
"""

from __future__ import annotations

import argparse
import json
import math
import random
import resource
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.driver_scaling.memory import measure_memory
from benchmarks.driver_scaling.polling import measure_polling
from benchmarks.driver_scaling.simulated_tune import DirectHandle, SimulatedTune
from benchmarks.driver_scaling.tune_cost import tune_milliseconds, wait_milliseconds
from benchmarks.report import Figure, print_figures, write_summary
from vpetl_ray.results.records import EpochRow, TrialRecord, TrialState
from vpetl_ray.results.tracking import Tracker, TrackingInfo
from vpetl_ray.results.tracking_uri import store_in
from vpetl_ray.spec.load import load_spec
from vpetl_ray.tuning import rung_scheduler as rung_scheduler_module
from vpetl_ray.tuning import searcher as searcher_module
from vpetl_ray.tuning.budgeted_study import BudgetedStudy
from vpetl_ray.tuning.dispatcher import Dispatcher
from vpetl_ray.tuning.halving import Halving, default_rungs
from vpetl_ray.tuning.rung_scheduler import RungScheduler
from vpetl_ray.tuning.searcher import ParetoSearcher

HERE = Path(__file__).parent
SPEC = HERE.parents[1] / "search_spaces" / "position_scale.yaml"
NUM_CLASSES, EPOCHS, EPOCH_SECONDS = 12, 8, 60.0
TUNE_SECONDS = 0.0035
"""Of Tune's own loop and Ray's messages for each event: `--tune` measures 2.5 ms with 2 running
trials, 3.0 with 8, and of its wait for the next event, which alone grows with them, 0.5 with 512.
"""
TRACKED_TRIALS = 200
"""So many trials of the tracker are measured before each run."""
MOST_REAL = 24
"""Trial actors that fit into a small machine beside all else: 120 MB each."""
BUSY_FLOOR = 95.0


def search(num_groups: int, num_trials: int, sampler: str, *, deliver: bool) -> dict[str, Any]:
    """Run one search on simulated groups."""
    tracker_ms = measure_tracker(TRACKED_TRIALS)
    # Both wait for the dispatcher by `ray.get`; the direct handle has answered already.
    for module in (searcher_module, rung_scheduler_module):
        module.ray = SimpleNamespace(get=lambda answer: answer)  # type: ignore[attr-defined]
    spec, now = load_spec(SPEC), [0.0]
    rng = random.Random(0)

    def top1(params: int, epoch: int) -> float:
        best = 40.0 + 12.0 * math.log10(params) - 20.0
        return best * (1.0 - 0.5 * math.exp(-epoch / 2.0)) + rng.gauss(0.0, 1.0)

    memory_before = _memory_mb()
    with tempfile.TemporaryDirectory() as folder:
        tracker = _tracker(folder) if deliver else None
        study = BudgetedStudy(
            Path(folder) / "study.db",
            space=spec.space(NUM_CLASSES),
            budget=spec.budget_limit(NUM_CLASSES),
            sampler=sampler,
            seed=0,
            start=[],
            on_record=tracker.log_trial if tracker else lambda record: None,
        )
        handle = DirectHandle(Dispatcher(clock=lambda: now[0]))
        halving = Halving(default_rungs(EPOCHS))
        searcher = ParetoSearcher(
            study,
            handle,
            num_trials=num_trials,
            halving=halving,
            has_enough=lambda: handle.dispatcher.num_queued > 0,
            clock=lambda: now[0],
        )
        scheduler = RungScheduler(halving, handle, searcher)
        tune = SimulatedTune(
            searcher,
            scheduler,
            handle,
            num_groups=num_groups,
            epochs=EPOCHS,
            top1=top1,
            epoch_seconds=EPOCH_SECONDS,
            tune_seconds=TUNE_SECONDS,
            tracker_seconds=1e-3 * tracker_ms,
            advance=lambda seconds: now.__setitem__(0, seconds),
        )
        start = time.process_time()
        figures = tune.run()
        if tracker is not None:
            # The simulated clock is faster than the real one: what it has not yet written.
            report = tracker.finish("FINISHED", timeout=3600.0)
            assert report.is_complete, report.problem
            assert report.delivered == num_trials, report
        cpu_seconds = time.process_time() - start
    driver_ms, waits = np.array(figures.driver_ms), np.array(figures.waits_s)
    return {
        "groups": num_groups,
        "sampler": sampler,
        "trials": num_trials,
        "epochs": figures.num_epochs,
        "busy": 100.0 * figures.busy,
        "hours": figures.makespan / 3600.0,
        "driver_ms": float(driver_ms.mean()),
        "last_driver_ms": float(driver_ms[-500:].mean()),
        "wait_ms": 1e3 * float(waits.mean()),
        "wait_p99_ms": 1e3 * float(np.quantile(waits, 0.99)),
        "tracker_ms": tracker_ms,
        "delivered": deliver,
        "driver_load": 100.0 * 1e-3 * float(driver_ms.sum()) / max(1e-9, figures.makespan),
        "cpu_seconds": cpu_seconds,
        "memory_mb": _memory_mb(),
        "memory_grown_mb": _memory_mb() - memory_before,
        "dispatcher_calls": handle.num_calls,
    }


def _memory_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0


def _tracker(folder: str) -> Tracker:
    uri, artifacts = store_in(folder)
    info = TrackingInfo(
        search_id="scaling",
        name="scaling",
        uri=uri,
        artifact_location=artifacts,
        experiment="scaling",
        spec_text="name: scaling\n",
        settings={},
        columns=("petl.patt.d_bottle",),
        environment={},
    )
    tracker = Tracker(info)
    tracker.start()
    return tracker


def measure_tracker(num_trials: int) -> float:
    """CPU milliseconds a trial of the real tracker into a store in a folder."""
    with tempfile.TemporaryDirectory() as folder:
        tracker = _tracker(folder)
        start = time.process_time()
        for number in range(num_trials):
            curve = tuple(EpochRow(epoch=e, top1=50.0, loss=1.0, seconds=60.0) for e in range(1, 9))
            tracker.log_trial(
                TrialRecord(
                    id=f"t{number:04d}",
                    number=number,
                    state=TrialState.COMPLETE,
                    trainable_params=1000 + number,
                    top1=50.0,
                    epochs=8,
                    curve=curve,
                    config={"petl.patt.d_bottle": 8},
                )
            )
        report = tracker.finish("FINISHED", timeout=600.0)
        assert report.is_complete, report.problem
        return 1e3 * (time.process_time() - start) / num_trials


def measure_tune(groups: list[int]) -> list[Figure]:
    """What `TUNE_SECONDS` says: with real trial actors as far as they fit, and its wait alone."""
    spec, figures = load_spec(SPEC), []
    for num_groups in groups:
        found = {"wait for the next of": wait_milliseconds(num_groups)}
        if num_groups <= MOST_REAL:
            sizes = {"num_groups": num_groups, "num_trials": 80 + 6 * num_groups}
            found["all of"] = tune_milliseconds(spec, NUM_CLASSES, epochs=EPOCHS, **sizes)
        for what, milliseconds in found.items():
            name = f"Tune: main thread's CPU an event, {what} {num_groups} running trials"
            figures.append(Figure(figure=name, value=milliseconds, unit="ms", better="lower"))
            print(figures[-1], flush=True)
    return figures


def table(runs: list[dict[str, Any]]) -> Table:
    found = Table(title="One driver, simulated groups, 8 epochs of 60 s a trial")
    columns = {
        "groups": "{groups}",
        "sampler": "{sampler}",
        "trials": "{trials}",
        "groups busy %": "{busy:.2f}",
        "driver CPU a trial, ms": "{driver_ms:.0f}",
        "of the last 500": "{last_driver_ms:.0f}",
        "of it MLflow": "{tracker_ms:.0f}",
        "driver load %": "{driver_load:.1f}",
        "a result waits, ms": "{wait_ms:.0f}",
        "99th percentile": "{wait_p99_ms:.0f}",
        "memory MB": "{memory_mb:.0f}",
    }
    for name in columns:
        found.add_column(name, justify="right")
    for run in sorted(runs, key=lambda run: (run["sampler"], run["trials"], run["groups"])):
        found.add_row(*(text.format(**run) for text in columns.values()))
    return found


def figures_of(runs: list[dict[str, Any]]) -> list[Figure]:
    figures = []
    for run in runs:
        what = f"{run['groups']} groups, {run['trials']} trials, {run['sampler']}"
        is_asked = run["groups"] == 512
        figures += [
            Figure(
                figure=f"{what}: groups busy",
                value=run["busy"],
                unit="%",
                floor=BUSY_FLOOR if is_asked else None,
            ),
            Figure(
                figure=f"{what}: driver CPU a trial", value=run["driver_ms"], unit="ms",
                better="lower",
            ),
            Figure(
                figure=f"{what}: a result waits for the driver", value=run["wait_ms"], unit="ms",
                better="lower",
            ),
            Figure(figure=f"{what}: memory", value=run["memory_mb"], unit="MB", better="lower"),
        ]  # fmt: skip
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--groups", type=int, nargs="*", default=[1, 8, 64, 512])
    parser.add_argument("--sampler", default="ehvi")
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--deliver", action="store_true", help="tell MLflow of every trial, too")
    parser.add_argument("--tracker", type=int, metavar="TRIALS")
    parser.add_argument("--dispatcher", action="store_true")
    parser.add_argument("--memory", action="store_true", help="of a group on the driver's node")
    parser.add_argument("--tune", action="store_true", help="what Tune itself takes")
    parser.add_argument("--table", action="store_true", help="print what was found before")
    given = parser.parse_args()
    figures = []
    runs_file = HERE / "results" / "runs.json"
    if given.tracker:
        figures.append(
            Figure(
                figure="tracker: CPU a trial, in a thread of its own",
                value=measure_tracker(given.tracker),
                unit="ms",
                better="lower",
            )
        )
    elif given.memory:
        figures += measure_memory()
    elif given.dispatcher:
        figures += measure_polling()
    elif given.tune:
        figures += measure_tune(given.groups)
    elif not given.table:
        runs = json.loads(runs_file.read_text()) if runs_file.exists() else []
        for num_groups in given.groups:
            run = search(num_groups, given.trials, given.sampler, deliver=given.deliver)
            keys = ("groups", "sampler", "trials")
            runs = [old for old in runs if any(old[k] != run[k] for k in keys)] + [run]
            runs_file.write_text(json.dumps(runs, indent=1) + "\n")
            figures += figures_of([run])
            print(run, flush=True)
    if runs_file.exists():
        Console(width=150).print(table(json.loads(runs_file.read_text())))
    if figures:
        print_figures("driver scaling", figures)
        write_summary(HERE, figures, keep_others=True)


if __name__ == "__main__":
    main()
