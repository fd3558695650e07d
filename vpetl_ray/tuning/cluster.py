"""The Ray cluster a search runs on, and how many worker groups fit into it."""

from __future__ import annotations

import atexit
import logging
import math
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
from ray._private import utils
from ray._private.state import available_resources_per_node

from vpetl_ray.errors import SearchError
from vpetl_ray.stop_signals import killed_if_late
from vpetl_ray.tuning.own_processes import OwnProcesses
from vpetl_ray.tuning.placement import Backend, Placement
from vpetl_ray.tuning.signs_of_life import STUCK_SECONDS

CONNECT_SECONDS = 10.0
"""How long a cluster's address may take to answer at all."""

GROUP_THREAD = "vpetl-group"
"""How the names of the threads begin that wait for worker groups, in Ray's calls."""
WATCH_THREAD = "vpetl-nodes"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class GroupPlan:
    """So many groups of so many workers of such a size."""

    num_groups: int
    workers_per_group: int
    cpus_per_worker: float
    gpus_per_worker: float
    sentence: str
    """For the user: what was planned, and what did not fit."""
    placement: Placement = "pack"
    backend: Backend = "auto"
    """What DDP workers talk through; auto: NCCL between GPUs, else gloo."""
    grows: bool = False
    """Whether groups are added when nodes join."""
    num_most: int | None = None
    """How many there may ever be; None: as many as the cluster has room for."""
    wait_seconds: float = 0.0
    """How long the first group may wait for nodes to join."""
    stuck_seconds: float = STUCK_SECONDS
    """How long a worker may be silent before its group is restarted."""

    def num_fitting(self, nodes: Sequence[Mapping[str, float]]) -> int:
        """Say how many groups of this size fit into what is free."""
        slots = [num_workers_on(n, self.cpus_per_worker, self.gpus_per_worker) for n in nodes]
        return _num_groups(slots, self.workers_per_group, self.placement)


def plan_groups(
    nodes: Sequence[Mapping[str, float]],
    *,
    num_groups: int | None,
    at_most: int | None = None,
    workers_per_group: int,
    cpus_per_worker: float,
    gpus_per_worker: float | None,
    placement: Placement = "pack",
    backend: Backend = "auto",
    grows: bool = False,
    wait_minutes: float = 0.0,
    stuck_seconds: float = STUCK_SECONDS,
) -> GroupPlan:
    """Plan the groups that fit now.

    Args:
        nodes: the `CPU` and `GPU` of each node, as `free_nodes` gives them.
        num_groups: how many are wanted; None for as many as fit.
        at_most: more would find nothing to do.
        workers_per_group: a group's workers may be on different nodes.
        cpus_per_worker: at least 1 in practice; also its number of torch threads.
        gpus_per_worker: None for one if the cluster has GPUs, else none.
        placement: on how many nodes the workers of a group are.
        backend: what they talk through.
        grows: whether nodes may join, so that groups are added later.
        wait_minutes: where nodes may join, how long the first group may wait for them; groups that
            do not fit yet are started all the same, which is what an autoscaler answers to.
        stuck_seconds: how long a worker may be silent before its group is restarted.

    Raises:
        SearchError: not even one group fits.
    """
    if gpus_per_worker is None:
        gpus_per_worker = 1.0 if any(node.get("GPU", 0) >= 1 for node in nodes) else 0.0
    slots = [num_workers_on(node, cpus_per_worker, gpus_per_worker) for node in nodes]
    fitting = _num_groups(slots, workers_per_group, placement)
    size = (workers_per_group, cpus_per_worker, gpus_per_worker)
    waits = grows and wait_minutes > 0
    if fitting == 0 and not waits:
        how = "" if workers_per_group == 1 else f" (placement {placement})"
        raise SearchError(
            f"resources: not one worker group of {_describe(*size)} fits{how}: the cluster has "
            f"{_total(nodes)}, which is room for {sum(slots)} of {workers_per_group} workers"
        )
    most = num_groups if at_most is None else min(num_groups or at_most, at_most)
    planned = fitting if most is None else min(most, fitting)
    sentence = describe_groups(planned, *size)
    if waits:
        planned = max(planned, most or 1) if num_groups is not None else max(planned, 1)
        sentence = describe_groups(planned, *size)
        if planned > fitting:
            sentence += f" ({fitting} fit now, the others wait for nodes)"
    elif num_groups is not None and most is not None and planned < most:
        sentence += f" ({most} were asked for; {_total(nodes)} has no room for more)"
    return GroupPlan(
        num_groups=planned,
        workers_per_group=workers_per_group,
        cpus_per_worker=cpus_per_worker,
        gpus_per_worker=gpus_per_worker,
        sentence=sentence,
        placement=placement,
        backend=backend,
        grows=grows,
        num_most=most,
        wait_seconds=60.0 * wait_minutes if waits else 0.0,
        stuck_seconds=stuck_seconds,
    )


def all_nodes() -> list[dict[str, float]]:
    """What each living node has, used or not, of those that have any CPU or GPU at all."""
    cluster: Any = ray  # has no types
    found = [
        {name: float(node["Resources"].get(name, 0.0)) for name in ("CPU", "GPU")}
        for node in cluster.nodes()
        if node["Alive"]
    ]
    return [node for node in found if any(node.values())]


