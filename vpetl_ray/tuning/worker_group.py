"""Warm worker groups: Ray Train runs that stay alive and take one trial after another.

Starting a Ray Train run takes tens of seconds, starting a trial in a running one milliseconds.
Each group is one trainer's `fit()` in a thread of the driver. A group whose processes die is
restarted by Ray Train for as long as the search lasts; what that costs a trial is counted by the
dispatcher, which is also the only thing that trials ever wait for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray.util.placement_group import remove_placement_group

from vpetl_ray.errors import SearchError
from vpetl_ray.tuning.cluster import GROUP_THREAD, GroupPlan
from vpetl_ray.tuning.group_worker import GroupConfig
from vpetl_ray.tuning.messages import DispatcherHandle
from vpetl_ray.tuning.trial_protocol import GroupSetup
from vpetl_ray.tuning.warm_trainer import TRAIN_SETTINGS, make_trainer

logger = logging.getLogger(__name__)

CLOSE_SECONDS = 5.0
"""How long a group may take to end its epoch and return before it is killed."""

MAX_LOST_CONTROLLERS = 3
"""How often a group is started anew whose controller was lost: on the head, where it is nobody's
fault. What happens to its workers is Ray Train's to mend, as often as it takes."""

END_SECONDS = 35.0
"""How long all of that may take, which takes seconds; after SIGTERM, the whole process has less."""

_ANSWER_SECONDS = 2.0
_UNANSWERED = (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError)


