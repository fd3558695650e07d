"""Every search, many seeds: how fast does the front grow with the training time?

    python -m benchmarks.search_quality.compare [--seeds 30] [--processes 2] [--only ehvi moasha]

Simulated on the table (`tabulate`; with `--world layerwise` on the surrogate), 4 workers, and ours
with 1 as well. Each search is appended to `results/searches.jsonl` as it ends and not done again,
so it may be interrupted; then `python -m benchmarks.search_quality.bench` makes the figure, the
table and the tests of it.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from benchmarks.search_quality.searches import (
    OurSearch,
    Problem,
    SyneTuneMoasha,
    WeightedSumAsha,
)
from benchmarks.search_quality.simulate import Epoch, Job, SimulatedSearch, simulate
from benchmarks.search_quality.table import FOLDER, Curve, read_table, tabulated_space
from vpetl_ray.results.front import front_hypervolume
from vpetl_ray.tuning.halving import Halving, Promote, Variant, default_rungs

EPOCHS = 8
BUDGET_SHARE = 0.08
"""Of the backbone's parameters: what the demo's own search has."""
BACKBONE = 576_676
NUM_FULL_TRIALS = 100
"""As long as so many trials take that are trained to their end, a search lasts."""
NUM_WORKERS = 4
FIRST_SEED = 1000
"""Seeds below were tried while the sampler was made; nothing was chosen by these."""
REFERENCE_TOP1 = 40.0
"""Lower edge of the hypervolume, percent."""
REFERENCE_ROOM = 2.0
"""Right edge over the budget: at 1 the most accurate config within it would count for nothing."""

MakeSearch = Callable[[Problem, int], SimulatedSearch]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One simulated search."""

    search: str
    seed: int
    num_workers: int
    end: float
    """Seconds of training, of all workers together, after which it was ended."""
    seconds: tuple[float, ...]
    """At which its front grew, as training time."""
    volume: tuple[float, ...]
    """The front's hypervolume from then on: of the validation accuracy that the search saw."""
    true_volume: tuple[float, ...]
    """The same front by the mean of both seeds on the test split, that no search has seen."""
    epochs: int
    """Trained."""
    complete: int
    """Trials that were trained to their end."""
    wall: float
    """Seconds that the search itself took to simulate."""


def _full(sampler: str) -> MakeSearch:
    return lambda problem, seed: OurSearch(problem, seed=seed, sampler=sampler, halving=None)


def _halving(
    sampler: str = "ehvi",
    *,
    rungs: tuple[int, ...] = default_rungs(EPOCHS),
    eta: float = 1.5,  # the search ends by time: what is promoted need not be few
    variant: Variant = "promotion",
    promote: Promote = "gain",
    spread: str = "epsilon_net",
    **settings: Any,
) -> MakeSearch:
    def make(problem: Problem, seed: int) -> SimulatedSearch:
        halving = Halving(rungs, eta=eta, variant=variant, promote=promote, spread=spread)
        return OurSearch(problem, seed=seed, sampler=sampler, halving=halving, **settings)

    return make


OURS = "ours"
SEARCHES: Mapping[str, MakeSearch] = {
    OURS: _halving(),
    "random": _full("random"),
    "tpe": _full("tpe"),
    "nsga2": _full("nsga2"),
    "gp": _full("gp"),
    "weighted_sum_asha": lambda problem, seed: WeightedSumAsha(problem, seed=seed),
    "syne_tune_moasha": lambda problem, seed: SyneTuneMoasha(problem, seed=seed),
    # What makes ours what it is, one at a time.
    "ehvi": _full("ehvi"),
    "random_halving": _halving("random"),
    **{f"tpe_halving_{told}": _halving("tpe", told=told) for told in ("pruned", "rung")},
    "tpe_halving_extrapolated": _halving("tpe"),
    "tpe_halving_per_rung": _halving("tpe", told="per_rung"),
    "tpe_halving_reject": _halving("tpe", over_budget="reject"),
    "ours_by_rank": _halving(promote="rank"),
    "ours_by_rank_crowding": _halving(promote="rank", spread="crowding"),
    "ours_stopping": _halving(variant="stopping"),
    "ours_eta_2": _halving(eta=2.0),
    "ours_eta_3": _halving(eta=3.0),
    "ours_eta_4": _halving(eta=4.0),
    "ours_rungs_1_2_4": _halving(rungs=(1, 2, 4)),
}


@dataclass(frozen=True, kw_only=True)
class World:
    """A space, and how its configs train."""

    problem: Problem
    curve_of: Callable[[str, int], Curve]
    """A config's training by its key, as a search with this seed sees it."""
    true_top1: Callable[[Curve], float]
    """Of a config on the test split, whatever the seed."""
    training_seconds: float
    """How long a search lasts, of all workers together."""


@cache
def world(name: str) -> World:
    """Make a world by its name."""
    return WORLDS[name]()


