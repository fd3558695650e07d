"""Dominance, front, hypervolume, knee: what "better" means when several things count.

Everything below `to_costs` minimises. The geometry knows arrays alone; `front_of` and
`write_front` at the end are where records come in.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vpetl_ray.results.atomic import write_json
from vpetl_ray.results.objectives import LOWEST
from vpetl_ray.results.records import Columns, TrialRecord, TrialState, write_trials

Costs = NDArray[np.float64]

PPT_SCALE = 10_000_000
"""Parameters that the PPT score counts in, as the PETL benchmarks define it."""


def to_costs(values: ArrayLike, maximise: Sequence[bool]) -> Costs:
    """Turn objectives into costs: the one place where maximising becomes minimising.

    Args:
        values: (N, M), one row a point.
        maximise: M flags, True where more is better.

    Returns:
        (N, M) costs: less is better in every column.

    Raises:
        ValueError: the shapes do not fit, or a value is not finite.
    """
    values_NM = np.asarray(values, dtype=np.float64).reshape(-1, len(maximise))
    if not np.isfinite(values_NM).all():
        raise ValueError("objectives must be finite: leave out what was not measured")
    return values_NM * np.where(np.asarray(maximise), -1.0, 1.0) + 0.0  # + 0.0: no -0.0


def dominates(a: ArrayLike, b: ArrayLike) -> bool:
    """Is cost vector ``a`` nowhere worse than ``b`` and somewhere better?"""
    a_M, b_M = np.asarray(a), np.asarray(b)
    return bool((a_M <= b_M).all() and (a_M < b_M).any())


def non_dominated(costs: ArrayLike) -> NDArray[np.bool_]:
    """Which points does no other one dominate? Equal points live or die together.

    Args:
        costs: (N, M), less is better.

    Returns:
        (N,) mask.
    """
    costs_NM = np.atleast_2d(np.asarray(costs, dtype=np.float64))
    survives_N = np.ones(len(costs_NM), dtype=np.bool_)
    if costs_NM.size == 0:
        return survives_N[: costs_NM.size]
    for i, cost_M in enumerate(costs_NM):
        if survives_N[i]:
            beaten_N = (costs_NM >= cost_M).all(axis=1) & (costs_NM > cost_M).any(axis=1)
            survives_N &= ~beaten_N
    return survives_N


def hypervolume(costs: ArrayLike, reference: ArrayLike) -> float:
    """Area or volume that costs dominate, up to the reference point. Exact.

    Of more than two objectives by moocore (Fonseca, Paquete and López-Ibáñez 2006), whose C takes
    milliseconds where arrays in Python take minutes: it grows exponentially with the objectives.

    Args:
        costs: (N, M), less is better. Points that are not better than the reference in every
            column add nothing.
        reference: (M,).
    """
    reference_M = np.asarray(reference, dtype=np.float64)
    if len(reference_M) != 2:
        import moocore  # noqa: PLC0415 - only who has more objectives needs it

        costs_NM = np.asarray(costs, dtype=np.float64).reshape(-1, len(reference_M))
        costs_NM = costs_NM[(costs_NM < reference_M).all(axis=1)]
        return float(moocore.hypervolume(costs_NM, ref=reference_M)) if len(costs_NM) else 0.0
    costs_N2 = np.asarray(costs, dtype=np.float64).reshape(-1, 2)
    reference_2 = np.asarray(reference, dtype=np.float64)
    costs_N2 = costs_N2[(costs_N2 < reference_2).all(axis=1)]
    area, ceiling = 0.0, float(reference_2[1])
    for first, second in costs_N2[np.lexsort((costs_N2[:, 1], costs_N2[:, 0]))]:
        if second < ceiling:
            area += float((reference_2[0] - first) * (ceiling - second))
            ceiling = float(second)
    return area


def front_hypervolume(
    params: ArrayLike, top1: ArrayLike, *, max_params: float, min_top1: float = 0.0
) -> float:
    """Hypervolume of accuracy against parameters on a logarithmic axis.

    The reference point is (``max_params``, ``min_top1``): what does no better than that adds
    nothing. The unit is percentage points times decades of parameters: one point of accuracy,
    held over a tenfold range of parameters, is worth 1.

    Args:
        params: (N,) trainable parameters; 0 is counted as 1.
        top1: (N,) percent.
        max_params: right edge, usually the backbone's parameters: the same for all searches
            that are compared.
        min_top1: lower edge in percent.
    """
    reference = to_costs([[math.log10(max(max_params, 1)), min_top1]], (False, True))[0]
    return hypervolume(log_costs(params, top1), reference)


def knee(params: ArrayLike, top1: ArrayLike) -> int:
    """Index of the point where paying more stops being worth it.

    Definition: log10(parameters) and top-1 are each scaled to 0..1 over the points given (a
    front); the knee is the point farthest above the straight line from the cheapest to the most
    accurate. Of equals, and where nothing lies above the line, the cheapest.

    Raises:
        ValueError: no points.
    """
    costs_N2 = log_costs(params, top1)
    if len(costs_N2) == 0:
        raise ValueError("a front without points has no knee")
    span_2 = np.ptp(costs_N2, axis=0)
    scaled_N2 = (costs_N2 - costs_N2.min(axis=0)) / np.where(span_2 > 0, span_2, 1.0)
    # Cheapest is (0, 1), most accurate is (1, 0): the line between them is x + y = 1.
    above_N = np.round(1.0 - scaled_N2.sum(axis=1), 12)
    return int(np.lexsort((costs_N2[:, 0], -above_N))[0])


def ppt(top1: float, params: float) -> float:
    """Parameter-performance trade-off, ``top1 * exp(-log10(params / 10M + 1))``, in percent.

    It is the accuracy itself for small counts: 12% below it at 3.6M parameters, 26% at 10M.
    """
    return top1 * math.exp(-math.log10(params / PPT_SCALE + 1.0))


def log_costs(params: ArrayLike, top1: ArrayLike) -> Costs:
    """(N, 2) costs of accuracy against parameters: log10(parameters), and minus the percentage."""
    decades_N = np.log10(np.maximum(np.asarray(params, dtype=np.float64), 1.0))
    return to_costs(np.column_stack([decades_N, np.asarray(top1)]), (False, True))


def front_of(
    records: Iterable[TrialRecord], costs: Sequence[str] | None = None
) -> list[TrialRecord]:
    """Complete trials that none beats in all objectives, fewest parameters first.

    Of trials that are equal in all objectives the earliest is kept. One that lacks an objective
    which others have was not measured and can't be compared.

    Args:
        records: of one search.
        costs: objectives beside top-1 and parameters; by default those that the records have.
    """
    complete = [
        record
        for record in sorted(records, key=lambda record: record.number)
        if record.state is TrialState.COMPLETE and record.top1 is not None
    ]
    if costs is None:
        costs = tuple(dict.fromkeys(name for record in complete for name in record.costs))
    points: dict[tuple[float, ...], TrialRecord] = {}
    for record in complete:
        if all(name in record.costs for name in costs):
            further = (record.costs[name] for name in costs)
            points.setdefault((record.trainable_params, record.top1 or 0.0, *further), record)
    survives = non_dominated(to_costs(list(points), (False, True, *(False for _ in costs))))
    front = [record for record, alive in zip(points.values(), survives, strict=True) if alive]
    return sorted(front, key=lambda record: (record.trainable_params, -(record.top1 or 0.0)))


def knee_of(front: Sequence[TrialRecord]) -> TrialRecord | None:
    """The member at the knee of accuracy against parameters, whatever else counts; see `knee`."""
    members = front_of(front, costs=())
    if not members:
        return None
    params, top1 = zip(*((m.trainable_params, m.top1 or 0.0) for m in members), strict=True)
    return members[knee(params, top1)]


def volume_of(
    front: Sequence[TrialRecord], *, max_params: float, references: Mapping[str, float]
) -> float:
    """`front_hypervolume` with further costs, each on a logarithmic axis of its own.

    Args:
        front: from `front_of`.
        max_params: as for `front_hypervolume`.
        references: further costs by name, each with where its axis ends.
    """
    two_N2 = log_costs([r.trainable_params for r in front], [r.top1 or 0.0 for r in front])
    further_NM = [[max(r.costs[name], LOWEST) for name in references] for r in front]
    further = np.log10(np.asarray(further_NM, dtype=np.float64)).reshape(
        len(front), len(references)
    )
    ends = [math.log10(max(max_params, 1)), 0.0, *map(math.log10, references.values())]
    return hypervolume(np.hstack([two_N2, further]), ends)


def write_front(
    directory: Path | str,
    front: Sequence[TrialRecord],
    *,
    columns: Columns,
    costs: Sequence[str] = (),
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write ``front.json`` (to read and to script with) and ``front.parquet``, each atomically.

    Args:
        directory: exists.
        front: from `front_of`.
        columns: as for `write_trials`.
        costs: likewise.
        extra: what else the JSON says at its top: the search's name, its budget, the hypervolume.

    Raises:
        SearchError: a file cannot be written.
    """
    document = {**(extra or {}), "front": [_entry(record) for record in front]}
    write_json(Path(directory) / "front.json", document)
    write_trials(Path(directory) / "front.parquet", front, columns, costs=costs)


def _entry(record: TrialRecord) -> dict[str, Any]:
    values = record.to_dict()
    config = {path: value for path, value in values["config"].items() if value is not None}
    kept = ("id", "name", "trainable_params", "top1", "test_top1", "loss", "epochs", "seconds")
    score = {"ppt": ppt(record.top1 or 0.0, record.trainable_params)}
    return {key: values[key] for key in kept} | {**record.costs, **score, "config": config}