class WorkerGroups:
    """The groups of one search, from `start` to `close`; see `worker_groups`."""

    def __init__(self, setup: GroupSetup, plan: GroupPlan, dispatcher: DispatcherHandle) -> None:
        self.plan = plan
        self._dispatcher = dispatcher
        self._shared = ray.put(setup.shared)
        self._setup = ray.put(dataclasses.replace(setup, shared=None))
        self._storage = ""
        self._added_settings: list[str] = []
        self._lock = threading.Lock()
        self._errors: dict[int, str] = {}
        self._num_running = 0
        self._given: set[int] = set()
        self._is_closing = False
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start the plan's groups side by side; return at once."""
        self._storage = tempfile.mkdtemp(prefix="vpetl_groups_")
        self._added_settings = [name for name in TRAIN_SETTINGS if name not in os.environ]
        os.environ.update({name: TRAIN_SETTINGS[name] for name in self._added_settings})
        self.add(self.plan.num_groups)

    def add(self, num_groups: int) -> None:
        """Start so many more groups; one that finds no room waits for it."""
        with self._lock:
            if self._is_closing:
                return
            self._num_running += num_groups
            first = len(self._threads)
            new = [
                threading.Thread(
                    target=self._run, args=(group,), name=f"{GROUP_THREAD}{group}", daemon=True
                )
                for group in range(first, first + num_groups)
            ]
            self._threads += new
        for thread in new:
            thread.start()

    def give(self, num_groups: int) -> int:
        """Let go of so many groups for others, each at the end of its epoch; say how many it is."""
        with self._lock:  # a group that ends at once must find itself among the given
            given = ray.get(self._dispatcher.retire.remote(num_groups))
            self._given.update(given)
        return len(given)

    @property
    def num_running(self) -> int:
        """Groups that have not ended; one that is starting, restarting or waiting counts."""
        return self._num_running

    def wait_until_ready(self, num_groups: int = 1, *, timeout: float = 600.0) -> bool:
        """Wait until so many groups can take a trial.

        Returns:
            False if all groups have ended, or `timeout` seconds have passed, before that.
        """
        deadline = time.monotonic() + timeout
        while self._num_running and time.monotonic() < deadline:
            if ray.get(self._dispatcher.stats.remote()).groups >= num_groups:
                return True
            time.sleep(0.3)
        return False

    def wait_for_first(self) -> None:
        """Wait for nodes to come, if the plan says so.

        Raises:
            SearchError: none came in time.
        """
        seconds = self.plan.wait_seconds
        if seconds and not self.wait_until_ready(timeout=seconds):
            raise SearchError(
                f"no worker group was ready after {seconds / 60:g} minutes (resources.wait_minutes)"
            )

    def close(self) -> None:
        """End all groups and wait until nothing of them is left.

        Trials that run are cancelled after their epoch; a group that takes longer than
        `CLOSE_SECONDS` for that is killed. What has not ended after `END_SECONDS` is left to the
        end of the process. May be called again.
        """
        with self._lock:
            if self._is_closing:
                return
            self._is_closing = True
        begin = time.monotonic()
        try:
            self._dispatcher.close.remote()
            if not self._join(begin + CLOSE_SECONDS):
                self._kill_workers()
                if not self._join(begin + END_SECONDS):
                    logger.warning("%d worker groups did not end in time", self._num_running)
        finally:
            shutil.rmtree(self._storage, ignore_errors=True)
            for name in self._added_settings:
                os.environ.pop(name, None)

    def _run(self, group: int) -> None:
        try:
            config = GroupConfig(
                group=group,
                dispatcher=self._dispatcher,
                setup=self._setup,
                shared=self._shared,
                num_threads=max(1, int(self.plan.cpus_per_worker)),
                beat_seconds=self.plan.stuck_seconds / 10.0,
            )
            for num_lost in itertools.count():
                try:
                    make_trainer(config, self.plan, self._storage).fit()
                    break
                except ray.exceptions.RayActorError:  # Ray Train's own controller was lost
                    if num_lost == MAX_LOST_CONTROLLERS or not self._lets_go(group):
                        raise
        except Exception as error:
            if not self._is_closing:
                logger.debug("worker group %d ended", group, exc_info=True)
            self._errors[group] = f"{type(error).__name__}: {error}"
        finally:
            with self._lock:
                self._num_running -= 1
                is_last = self._num_running == 0
            self._note_end(group, is_last)

    def _lets_go(self, group: int) -> bool:
        """Free what a group had whose controller was lost; say whether it should come back."""
        comes_back = bool(ray.get(self._dispatcher.remove_group.remote(group)))
        for placement in ray.get(self._dispatcher.placements_of.remote(group)):
            remove_placement_group(placement)
        return comes_back and not self._is_closing

    def _note_end(self, group: int, is_last: bool) -> None:
        try:
            self._lets_go(group)
            if is_last and not self._is_closing and group not in self._given:
                causes = self._errors | ray.get(self._dispatcher.breakdowns.remote())
                cause = next(iter(causes.values()), "its processes ended")
                ray.get(self._dispatcher.abort.remote(f"no worker group is left: {cause}"))
        except ray.exceptions.RayError:
            logger.debug("the dispatcher was gone before group %d", group, exc_info=True)

    def _join(self, deadline: float) -> bool:
        started = [thread for thread in self._threads if thread.ident is not None]
        for thread in started:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in started)

    def _kill_workers(self) -> None:
        """Kill what runs; workers that still start, or start again, find the dispatcher closed.

        Not their controllers: Ray keeps the placement group of one that is killed until the job
        ends. Without a dispatcher, which does not answer them, workers end by themselves.
        """
        with contextlib.suppress(*_UNANSWERED):
            for worker in ray.get(self._dispatcher.workers.remote(), timeout=_ANSWER_SECONDS):
                ray.kill(worker)


@contextmanager
def worker_groups(
    setup: GroupSetup, plan: GroupPlan, dispatcher: DispatcherHandle
) -> Iterator[WorkerGroups]:
    """Run all groups of a plan side by side for the length of the block.

    Args:
        setup: what every worker builds once.
        plan: how many groups of which size.
        dispatcher: where they get their trials from.

    Yields:
        The groups, which have just been started. If all of them end before they are closed, every
        live trial fails.
    """
    groups = WorkerGroups(setup, plan, dispatcher)
    try:  # a signal must find it here before the first thread is there
        groups.start()
        yield groups
    finally:
        groups.close()
