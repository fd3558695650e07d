"""Order points by several costs at once: front after front, each front from its corners inward.

Successive halving with several objectives needs a total order of the trials at a rung. The fronts
come from non-dominated sorting (Deb et al. 2002, NSGA-II). Within one front nothing is better, so
the order is the one that covers it evenly: Schmucker et al. 2021 (MO-ASHA, arXiv 2106.12639)
compare several ways and recommend the epsilon-net of Salinas et al. 2021 (arXiv 2106.05680).
"""

from bisect import bisect_right
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vpetl_ray.results.front import Costs, non_dominated

Order = NDArray[np.intp]


def dominance_ranks(costs: ArrayLike) -> NDArray[np.intp]:
    """Number the fronts: 0 for what nothing dominates, 1 for what only rank 0 dominates, ...

    Args:
        costs: (N, M), less is better.

    Returns:
        (N,) ranks; equal points share one.
    """
    costs_NM = np.asarray(costs, dtype=np.float64)
    if costs_NM.ndim == 2 and costs_NM.shape[1] == 2:
        return _ranks_of_two(costs_NM)
    ranks_N = np.zeros(len(costs_NM), dtype=np.intp)
    left = np.arange(len(costs_NM))
    rank = 0
    while len(left):
        survives = non_dominated(costs_NM[left])
        ranks_N[left[survives]] = rank
        left = left[~survives]
        rank += 1
    return ranks_N


def _ranks_of_two(costs_N2: Costs) -> NDArray[np.intp]:
    """Sort two objectives in O(N log N): a rung with thousands of trials is ranked at each report.

    From left to right, a front dominates a point exactly if its lowest member so far is not above
    the point; and those lowest members ascend with the rank.
    """
    order_N = np.lexsort((costs_N2[:, 1], costs_N2[:, 0]))
    ranks: list[int] = []
    lowest: list[float] = []
    before: list[float] | None = None
    rank = 0
    # Python's own numbers: to take each of thousands out of an array costs more than all the rest.
    for point in costs_N2[order_N].tolist():
        if point != before:
            rank = bisect_right(lowest, point[1])
            lowest[rank : rank + 1] = [point[1]]
            before = point
        ranks.append(rank)
    ranks_N = np.empty(len(costs_N2), dtype=np.intp)
    ranks_N[order_N] = ranks
    return ranks_N


def first_of_two(costs_N2: Costs, num: int) -> Order:
    """Return the `num` points of the first fronts, front after front, of two objectives.

    As `dominance_ranks` orders them, without ranking the rest: the best hundred of thousands.
    """
    left = np.lexsort((costs_N2[:, 1], costs_N2[:, 0]))
    chosen: list[Order] = []
    while len(left) and sum(map(len, chosen)) < num:
        cost_N, equal_N = costs_N2[left, 1], np.zeros(len(left), dtype=bool)
        lowest_N = np.minimum.accumulate(np.concatenate([[np.inf], cost_N[:-1]]))
        is_first_N = cost_N < lowest_N
        # A point that is equal to one of the front in both is in it, too.
        equal_N[1:] = (costs_N2[left[1:]] == costs_N2[left[:-1]]).all(axis=1)
        while (more_N := equal_N[1:] & is_first_N[:-1] & ~is_first_N[1:]).any():
            is_first_N[1:] |= more_N
        chosen.append(np.sort(left[is_first_N]))
        left = left[~is_first_N]
    return np.concatenate(chosen)[:num] if chosen else np.empty(0, dtype=np.intp)


def epsilon_net(scaled_NM: Costs) -> Order:
    """Order a front so that every beginning of it covers the whole: always the farthest next.

    Begins with the best in the first objective, as the cheapest trial can't be replaced by any
    other. Of equals, the earlier.
    """
    order = [int(np.lexsort((scaled_NM[:, 1], scaled_NM[:, 0]))[0])]
    distance_N = np.linalg.norm(scaled_NM - scaled_NM[order[0]], axis=1)
    distance_N[order[0]] = -1.0
    while len(order) < len(scaled_NM):
        nearest = int(distance_N.argmax())
        order.append(nearest)
        distance_N = np.minimum(distance_N, np.linalg.norm(scaled_NM - scaled_NM[nearest], axis=1))
        distance_N[order] = -1.0
    return np.array(order, dtype=np.intp)


def crowding(scaled_NM: Costs) -> Order:
    """Order a front by crowding distance (NSGA-II): the ends first, then what stands alone."""
    distance_N = np.zeros(len(scaled_NM))
    for column in scaled_NM.T:
        order = np.argsort(column, kind="stable")
        gaps = np.full(len(column), np.inf)
        gaps[1:-1] = column[order[2:]] - column[order[:-2]]
        distance_N[order] += gaps
    return np.argsort(-distance_N, kind="stable")


SPREADS: Mapping[str, Callable[[Costs], Order]] = MappingProxyType(
    {"epsilon_net": epsilon_net, "crowding": crowding}
)
"""How the members of one front are ordered, by the name that a spec gives it."""


class Ranking:
    """Points in order, the one to keep first at the front; worked out as far as it is asked for.

    To order a front costs as much as its members squared, and of thousands of trials at a rung it
    is one or two fronts that matter.

    Args:
        costs: (N, M), less is better. Distances are measured after each column is scaled to 0..1
            over all points given.
        spread: a key of `SPREADS`.
    """

    def __init__(self, costs: ArrayLike, spread: str = "epsilon_net") -> None:
        costs_NM = np.asarray(costs, dtype=np.float64)
        self._order_front = SPREADS[spread]
        self._ordered: dict[int, Order] = {}
        self._fronts: list[Order] = []
        if len(costs_NM):
            span_M = np.ptp(costs_NM, axis=0)
            self._scaled_NM = (costs_NM - costs_NM.min(axis=0)) / np.where(span_M > 0, span_M, 1.0)
            ranks_N = dominance_ranks(costs_NM)
            by_rank_N = np.argsort(ranks_N, kind="stable")
            self._fronts = np.split(by_rank_N, np.cumsum(np.bincount(ranks_N))[:-1])

    def first(self, num: int) -> Order:
        """The first so many, as indices."""
        chosen: list[int] = []
        for rank in range(len(self._fronts)):
            if len(chosen) >= num:
                break
            chosen.extend(self._front(rank))
        return np.array(chosen[:num], dtype=np.intp)

    def first_wanted(self, is_wanted_N: NDArray[np.bool_], num: int) -> int | None:
        """Of the first `num`, the index of the first that is wanted; None if none of them is."""
        begin = 0
        for rank, members in enumerate(self._fronts):
            if begin >= num:
                break
            if is_wanted_N[members].any():
                within = self._front(rank)[: num - begin]
                wanted = within[is_wanted_N[within]]
                if len(wanted):
                    return int(wanted[0])
            begin += len(members)
        return None

    def _front(self, rank: int) -> Order:
        if rank not in self._ordered:
            members = self._fronts[rank]
            self._ordered[rank] = members[self._order_front(self._scaled_NM[members])]
        return self._ordered[rank]


def ranking(costs: ArrayLike, spread: str = "epsilon_net", *, num: int | None = None) -> Order:
    """Order points as `Ranking` does.

    Args:
        costs: (N, M), less is better.
        spread: a key of `SPREADS`.
        num: how many of them are wanted; by default all.

    Returns:
        (num,) indices.
    """
    costs_NM = np.asarray(costs, dtype=np.float64)
    return Ranking(costs_NM, spread).first(len(costs_NM) if num is None else num)
