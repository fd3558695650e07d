"""Groups come and go with a cluster's nodes, and with other searches, while this one goes on.

A group whose node is lost gives its trial back to the queue (`Dispatcher.remove_group`) and waits,
as a placement group that Ray cannot place yet: the next node with room takes it up, and an
autoscaler sees what is wanted. What joins beyond that gets groups of its own, here.

Searches on one cluster tell each other what they have (`claims_board`) and keep to what
`fair_shares` gives them: one that has more lets groups go when their epochs end.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import ray

from vpetl_ray.tuning.claims_board import ClaimsBoard
from vpetl_ray.tuning.cluster import WATCH_THREAD, GroupPlan, all_nodes, free_nodes
from vpetl_ray.tuning.fair_shares import Claim, fair_shares, num_to_give
from vpetl_ray.tuning.messages import DispatcherHandle
from vpetl_ray.tuning.worker_group import WorkerGroups

logger = logging.getLogger(__name__)

WATCH_SECONDS = 2.0


class GroupWatch:
    """Looks after the nodes of a cluster, from `start` to `stop`.

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
        self._num_given = 0
        self._claim = Claim.of(plan, began=time.time(), search=secrets.token_hex(8))
        self._board = ClaimsBoard()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name=WATCH_THREAD, daemon=True)

    def start(self) -> None:
        """Tell other searches what this one has, and begin to look."""
        self._board.write(self._claim)
        self._thread.start()

    def stop(self) -> None:
        """Look no more, and leave the cluster to the others."""
        self._stopped.set()
        if self._thread.ident is not None:
            self._thread.join(5.0 * WATCH_SECONDS)
        try:
            self._board.withdraw()
        except ray.exceptions.RayError:
            logger.debug("the cluster could not be told", exc_info=True)

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
            num_most=self._limit(num_open),
        )
        if new:
            self._groups.add(new)

    def _limit(self, num_open: int) -> int | None:
        """Say how many groups there may be beside other searches; let go of what is too many."""
        self._claim = replace(self._claim, num_at_work=num_open)
        self._board.write(self._claim)
        others = self._board.others()
        if not others:
            return self._plan.num_most
        shares = fair_shares(all_nodes(), [self._claim, *others])
        too_many = num_to_give(self._claim, others, shares)
        if too_many:
            self._num_given += self._groups.give(too_many)
        return shares[self._claim.search]

    def _say(self, num_open: int) -> None:
        news = news_of(
            num_open, before=self._num_open, given=self._num_given, running=self._groups.num_running
        )
        self._num_open, self._num_given = num_open, 0
        if news:
            self._note(news)


def news_of(num_open: int, *, before: int, given: int, running: int) -> str | None:
    """Say what has become of the groups; None if there is no news.

    Args:
        num_open: groups at work.
        before: the same, a moment ago.
        given: of those, how many were let go for another search.
        running: groups that have not ended: at work, starting, or waiting for a node with room.

    >>> news_of(1, before=2, given=0, running=2)
    '1 lost with a node, 1 worker group is at work'
    >>> news_of(2, before=4, given=2, running=4)
    '2 given to another search, 2 worker groups are at work'
    >>> news_of(0, before=2, given=0, running=0)  # they ended in order: the search is over
    """
    has_ended = running == 0 and not given
    if num_open == before or has_ended:
        return None
    groups = "1 worker group is" if num_open == 1 else f"{num_open} worker groups are"
    lost = min(before - given - num_open, running - num_open)  # what ended does not wait
    parts = [f"{given} given to another search"] if given else []
    parts += [f"{lost} lost with a node"] if lost > 0 else []
    return ", ".join([*parts, f"{groups} at work"])


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
