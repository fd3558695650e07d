"""What the simulated searches come to: a figure, a table, a test, and the floors.

    python -m benchmarks.search_quality.bench

Reads what `compare` has simulated so far. A front is chosen by the validation accuracies that its
search saw, and scored by the mean of both seeds on the test split, which no search has seen: what
was picked for its luck counts for nothing. The same by what was seen is printed beside it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu

from benchmarks.report import Figure, print_figures, write_summary
from benchmarks.search_quality.compare import (
    NUM_FULL_TRIALS,
    NUM_WORKERS,
    OURS,
    Run,
    read_searches,
    runs_file,
    world,
)

mpl.use("Agg")
from matplotlib import pyplot as plt

HERE = Path(__file__).parent
SHOWN = {
    OURS: ("ours: EHVI with known cost, halving", "black", "-"),
    "tpe": ("TPE, full length", "#0072b2", "--"),
    "gp": ("GP (log-EHVI), full length", "#009e73", "--"),
    "nsga2": ("NSGA-II, full length", "#cc79a7", "--"),
    "random": ("random, full length", "#7f7f7f", "-"),
    "syne_tune_moasha": ("Syne Tune's MOASHA", "#d55e00", "-."),
    "weighted_sum_asha": ("Tune's ASHA, weighted sum", "#e69f00", ":"),
}
"""Label, colour (Okabe and Ito's, for the colour-blind) and dashes."""
SHARES = np.linspace(0.0, 1.0, 401)
QUARTER = 100
Array = NDArray[np.float64]


def volumes_of(runs: Sequence[Run], *, seen: bool = False) -> Array:
    """Hypervolume of each run at each of `SHARES` of the training time, (runs, shares).

    Args:
        runs: of one search.
        seen: by the accuracies that the search saw, and not by those of the test split.
    """
    return np.array([_at(run, SHARES * run.end, seen=seen) for run in runs])


def _of(run: Run, *, seen: bool) -> tuple[float, ...]:
    return run.volume if seen else run.true_volume


def _at(run: Run, seconds: Array, *, seen: bool) -> Array:
    found = np.searchsorted(np.array(run.seconds), seconds, side="right")
    return np.array([0.0, *_of(run, seen=seen)])[found]


def share_to_reach(
    runs: Sequence[Run], peers: Sequence[Run], *, own_end: bool, seen: bool = False
) -> Array:
    """Share of a peer's training time after which we have its final hypervolume, by seed.

    Args:
        runs: ours.
        peers: theirs, by the same seeds.
        own_end: their time ends with their last improvement, and not with the search.
        seen: see `volumes_of`.
    """
    by_seed = {run.seed: run for run in runs}
    shares = []
    for peer in peers:
        ours = by_seed[peer.seed]
        reached = np.flatnonzero(np.array(_of(ours, seen=seen)) >= _of(peer, seen=seen)[-1])
        end = peer.seconds[-1] if own_end else peer.end
        shares.append(ours.seconds[reached[0]] / end if len(reached) else np.inf)
    return np.array(shares)


def medians_cross(runs: Sequence[Run], peers: Sequence[Run]) -> float:
    """Share of the time after which our median has their final median."""
    ours = np.median(volumes_of(runs), axis=0)
    reached = np.flatnonzero(ours >= np.median(volumes_of(peers)[:, -1]))
    return float(SHARES[reached[0]]) if len(reached) else float("inf")


def draw_growth(searches: dict[str, list[Run]], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for name, (label, colour, dashes) in SHOWN.items():
        if name not in searches:
            continue
        volumes = volumes_of(searches[name])
        low, middle, high = np.quantile(volumes, (0.25, 0.5, 0.75), axis=0)
        shares = 100.0 * SHARES
        axes.plot(shares, middle, dashes, color=colour, label=f"{label} ({len(volumes)})")
        axes.fill_between(shares, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.set_xlim(0, 100)
    axes.set_ylim(bottom=0.5 * float(np.median(volumes_of(searches["random"])[:, -1])))
    axes.set_xlabel(
        f"training time of all {NUM_WORKERS} workers (% of {NUM_FULL_TRIALS} full-length trials)"
    )
    axes.set_ylabel("hypervolume on test (points of top-1 x decades of parameters)")
    axes.set_title("Median over seeds, and the middle half of them")
    axes.legend(loc="lower right", title="search (seeds)")
    axes.grid(alpha=0.3)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def rows(searches: dict[str, list[Run]]) -> list[dict[str, float | str | None]]:
    """One row a search: what it has come to, in which time, and whether that is chance."""
    ours = volumes_of(searches[OURS])
    found: list[dict[str, float | str | None]] = []
    for name, runs in searches.items():
        volumes = volumes_of(runs)
        quarter, end = volumes[:, QUARTER], volumes[:, -1]
        test = mannwhitneyu(ours[:, QUARTER], quarter, alternative="two-sided")
        found.append(
            {
                "search": name,
                "seeds": len(runs),
                "quarter": float(np.median(quarter)),
                "end": float(np.median(end)),
                "end_seen": float(np.median([run.volume[-1] for run in runs])),
                "p_quarter": None if name == OURS else float(test.pvalue),
                "complete": float(np.median([run.complete for run in runs])),
                "epochs": float(np.median([run.epochs for run in runs])),
                "ms_a_trial": 1e3 * float(np.median([r.wall / max(r.complete, 1) for r in runs])),
            }
        )
    return found


def figures(searches: dict[str, list[Run]], alone: list[Run]) -> list[Figure]:
    ours, chance = searches[OURS], searches["random"]
    found = [
        Figure(
            figure="seeds of each search of the figure, at least",
            value=min(len(searches.get(name, [])) for name in SHOWN),
            floor=30,
        ),
        Figure(
            figure="share of random's training time for its final hypervolume, median",
            value=float(np.median(share_to_reach(ours, chance, own_end=False))),
            floor=0.25,
            better="lower",
        ),
        Figure(
            figure="share of the time after which our median has random's final median",
            value=medians_cross(ours, chance),
            better="lower",
        ),
        Figure(
            figure="share of random's time, by the accuracies that the searches saw",
            value=float(np.median(share_to_reach(ours, chance, own_end=False, seen=True))),
            better="lower",
        ),
    ]
    if "syne_tune_moasha" in searches:
        reached = share_to_reach(ours, searches["syne_tune_moasha"], own_end=True)
        found.append(
            Figure(
                figure="share of MOASHA's time to its last gain for its final volume, median",
                value=float(np.median(reached)),
                floor=0.6,
                better="lower",
            )
        )
    if alone:
        together, one = (float(np.median(volumes_of(r)[:, -1])) for r in (ours, alone))
        found.append(
            Figure(
                figure=f"final hypervolume lost with {NUM_WORKERS} workers instead of 1",
                value=100.0 * (1.0 - together / one),
                unit="%",
                floor=3.0,
                better="lower",
            )
        )
    return found


def layerwise_figures(searches: dict[str, list[Run]]) -> list[Figure]:
    """On the surrogate of the layer-wise space: a model, so nothing here is a floor."""
    from benchmarks.search_quality.surrogate import Surrogate  # noqa: PLC0415 - fits a forest

    surrogate = Surrogate()
    correlation, error = surrogate.held_out()
    print(f"surrogate of {surrogate.num_trials} real trials: held out, rank correlation", end=" ")
    print(f"{correlation:.2f}, error {error:.1f} points")
    reached = share_to_reach(searches[OURS], searches["random"], own_end=False)
    return [
        Figure(
            figure="layer-wise: real trials that the surrogate is fitted to",
            value=surrogate.num_trials,
        ),
        Figure(figure="layer-wise: rank correlation of held-out trials", value=correlation),
        Figure(
            figure="layer-wise: error of held-out trials",
            value=error,
            unit="points",
            better="lower",
        ),
        Figure(
            figure="layer-wise: share of random's training time for its final hypervolume",
            value=float(np.median(reached)),
            better="lower",
        ),
    ]


def by_search(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Those of several workers, in order of their seeds."""
    searches: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        if run.num_workers == NUM_WORKERS:
            searches.setdefault(run.search, []).append(run)
    return searches


def report(name: str, searches: dict[str, list[Run]]) -> None:
    """Print, write and draw what the searches of a world came to."""
    table = rows(searches)
    for row in sorted(table, key=lambda row: -float(row["quarter"] or 0.0)):
        p = "" if row["p_quarter"] is None else f"p {row['p_quarter']:.1e}"
        print(
            f"{row['search']:26s} {row['seeds']:3d} seeds  quarter {row['quarter']:6.2f}  "
            f"end {row['end']:6.2f}  seen {row['end_seen']:6.2f}  {row['complete']:4.0f} complete  "
            f"{row['epochs']:5.0f} epochs  {p}"
        )
    end = "" if name == "table" else f"_{name}"
    (HERE / "results" / f"searches{end}.json").write_text(json.dumps(table, indent=1) + "\n")
    draw_growth(searches, HERE / "results" / f"growth{end}.png")


def main() -> None:
    runs = read_searches()
    searches = by_search(runs)
    alone = [run for run in runs if run.search == OURS and run.num_workers == 1]
    problem = world("table").problem
    print(f"{problem.num_configs} configs within {problem.budget:,} parameters")
    report("table", searches)
    found = figures(searches, alone)
    if runs_file("layerwise").exists():
        print("the layer-wise space, by a surrogate")
        guessed = by_search(read_searches("layerwise"))
        report("layerwise", guessed)
        found += layerwise_figures(guessed)
    print_figures("search quality", found)
    write_summary(HERE, found)


if __name__ == "__main__":
    main()