def free_nodes() -> list[dict[str, float]]:
    """What is free on each living node, of those that have any CPU or GPU at all."""
    cluster: Any = ray  # has no types
    free = available_resources_per_node()  # type: ignore[no-untyped-call]
    found = []
    for node in cluster.nodes():
        kinds = [name for name in ("CPU", "GPU") if node["Resources"].get(name)]
        if node["Alive"] and kinds:
            left = free.get(node["NodeID"], {})
            found.append({name: float(left.get(name, 0.0)) for name in kinds})
    return found


@contextmanager
def ray_session(address: str | None = None, *, num_cpus: int | None = None) -> Iterator[None]:
    """Connect to a cluster, or start a private one on this machine, for the length of the block.

    Args:
        address: of a running cluster, or `auto`. None takes `RAY_ADDRESS`, which is set inside a
            submitted job, and without it starts a private one.
        num_cpus: of the private one; None for all of this machine's.

    Raises:
        SearchError: the cluster can't be reached, or Ray doesn't start.
    """
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    settings: dict[str, Any] = {"address": address}
    if address == "local":
        # `address='local'` never attaches to a cluster that another process left running.
        settings |= {"num_cpus": num_cpus, "include_dashboard": False}
        # Above four times this, Ray warns on the terminal of too many processes; a handful of
        # small helpers for each group is what it counts.
        os.environ.setdefault("RAY_worker_maximum_startup_concurrency", "8")
    if os.environ.get("PYTHONDONTWRITEBYTECODE"):
        # Without bytecode, every worker compiles torch and Ray again: 10 s more for each.
        settings["runtime_env"] = {"env_vars": {"PYTHONDONTWRITEBYTECODE": ""}}
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    own = OwnProcesses()
    with killed_if_late(own.kill):
        try:
            _knock(address)
            with own.started():
                _start(settings)
        except BaseException as error:
            own.kill()
            if not isinstance(error, Exception):
                raise
            # Ray raises the bare class where a start takes too long.
            where = "on this machine" if address == "local" else f"at {address}"
            raise SearchError(f"no Ray cluster {where}: {error}") from error
        try:
            yield
        finally:
            _leave(own)


def _leave(own: OwnProcesses) -> None:
    """Leave Ray; with a group that did not end in its time, when the process does.

    Ray's core ends a process, and with exit code 1, of which a thread calls it after a shutdown.
    """
    names = (GROUP_THREAD, WATCH_THREAD)
    if any(thread.name.startswith(names) for thread in threading.enumerate()):
        atexit.unregister(ray.shutdown)
        atexit.register(own.kill)
    else:
        ray.shutdown()
        own.kill()


def _knock(address: str) -> None:
    """Find out in seconds that nobody is there; Ray tries for minutes, and says so on the way."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()


def _start(settings: Mapping[str, Any]) -> None:
    """Start or join; a private cluster is tried twice: a busy machine may miss the deadline."""
    start = partial(ray.init, log_to_driver=False, logging_level=logging.ERROR, **settings)
    with _keeping_sigterm():
        try:
            start()
        except Exception:
            if settings["address"] != "local":
                raise
            logger.debug("Ray did not start, once more", exc_info=True)
            ray.shutdown()
            start()


@contextmanager
def _keeping_sigterm() -> Iterator[None]:
    """Leave SIGTERM to who has it: Ray takes it for an exit with code 1 and without a word."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    ours, utils.set_sigterm_handler = utils.set_sigterm_handler, lambda _: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = ours
        signal.signal(signal.SIGTERM, handler)


def num_workers_on(node: Mapping[str, float], cpus: float, gpus: float) -> int:
    """Say for how many workers of a size a node has room."""
    limits = [node.get(name, 0.0) / size for name, size in (("CPU", cpus), ("GPU", gpus)) if size]
    return math.floor(min(limits, default=0.0) + 1e-6)


def _num_groups(slots: Sequence[int], workers: int, placement: Placement) -> int:
    """Count the groups of so many workers for which nodes with so many slots have room."""
    match placement:
        case "strict_pack":
            return sum(free // workers for free in slots)
        case "strict_spread":
            # So many groups fit if each node gives at most one worker to each.
            fitting = 0
            while sum(min(free, fitting + 1) for free in slots) >= (fitting + 1) * workers:
                fitting += 1
            return fitting
        case _:
            return sum(slots) // workers


def describe_groups(num: int, workers: int, cpus: float, gpus: float) -> str:
    """Say how many groups of which size, like `2 worker groups of 1 worker with 1 CPU each`."""
    return f"{num} worker {'group' if num == 1 else 'groups'} of {_describe(workers, cpus, gpus)}"


def _describe(workers: int, cpus: float, gpus: float) -> str:
    parts = f"{cpus:g} CPU" + (f" and {gpus:g} GPU" if gpus else "")
    return f"{workers} {'worker' if workers == 1 else 'workers'} with {parts} each"


def _total(nodes: Sequence[Mapping[str, float]]) -> str:
    cpus, gpus = (sum(node.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU"))
    where = "1 node" if len(nodes) == 1 else f"{len(nodes)} nodes"
    return f"{cpus:g} CPU and {gpus:g} GPU free on {where}"
