"""What runs in the processes of a warm worker group: Ray Train's train function.

It sets the worker up once, then serves one trial after another until the dispatcher closes.
Every wait is a long poll of the dispatcher: a wait inside a torch collective would end with the
process group's time-out.
"""

import logging
import time
from collections.abc import Callable
from typing import Any, TypedDict

import ray
import ray.train

from vpetl_ray.errors import VpetlError
from vpetl_ray.tuning.messages import Assignment, DispatcherHandle, Signal
from vpetl_ray.tuning.signs_of_life import Heartbeat
from vpetl_ray.tuning.trial_protocol import GroupSetup, TrialRunner, WorkerContext

logger = logging.getLogger(__name__)

MAX_REASON_LENGTH = 500


class GroupConfig(TypedDict):
    """What the driver hands to the train function."""

    group: int
    dispatcher: DispatcherHandle
    setup: ray.ObjectRef[GroupSetup]
    """Without `shared`. A reference, since Ray Train's controller unpacks this dictionary and would
    import all that a runner needs."""
    shared: ray.ObjectRef[Any]
    num_threads: int
    beat_seconds: float
    """Between two signs of life."""


class GroupRestart(Exception):  # noqa: N818 - not an error: the way to ask Ray Train for a restart
    """These processes should not be used again; Ray Train starts new ones."""


def serve_group(config: GroupConfig) -> None:
    """Set this worker up, join its group, work until the dispatcher closes.

    Raises:
        GroupRestart: the group can't go on in these processes.
    """
    heartbeat = Heartbeat(config["beat_seconds"])
    context = _make_context(config, heartbeat)
    dispatcher = config["dispatcher"]
    dispatcher.register_worker.remote(
        context.group,
        context.rank,
        ray.get_runtime_context().current_actor,
        ray.util.get_current_placement_group(),
    )
    runner: TrialRunner | None = None
    try:
        setup = ray.get(config["setup"])
        runner = setup.make_runner(setup.payload, context)
    except Exception as error:
        logger.exception("worker group %d could not be set up", context.group)
        dispatcher.broken.remote(context.group, describe(error))
    incarnation = _join_group(dispatcher, context, is_ready=runner is not None)
    if runner is not None and incarnation > 0:
        heartbeat.send = lambda: dispatcher.alive.remote(context.group, context.rank)
        GroupMember(dispatcher, context, incarnation, runner).serve()


