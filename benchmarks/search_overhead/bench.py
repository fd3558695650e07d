"""What a trial costs the driver beside its training, at the 100th trial and at the 2 000th.

    python -m benchmarks.search_overhead.bench [--samplers ehvi tpe] [--trials 2000]

Asking, deciding at each rung and telling, with the study on disk as a search has it, in the space
of `search_spaces/position_scale.yaml`. Accuracies are made up: their cost is what is asked for.
"""

from __future__ import annotations

import argparse
import math
import random
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

from benchmarks.report import Figure, print_figures, write_summary
from vpetl_ray.results.records import EpochRow, TrialRecord, TrialState
from vpetl_ray.spec.load import load_spec
from vpetl_ray.tuning.budgeted_study import BudgetedStudy, Proposal, number_of
from vpetl_ray.tuning.halving import Decision, Halving, default_rungs

HERE = Path(__file__).parent
SPEC = HERE.parents[1] / "search_spaces" / "position_scale.yaml"
NUM_CLASSES = 12
EPOCHS = 8
WINDOW = 100
"""Trials about the one in question, of which the median is taken."""


def measure(sampler: str, num_trials: int, folder: Path) -> tuple[list[float], list[float]]:
    """Return the seconds that each trial cost, from its proposal to its last word.

    And the megabytes that the process held after it.
    """
    spec = load_spec(SPEC)
    study = BudgetedStudy(
        folder / f"{sampler}.db",
        space=spec.space(NUM_CLASSES),
        budget=spec.budget_limit(NUM_CLASSES),
        sampler=sampler,
        seed=0,
        start=[],
        on_record=lambda record: None,
    )
    halving = Halving(default_rungs(EPOCHS))
    halving.judge = lambda waiting: study.worth(
        [number_of(trial) for trial in waiting], is_new_possible=True
    )
    open_trials: dict[str, tuple[Proposal, list[EpochRow]]] = {}
    spent: list[float] = []
    held: list[float] = []
    rng = random.Random(0)
    process = psutil.Process()
    for _ in range(num_trials):
        start = time.perf_counter()
        proposal = study.ask()
        assert proposal is not None
        open_trials[proposal.id] = (proposal, [])
        _train(proposal.id, open_trials, study, halving, rng)
        promoted = halving.next_promotion()
        if promoted is not None:
            _train(promoted, open_trials, study, halving, rng)
        spent.append(time.perf_counter() - start)
        held.append(process.memory_info().rss / 1e6)
    return spent, held


def _train(
    name: str,
    open_trials: dict[str, tuple[Proposal, list[EpochRow]]],
    study: BudgetedStudy,
    halving: Halving,
    rng: random.Random,
) -> None:
    proposal, curve = open_trials[name]
    best = 40.0 + 12.0 * math.log10(proposal.trainable_params) - 20.0
    while len(curve) < EPOCHS:
        epoch = len(curve) + 1
        top1 = best * (1.0 - 0.5 * math.exp(-epoch / 2.0)) + rng.gauss(0.0, 1.0)
        curve.append(EpochRow(epoch=epoch, top1=top1, seconds=1.0))
        if epoch in halving.rungs:
            study.observe(proposal.number, curve)
            params = proposal.trainable_params
            if halving.report(name, epoch=epoch, params=params, top1=top1) is Decision.PAUSE:
                study.keep_curve(proposal.number, curve)
                return
    record = TrialRecord(
        id=name,
        number=proposal.number,
        state=TrialState.COMPLETE,
        trainable_params=proposal.trainable_params,
        top1=curve[-1].top1,
        epochs=EPOCHS,
        curve=tuple(curve),
        config=study.columns_of(proposal),
    )
    study.tell(record)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samplers", nargs="*", default=["ehvi", "tpe", "nsga2", "random"])
    parser.add_argument("--trials", type=int, default=2000)
    options = parser.parse_args()
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        for number, sampler in enumerate(options.samplers):
            spent, held = measure(sampler, options.trials, Path(folder))
            spent_ms = np.array(spent) * 1e3
            median, early, late = (
                float(np.median(part)) for part in (spent_ms, spent_ms[:WINDOW], spent_ms[-WINDOW:])
            )
            print(
                f"{sampler:7s} median of all {median:.1f} ms, of the first {WINDOW} {early:.1f}, "
                f"of the last {WINDOW} {late:.1f}; mean {spent_ms.mean():.1f}, "
                f"worst {spent_ms.max():.0f}",
                flush=True,
            )
            has_floor = number == 0  # the default
            figures += [
                Figure(
                    figure=f"{sampler}: median a trial, of {options.trials}",
                    value=median,
                    unit="ms",
                    floor=20.0 if has_floor else None,
                    better="lower",
                ),
                Figure(
                    figure=f"{sampler}: last {WINDOW} trials over the first {WINDOW}",
                    value=late / early,
                    unit="x",
                    floor=10.0 if has_floor else None,
                    better="lower",
                ),
                Figure(
                    figure=f"{sampler}: memory, after the last trial less after {WINDOW}",
                    value=held[-1] - held[WINDOW - 1],
                    unit="MB",
                    better="lower",
                ),
            ]
    print_figures("what a trial costs the driver", figures)
    write_summary(HERE, figures)


if __name__ == "__main__":
    main()
