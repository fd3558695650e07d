"""How many worker groups each of several searches on one cluster should have.

Dominant resource fairness (Ghodsi et al. 2011): group after group goes to the search that has the
smallest share of the resource it takes most of, CPUs or GPUs, as long as it wants more and there is
a place for it. Every search works this out for itself from the same table, and comes to the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from vpetl_ray.tuning.cluster import GroupPlan, describe_groups, num_workers_on
from vpetl_ray.tuning.placement import Placement

Node = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What one search says of itself to the others."""

    began: float
    """When it asked for groups first, seconds; of two with equal rights the older has the word."""
    search: str
    workers_per_group: int
    cpus_per_worker: float
    gpus_per_worker: float
    placement: Placement
    num_most: int | None
    """Groups it has use for; None: any number."""
    num_at_work: int = 0
    """Groups it has."""

    @classmethod
    def of(cls, plan: GroupPlan, *, began: float, search: str) -> Claim:
        """Make the claim of a search with such groups."""
        return cls(
            began=began,
            search=search,
            workers_per_group=plan.workers_per_group,
            cpus_per_worker=plan.cpus_per_worker,
            gpus_per_worker=plan.gpus_per_worker,
            placement=plan.placement,
            num_most=plan.num_most,
        )

    @property
    def order(self) -> tuple[float, str]:
        """Where it stands in the table."""
        return self.began, self.search


def fair_shares(nodes: Sequence[Mapping[str, float]], claims: Sequence[Claim]) -> dict[str, int]:
    """Share a cluster out.

    Args:
        nodes: the `CPU` and `GPU` that each node has in all.
        claims: one of each search.

    Returns:
        By search, the number of its groups; 0 for the youngest where there are more searches than
        room.
    """
    left = [dict(node) for node in nodes]
    total = {name: sum(node.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU")}
    shares = {claim.search: 0 for claim in claims}
    open_claims = sorted(claims, key=lambda claim: claim.order)
    while open_claims:
        poorest = min(open_claims, key=lambda c: shares[c.search] * _dominant(c, total))
        is_served = poorest.num_most is not None and shares[poorest.search] >= poorest.num_most
        if is_served or not _place(left, poorest):
            open_claims.remove(poorest)
        else:
            shares[poorest.search] += 1
    return shares


def num_to_give(own: Claim, others: Sequence[Claim], shares: Mapping[str, int]) -> int:
    """Say how many of its groups a search should let go for others that have too few.

    Those beyond its share alone, and no more than the others lack in workers.
    """
    lacking = sum(c.workers_per_group * max(0, shares[c.search] - c.num_at_work) for c in others)
    needed = -(-lacking // own.workers_per_group)
    return max(0, min(own.num_at_work - shares[own.search], needed))


def plan_beside(
    plan: GroupPlan, others: Sequence[Claim], nodes: Sequence[Mapping[str, float]]
) -> GroupPlan:
    """Begin with a fair share of a cluster on which other searches run.

    Args:
        plan: as if nobody else were there.
        others: the claims of the others.
        nodes: what each node has in all.
    """
    if plan.num_groups > plan.num_fitting(nodes):
        return plan  # it asks for nodes that are still to come
    own = Claim.of(plan, began=math.inf, search="")
    share = min(plan.num_groups, fair_shares(nodes, [*others, own])[""])
    searches = "1 other search" if len(others) == 1 else f"{len(others)} other searches"
    why = f", a fair share beside {searches}"
    if share == 0:
        share = 1 if plan.wait_seconds else 0
        why = f": {searches} have a right to all there is, it begins when one of them ends"
    size = (plan.workers_per_group, plan.cpus_per_worker, plan.gpus_per_worker)
    return replace(plan, num_groups=share, sentence=f"{describe_groups(share, *size)}{why}")


def _dominant(claim: Claim, total: Mapping[str, float]) -> float:
    """The share of the cluster that a group of this search takes, 0..1."""
    sizes = {"CPU": claim.cpus_per_worker, "GPU": claim.gpus_per_worker}
    parts = (size / total[name] for name, size in sizes.items() if total[name])
    return claim.workers_per_group * max(parts, default=0.0)


def _place(left: list[Node], claim: Claim) -> bool:
    """Take room for one group; False, and nothing taken, if there is none."""
    slots = [num_workers_on(node, claim.cpus_per_worker, claim.gpus_per_worker) for node in left]
    match claim.placement:
        case "strict_pack":
            chosen = [
                [place] * claim.workers_per_group
                for place, free in enumerate(slots)
                if free >= claim.workers_per_group
            ]
            places = chosen[0] if chosen else []
        case "strict_spread" | "spread":
            # Round by round over the nodes; strict: one round alone.
            rounds = 1 if claim.placement == "strict_spread" else max(slots, default=0)
            places = [p for r in range(rounds) for p, free in enumerate(slots) if free > r]
        case _:
            places = [p for p, free in enumerate(slots) for _ in range(free)]
    places = places[: claim.workers_per_group]
    if len(places) < claim.workers_per_group:
        return False
    for place in places:
        for name, size in (("CPU", claim.cpus_per_worker), ("GPU", claim.gpus_per_worker)):
            left[place][name] = left[place].get(name, 0.0) - size
    return True