def _table_world() -> World:
    table, space = read_table(), tabulated_space()
    budget = int(BUDGET_SHARE * BACKBONE)
    within = [
        config for values in space.grid() if space.count(config := space.build(values)) <= budget
    ]
    seconds = [sum(curve.seconds) for config in within for curve in table[config.key]]

    def curve_of(key: str, seed: int) -> Curve:
        # Which of its two seeds a config is seen with is the same in all searches of one seed.
        return random.Random(f"{seed}/{key}").choice(table[key])

    return World(
        problem=Problem(
            space=space, budget=budget, epochs=EPOCHS, max_trials=10**6, num_configs=len(within)
        ),
        curve_of=curve_of,
        true_top1=lambda curve: mean(other.test_top1 for other in table[curve.key]),
        training_seconds=NUM_FULL_TRIALS * mean(seconds),
    )


def _layerwise_world() -> World:
    from benchmarks.search_quality.surrogate import Surrogate  # noqa: PLC0415

    surrogate = Surrogate()
    space = surrogate.space
    seconds = np.exp(surrogate.y_NE[:, -1]) * (surrogate.y_NE.shape[1] - 2)
    return World(
        problem=Problem(
            space=space,
            budget=surrogate.budget,
            epochs=surrogate.y_NE.shape[1] - 2,
            max_trials=10**6,
            num_configs=10**9,
        ),
        curve_of=lambda key, seed: surrogate.curve(space.by_key[key], seed),
        true_top1=lambda curve: curve.test_top1,
        training_seconds=NUM_FULL_TRIALS * float(seconds.mean()),
    )


WORLDS: Mapping[str, Callable[[], World]] = {"table": _table_world, "layerwise": _layerwise_world}


def runs_file(world_name: str) -> Path:
    """Where the searches of a world are kept."""
    name = "searches.jsonl" if world_name == "table" else f"searches_{world_name}.jsonl"
    return FOLDER / "results" / name


def run(name: str, seed: int, num_workers: int, world_name: str = "table") -> Run:
    """Simulate one search."""
    place = world(world_name)
    drawn: dict[str, Curve] = {}

    def curve_of(job: Job) -> Curve:
        if job.key not in drawn:
            drawn[job.key] = place.curve_of(job.key, seed)
        return drawn[job.key]

    began = time.perf_counter()
    epochs = simulate(
        SEARCHES[name](place.problem, seed),
        curve_of,
        num_workers=num_workers,
        max_seconds=place.training_seconds / num_workers,
    )
    wall = time.perf_counter() - began
    steps = list(_growth(epochs, place))
    return Run(
        search=name,
        seed=seed,
        num_workers=num_workers,
        end=place.training_seconds,
        seconds=tuple(round(second * num_workers, 3) for second, _, _ in steps),
        volume=tuple(round(volume, 4) for _, volume, _ in steps),
        true_volume=tuple(round(volume, 4) for _, _, volume in steps),
        epochs=len(epochs),
        complete=sum(epoch.is_final for epoch in epochs),
        wall=round(wall, 2),
    )


def _growth(epochs: list[Epoch], place: World) -> Iterator[tuple[float, float, float]]:
    """Hypervolume after each trial that was trained to its end and made the front better."""
    front: dict[str, Curve] = {}
    best = 0.0
    for epoch in epochs:
        if not epoch.is_final:
            continue
        front[epoch.curve.key] = epoch.curve
        volume = _volume(front, place, lambda curve: curve.top1[-1])
        if volume > best:
            best = volume
            front = {
                key: curve
                for key, curve in front.items()
                if not any(
                    other.params <= curve.params and other.top1[-1] > curve.top1[-1]
                    for other in front.values()
                )
            }
            yield epoch.seconds, volume, _volume(front, place, place.true_top1)


def _volume(front: Mapping[str, Curve], place: World, top1: Callable[[Curve], float]) -> float:
    curves = list(front.values())
    return front_hypervolume(
        [curve.params for curve in curves],
        [top1(curve) for curve in curves],
        max_params=REFERENCE_ROOM * place.problem.budget,
        min_top1=REFERENCE_TOP1,
    )


def read_searches(world_name: str = "table") -> list[Run]:
    """Every search of a world that is on file."""
    path = runs_file(world_name)
    lines = path.read_text().splitlines() if path.exists() else []
    return [Run(**{k: _tuple(v) for k, v in json.loads(line).items()}) for line in lines]


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=list(SEARCHES), choices=list(SEARCHES))
    parser.add_argument("--world", default="table", choices=list(WORLDS))
    options = parser.parse_args()
    done = {(run.search, run.seed, run.num_workers) for run in read_searches(options.world)}
    wanted = [
        (name, seed, workers)
        for seed in range(FIRST_SEED, FIRST_SEED + options.seeds)
        for name in options.only
        for workers in ((NUM_WORKERS, 1) if name == OURS else (NUM_WORKERS,))
        if (name, seed, workers) not in done
    ]
    print(f"{len(done)} searches on file, {len(wanted)} to do", flush=True)
    with ProcessPoolExecutor(options.processes) as pool, runs_file(options.world).open("a") as file:
        for future in as_completed(
            pool.submit(partial(run, *what, options.world)) for what in wanted
        ):
            result = future.result()
            file.write(json.dumps(asdict(result)) + "\n")
            file.flush()
            final = result.volume[-1] if result.volume else 0.0
            print(
                f"{result.search:26s} seed {result.seed:2d} {final:6.2f} "
                f"(true {result.true_volume[-1] if result.true_volume else 0.0:6.2f}) "
                f"{result.complete:3d} complete, {result.epochs:4d} epochs, {result.wall:5.1f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