class LossCallback(ray.train.UserCallback):
    """Tells the dispatcher of a dead worker as soon as Ray Train knows, in its controller.

    The trial can then go on in a free group at once, and need not wait until this one is back.
    """

    def __init__(self, group: int, dispatcher: DispatcherHandle) -> None:
        self._group = group
        self._dispatcher = dispatcher

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Note the loss before any new process of the group can be there, if there is to be one."""
        try:
            comes_back = ray.get(self._dispatcher.remove_group.remote(self._group))
        except ray.exceptions.RayActorError:
            comes_back = False
        if not comes_back:
            # This controller; it would start new workers only to be told that it is over.
            ray.actor.exit_actor()  # type: ignore[no-untyped-call]


class GroupMember:
    """One rank of a group at work."""

    def __init__(
        self,
        dispatcher: DispatcherHandle,
        context: WorkerContext,
        incarnation: int,
        runner: TrialRunner,
    ) -> None:
        self._dispatcher = dispatcher
        self._context = context
        self._incarnation = incarnation
        self._runner = runner
        self._last_epoch_end = time.monotonic()

    def serve(self) -> None:
        """Do one task after another until told to close.

        Raises:
            GroupRestart: the dispatcher says so.
        """
        sequence = 0
        while True:
            answer = self._next_task(sequence)
            if answer is Signal.CLOSE:
                return
            if answer is Signal.RESTART:
                raise GroupRestart(f"worker group {self._context.group} restarts on request")
            self._work(answer)
            sequence += 1

    def _work(self, assignment: Assignment) -> None:
        lease = assignment.lease
        try:
            self._runner.start(assignment.task)
            if self._context.rank == 0:
                seconds = time.monotonic() - self._last_epoch_end
                self._dispatcher.started.remote(lease, seconds)
            while self._run_epoch(assignment):
                pass
        except Exception as error:
            logger.exception("trial %s raised", lease.trial_id)
            ray.get(
                self._dispatcher.failed.remote(
                    lease,
                    self._context.rank,
                    describe(error),
                    is_clean=is_contained(error, self._context),
                    out_of_memory=is_out_of_memory(error),
                )
            )
        finally:
            self._runner.close()

    def _run_epoch(self, assignment: Assignment) -> bool:
        """Run and report one epoch, and say whether to run another."""
        lease, rank = assignment.lease, self._context.rank
        output = self._runner.run_epoch()
        self._last_epoch_end = time.monotonic()
        if rank == 0:
            report = self._dispatcher.report.remote(
                lease,
                epoch=output.epoch,
                metrics=dict(output.metrics),
                state=None if output.is_last else self._runner.state(),
                final=self._runner.result() if output.is_last else None,
            )
            if not ray.get(report):
                return False
        if output.is_last:
            return False
        return (
            _poll(lambda: self._dispatcher.may_continue.remote(lease, rank, output.epoch)) is True
        )

    def _next_task(self, sequence: int) -> Any:
        context = self._context
        return _poll(
            lambda: self._dispatcher.next_task.remote(
                context.group, self._incarnation, context.rank, sequence
            )
        )


def describe(error: BaseException) -> str:
    """Make one line of an exception: our own speak for themselves, others need their type."""
    text = " ".join(str(error).split())[:MAX_REASON_LENGTH]
    if isinstance(error, VpetlError):
        return text
    name = type(error).__name__
    return f"{name}: {text}" if text else name


def is_contained(error: Exception, context: WorkerContext) -> bool:
    """Say whether the process is as good as before after a trial raised `error`.

    Our own errors are raised between collectives, by all ranks alike. Any other may have left a
    collective half done, which the next trial would then join, or a broken CUDA context.
    """
    if isinstance(error, VpetlError):
        return True
    return context.world_size == 1 and (context.device == "cpu" or is_out_of_memory(error))


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an allocation failed: numpy's and Python's own, torch's on a device or the host.

    torch raises `OutOfMemoryError` for the device it allocates on, and a plain RuntimeError for the
    host and for the libraries that it calls.
    """
    if isinstance(error, MemoryError):
        return True
    said = str(error)
    return isinstance(error, RuntimeError) and any(words in said for words in _NO_MEMORY)


_NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "ALLOC_FAILED")


def _poll(ask: Callable[[], ray.ObjectRef[Any]]) -> Any:
    while (answer := ray.get(ask())) is None:
        pass
    return answer


def _make_context(config: GroupConfig, alive: Callable[[], None]) -> WorkerContext:
    import ray.train.torch  # noqa: PLC0415 - the driver starts faster without torch
    import torch  # noqa: PLC0415

    torch.set_num_threads(config["num_threads"])
    train = ray.train.get_context()
    return WorkerContext(
        group=config["group"],
        rank=train.get_world_rank(),
        world_size=train.get_world_size(),
        device=str(ray.train.torch.get_device()),
        num_threads=config["num_threads"],
        alive=alive,
        shared=ray.get(config["shared"]),
    )


def _join_group(dispatcher: DispatcherHandle, context: WorkerContext, *, is_ready: bool) -> int:
    """Agree on the group's incarnation; 0 if the set-up failed on any rank."""
    import torch  # noqa: PLC0415
    import torch.distributed as dist  # noqa: PLC0415

    if context.world_size > 1:
        ready = torch.tensor(int(is_ready), device=context.device)
        dist.all_reduce(ready, op=dist.ReduceOp.MIN)
        is_ready = bool(ready.item())
    if not is_ready:
        return 0
    incarnation = 0
    if context.rank == 0:
        incarnation = int(ray.get(dispatcher.open_group.remote(context.group, context.world_size)))
    if context.world_size > 1:
        shared = torch.tensor(incarnation, device=context.device)
        dist.broadcast(shared, src=0)
        incarnation = int(shared.item())
    return incarnation
