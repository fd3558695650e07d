"""The dispatcher as an actor: its questions become long polls.

The actor asks for no CPU and lives on the driver's node, so that it never takes room from a group
and no worker node takes it down. It is gone when the driver is.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import ray
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from vpetl_ray.tuning.dispatcher import Dispatcher
from vpetl_ray.tuning.messages import (
    Assignment,
    DispatchStats,
    EpochReport,
    Lease,
    Outcome,
    Signal,
    Task,
)
from vpetl_ray.tuning.signs_of_life import STUCK_SECONDS, SignsOfLife

POLL_SECONDS = 5.0
"""How long a group's question is kept open before it is answered with None and asked again."""

_Answer = TypeVar("_Answer")


class DispatcherActor:
    """`Dispatcher`, method by method; see there. Those that can be too early wait for an answer."""

    def __init__(self, stuck_seconds: float = STUCK_SECONDS) -> None:
        self._dispatcher = Dispatcher()
        self._signs = SignsOfLife(stuck_seconds)
        self._watch: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._breakdowns: dict[int, str] = {}
        self._workers: dict[tuple[int, int], Any] = {}
        self._placements: dict[int, PlacementGroup | None] = {}

    # ---- the search's side ------------------------------------------------------------------

    async def submit(self, task: Task) -> None:
        """See `Dispatcher.submit`."""
        self._dispatcher.submit(task)
        self._wake()

    async def park(self, task: Task, last: EpochReport) -> None:
        """See `Dispatcher.park`."""
        self._dispatcher.park(task, last)
        self._wake()

    async def grant(self, trial_id: str, until_epoch: int) -> None:
        """See `Dispatcher.grant`."""
        self._dispatcher.grant(trial_id, until_epoch)
        self._wake()

    async def cancel(self, trial_id: str) -> None:
        """See `Dispatcher.cancel`."""
        self._dispatcher.cancel(trial_id)
        self._wake()

    async def resume(self, trial_id: str, until_epoch: int) -> None:
        """See `Dispatcher.resume`."""
        self._dispatcher.resume(trial_id, until_epoch)
        self._wake()

    async def next_result(
        self, trial_id: str, timeout: float | None = None
    ) -> EpochReport | Outcome | None:
        """Wait for the trial's next epoch or its outcome; None only after `timeout` seconds."""
        return await self._wait_for(lambda: self._dispatcher.next_result(trial_id), timeout)

    async def next_results(
        self, trial_id: str, timeout: float | None = None, *, from_start: bool = False
    ) -> list[EpochReport | Outcome] | None:
        """Wait for news of the trial, and return all there is; None only after `timeout`."""
        return await self._wait_for(
            lambda: self._dispatcher.next_results(trial_id, from_start=from_start), timeout
        )

    async def checkpoint(self, trial_id: str) -> bytes | None:
        """See `Dispatcher.checkpoint`."""
        return self._dispatcher.checkpoint(trial_id)

    async def final(self, trial_id: str) -> bytes | None:
        """See `Dispatcher.final`."""
        return self._dispatcher.final(trial_id)

    async def forget(self, trial_id: str) -> None:
        """See `Dispatcher.forget`."""
        self._dispatcher.forget(trial_id)
        self._wake()

    async def close(self) -> None:
        """See `Dispatcher.close`."""
        self._dispatcher.close()
        self._wake()

    async def retire(self, num: int) -> list[int]:
        """See `Dispatcher.retire`."""
        retired = self._dispatcher.retire(num)
        self._wake()
        return retired

    async def abort(self, reason: str) -> None:
        """See `Dispatcher.abort`."""
        self._dispatcher.abort(reason)
        self._wake()

    async def stats(self) -> DispatchStats:
        """See `Dispatcher.stats`."""
        return self._dispatcher.stats()

    async def load(self) -> tuple[int, int]:
        """Give the numbers of open groups and of trials that wait for one."""
        return self._dispatcher.num_groups, self._dispatcher.num_queued

    async def breakdowns(self) -> dict[int, str]:
        """Say by group why it could not be set up; such a group has ended for good."""
        return dict(self._breakdowns)

    async def workers(self) -> list[Any]:
        """Give the actor handles of the groups' workers, dead ones included."""
        return list(self._workers.values())

    async def placements_of(self, group: int) -> list[PlacementGroup]:
        """Give the group's last placement group, which is its only one."""
        placement = self._placements.get(group)
        return [] if placement is None else [placement]

    # ---- the groups' side -------------------------------------------------------------------

    async def open_group(self, group: int, world_size: int) -> int:
        """See `Dispatcher.open_group`."""
        incarnation = self._dispatcher.open_group(group, world_size)
        self._signs.expect(group, world_size)
        if self._watch is None:
            self._watch = asyncio.create_task(self._keep_watch())
        self._wake()
        return incarnation

    async def remove_group(self, group: int, incarnation: int | None = None) -> bool:
        """See `Dispatcher.remove_group`; say whether the group should come back."""
        self._signs.forget(group)
        self._dispatcher.remove_group(group, incarnation)
        self._wake()
        return not self._dispatcher.is_closed

    async def next_task(
        self, group: int, incarnation: int, rank: int, sequence: int
    ) -> Assignment | Signal | None:
        """Wait for the group's next task; None after `POLL_SECONDS`: ask again."""
        self._signs.note(group, rank)
        return await self._wait_for(
            lambda: self._dispatcher.next_task(group, incarnation, rank, sequence), POLL_SECONDS
        )

    async def started(self, lease: Lease, seconds_since_last: float) -> None:
        """See `Dispatcher.started`."""
        self._dispatcher.started(lease, seconds_since_last)

    async def report(
        self,
        lease: Lease,
        *,
        epoch: int,
        metrics: Mapping[str, float | int],
        state: bytes | None,
        final: bytes | None = None,
    ) -> bool:
        """See `Dispatcher.report`."""
        self._signs.note(lease.group, 0)
        accepted = self._dispatcher.report(
            lease, epoch=epoch, metrics=metrics, state=state, final=final
        )
        self._wake()
        return accepted

    async def may_continue(self, lease: Lease, rank: int, epoch: int) -> bool | None:
        """Wait for the decision after `epoch`; None after `POLL_SECONDS`: ask again."""
        self._signs.note(lease.group, rank)
        return await self._wait_for(
            lambda: self._dispatcher.may_continue(lease, rank, epoch), POLL_SECONDS
        )

    async def failed(
        self, lease: Lease, rank: int, reason: str, *, is_clean: bool, out_of_memory: bool = False
    ) -> None:
        """See `Dispatcher.failed`."""
        self._signs.note(lease.group, rank)
        self._dispatcher.failed(lease, rank, reason, is_clean=is_clean, out_of_memory=out_of_memory)
        self._wake()

    async def alive(self, group: int, rank: int) -> None:
        """Take a sign of life."""
        self._signs.note(group, rank)

    async def register_worker(
        self, group: int, rank: int, worker: Any, placement: PlacementGroup | None
    ) -> None:
        """Note the actor handle and placement group of a group's present worker."""
        self._workers[group, rank] = worker
        self._placements[group] = placement

    async def broken(self, group: int, reason: str) -> None:
        """Note that a group could not be set up, for `breakdowns`."""
        self._breakdowns[group] = reason

    # ---- inside -----------------------------------------------------------------------------

    async def _keep_watch(self) -> None:
        """Kill the workers of a group that hangs: Ray Train starts it anew."""
        while True:
            await asyncio.sleep(self._signs.period)
            for group in self._signs.look():
                self._signs.forget(group)
                cause = f"no batch was finished for {self._signs.limit:g} seconds"
                self._dispatcher.remove_group(group, cause=cause)
                for (owner, _), worker in self._workers.items():
                    if owner == group:
                        ray.kill(worker)
                self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _wait_for(
        self, ask: Callable[[], _Answer | None], seconds: float | None
    ) -> _Answer | None:
        """Ask again after every change until there is an answer, which is itself a change."""
        loop = asyncio.get_running_loop()
        deadline = None if seconds is None else loop.time() + seconds
        while (answer := ask()) is None:
            remaining = None if deadline is None else deadline - loop.time()
            if remaining is not None and remaining <= 0:
                return None
            try:
                await asyncio.wait_for(self._changed.wait(), remaining)
            except TimeoutError:
                continue
        self._wake()
        return answer


def is_there(dispatcher: Any) -> bool:
    """Say whether a dispatcher's process still answers."""
    try:
        ray.get(dispatcher.load.remote())
    except ray.exceptions.RayActorError:
        return False
    return True


def start_dispatcher(*, stuck_seconds: float = STUCK_SECONDS, max_waiting: int = 10_000) -> Any:
    """Start the actor on the driver's node.

    Args:
        stuck_seconds: of silence after which a group's workers are killed.
        max_waiting: questions that can be open at once: one for each worker and each live trial.

    Returns:
        The actor's handle. The actor ends with the driver, or by `ray.kill`.
    """
    actor = ray.remote(DispatcherActor).options(
        num_cpus=0,
        max_concurrency=max_waiting,
        scheduling_strategy=NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False
        ),
    )
    return actor.remote(stuck_seconds)
