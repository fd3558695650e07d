"""What does a training step cost, beside a plain model that does the same?

    python -m benchmarks.step.bench [--threads 2] [--compiled] [--seconds 25] [--only NAME]
    python -m benchmarks.step.bench --gpu          # an H100: Swin-B, 8 and 16 frames, 224, bf16
    python -m benchmarks.step.bench --rehearse     # the same at a tiny size on CPU; nothing kept

Ours and the peer train the same tensors of the same model on the same clips in one process; before
any time is taken, gradients must agree in float64. Steps are interleaved and medians compared, so
a busy machine slows both. FLOPs are those of the peer's matrix products and convolutions, the
matmul rate is that of one large product on the same threads. `--compiled` also compiles both,
which takes minutes of its own; figures of what was not compiled are left empty.

`--only frozen` compares our own step with features from the store and without (`frozen.py`).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

from benchmarks.report import Figure, print_figures, write_summary
from benchmarks.step.cases import CPU_CASES, GPU_CASES, REHEARSAL_CASES, Case, make_contest
from benchmarks.step.frozen import FROZEN_CASES, frozen_figures, measure_frozen
from benchmarks.step.measure import (
    count_flops,
    interleaved_seconds,
    matmul_rate,
    peak_bytes,
)

FOLDER = Path(__file__).parent
FROZEN = "frozen"
"""Beside the cases: what features that were computed once are worth."""
TOLERANCE = 1e-6
"""Largest difference of two gradients in float64 over the largest of the tensor."""


def measure(
    case: Case, device: torch.device, *, with_compiled: bool, seconds: float
) -> dict[str, float]:
    """Numbers by name, after a check that both do the same."""
    contest = make_contest(case, device, with_compiled=with_compiled)
    difference = contest.largest_difference()
    if difference > TOLERANCE:
        raise SystemExit(f"{case.name}: not the same work, gradients {difference:g} apart")
    found = {"gradients apart": difference}
    flops = count_flops(contest.steps["peer"])
    for name in ("ours", "peer"):
        found[f"{name} peak"] = peak_bytes(contest.steps[name], device)
    taken = interleaved_seconds(contest.steps, device, rounds=200, warmup=3, budget=seconds)
    rate = matmul_rate(device, case.precision)
    for name, median in taken.items():
        found[f"{name} clips/s"] = case.batch / median
        found[f"{name} share"] = flops / median / rate
    found["best clips/s"] = max(
        found[f"{name} clips/s"] for name in ("ours", "ours compiled") if name in taken
    )
    return found | {"GFLOP": flops / 1e9, "matmul GFLOP/s": rate / 1e9}


def figures_of(case: Case, found: dict[str, float] | None) -> list[Figure]:
    """One case's figures; all empty where nothing could be measured."""
    get = (found or {}).get

    def ratio(over: str, under: str) -> float | None:
        above, below = get(over), get(under)
        return None if above is None or below is None else above / below

    is_gpu = case.precision == "bf16"
    times = f"x of {case.peer}"
    floors = {"peak": 0.6 if is_gpu else None, "share": 0.3 if is_gpu else None}
    rows = [
        ("clips/s over the eager peer's", ratio("ours clips/s", "peer clips/s"), times, case.floor),
        (
            "compiled, clips/s over the eager peer's",
            ratio("ours compiled clips/s", "peer clips/s"),
            times,
            None,
        ),
        (
            "best of ours, clips/s over the compiled peer's",
            ratio("best clips/s", "peer compiled clips/s"),
            times,
            1.2 if is_gpu else None,
        ),
        (
            "ours in bf16, clips/s over ours in fp32",
            None if is_gpu else ratio("ours bf16 clips/s", "ours clips/s"),
            "x",
            None,
        ),
        ("share of the matmul rate", get("ours share"), "", floors["share"]),
        ("share of the matmul rate, peer", get("peer share"), "", None),
        ("FLOPs of a step", get("GFLOP"), "GFLOP", None),
        ("matmul rate", get("matmul GFLOP/s"), "GFLOP/s", None),
        ("clips/s", get("ours clips/s"), "clips/s", None),
        ("largest difference of a gradient in float64", get("gradients apart"), "", None),
    ]
    made = [
        Figure(figure=f"{case.name}: {name}", value=value, unit=unit, floor=floor)
        for name, value, unit, floor in rows
    ]
    peak = Figure(
        figure=f"{case.name}: peak memory of a step over the peer's",
        value=ratio("ours peak", "peer peak"),
        unit=times,
        floor=floors["peak"],
        better="lower",
    )
    return [*made, peak]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=25.0, help="of interleaved steps, a case")
    parser.add_argument("--compiled", action="store_true")
    names = [case.name for case in CPU_CASES + GPU_CASES]
    parser.add_argument("--only", choices=[*names, FROZEN])
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--rehearse", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if options.gpu else "cpu")
    if options.rehearse:
        cases = REHEARSAL_CASES
    else:
        every = GPU_CASES if options.gpu else CPU_CASES
        cases = tuple(case for case in every if options.only in (None, case.name))
    figures: list[Figure] = []
    if options.only in (None, FROZEN) and not (options.gpu or options.rehearse):
        with tempfile.TemporaryDirectory() as folder:
            for frozen in FROZEN_CASES:
                rows = measure_frozen(frozen, Path(folder), options.seconds)
                figures += frozen_figures(frozen, rows)
    for case in cases:
        found = measure(case, device, with_compiled=options.compiled, seconds=options.seconds)
        figures += figures_of(case, found)
    print_figures(f"A training step, {options.threads} threads", figures)
    if not options.rehearse:
        others = [c for c in CPU_CASES + GPU_CASES if c not in cases]
        empty = [figure for case in others for figure in figures_of(case, None)]
        empty += [figure for case in FROZEN_CASES for figure in frozen_figures(case, None)]
        taken = {figure.figure for figure in figures}
        figures += [figure for figure in empty if figure.figure not in taken]
        write_summary(FOLDER, figures, keep_others=True)


if __name__ == "__main__":
    main()
