"""Groups come and go with a cluster's nodes, while the search goes on.

A group whose node is lost gives its trial back to the queue (`Dispatcher.remove_group`) and waits,
as a placement group that Ray cannot place yet: the next node with room takes it up, and an
autoscaler sees what is wanted. What joins beyond that gets groups of its own, here.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import ray

from vpetl_ray.tuning.cluster import GroupPlan, free_nodes
from vpetl_ray.tuning.messages import DispatcherHandle
from vpetl_ray.tuning.worker_group import WorkerGroups

logger = logging.getLogger(__name__)

WATCH_SECONDS = 2.0


class GroupWatch:
    """Looks after the nodes of a cluster until `stop`.

    Args:
        groups: what is added to.
        plan: the size of a group, and how many there may be.
        dispatcher: knows which groups are at work.
        note: takes a sentence whenever their number has changed.
    """

    def __init__(
        self,
        groups: WorkerGroups,
        plan: GroupPlan,
        dispatcher: DispatcherHandle,
        note: Callable[[str], None],
    ) -> None:
        self._groups = groups
        self._plan = plan
        self._dispatcher = dispatcher
        self._note = note
        self._num_open = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="vpetl-nodes", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stopped.set()
        self._thread.join(10.0 * WATCH_SECONDS)

    def _watch(self) -> None:
        while not self._stopped.wait(WATCH_SECONDS):
            try:
                self._look()
            except ray.exceptions.RayError:
                logger.debug("the cluster could not be asked", exc_info=True)

    def _look(self) -> None:
        num_open, _ = ray.get(self._dispatcher.load.remote())
        self._say(num_open)
        new = num_new_groups(
            self._plan.num_fitting(free_nodes()),
            num_running=self._groups.num_running,
            num_open=num_open,
            num_most=self._plan.num_most,
        )
        if new:
            self._groups.add(new)

    def _say(self, num_open: int) -> None:
        before, self._num_open = self._num_open, num_open
        if num_open == before:
            return
        groups = "1 worker group is" if num_open == 1 else f"{num_open} worker groups are"
        lost = f"{before - num_open} lost with a node, " if num_open < before else ""
        self._note(f"{lost}{groups} at work")


def num_new_groups(
    num_fitting: int, *, num_running: int, num_open: int, num_most: int | None
) -> int:
    """Say how many groups to add.

    Args:
        num_fitting: groups for which there is room on the nodes.
        num_running: groups that were started and have not ended.
        num_open: of these, those at work. The others will take room, or have taken it a moment ago.
        num_most: groups there may be.
    """
    room = num_fitting - (num_running - num_open)
    if num_most is not None:
        room = min(room, num_most - num_running)
    return max(0, room)
