"""The real dispatcher actor's code, asked by hundreds of groups and trials at a time.

One event loop holds all of them: what Ray adds for each message is left out, what the actor does is
not. Epochs take seconds, as most of what it costs is to wake those that wait.
"""

from __future__ import annotations

import asyncio
import random
import time

from benchmarks.report import Figure
from vpetl_ray.tuning.dispatcher_actor import DispatcherActor
from vpetl_ray.tuning.messages import Assignment, Outcome, Signal, make_task
from vpetl_ray.tuning.trainable import NO_LIMIT

EPOCHS = 8


async def _group(actor: DispatcherActor, number: int, epoch_seconds: float) -> int:
    incarnation = await actor.open_group(number, 1)
    sequence = epochs = 0
    while True:
        found = await actor.next_task(number, incarnation, 0, sequence)
        if found is Signal.CLOSE:
            return epochs
        if not isinstance(found, Assignment):
            continue
        sequence += 1
        await actor.started(found.lease, 0.0)
        for epoch in range(1, EPOCHS + 1):
            # Not all at the same moment, which would be one waking for all.
            await asyncio.sleep(epoch_seconds * random.uniform(0.5, 1.5))
            is_last = epoch == EPOCHS
            await actor.report(
                found.lease,
                epoch=epoch,
                metrics={"top1": 50.0},
                state=b"",
                final=b"" if is_last else None,
            )
            epochs += 1
            while not is_last and await actor.may_continue(found.lease, 0, epoch) is None:
                pass


async def _trial(actor: DispatcherActor, name: str) -> None:
    await actor.submit(make_task(name, None, until_epoch=NO_LIMIT))
    while True:
        news = await actor.next_results(name)
        if news and isinstance(news[-1], Outcome):
            await actor.forget(name)
            return


async def _run(num_groups: int, epoch_seconds: float, seconds: float) -> tuple[int, float]:
    actor = DispatcherActor()
    groups = [asyncio.create_task(_group(actor, n, epoch_seconds)) for n in range(num_groups)]
    counter, is_over = iter(range(10**9)), False

    async def lane() -> None:
        while not is_over:
            await _trial(actor, f"t{next(counter)}")

    lanes = [asyncio.create_task(lane()) for _ in range(num_groups + 1)]
    start = time.process_time()
    await asyncio.sleep(seconds)
    spent = time.process_time() - start
    is_over = True
    await actor.close()
    epochs = sum(await asyncio.gather(*groups))
    for task in lanes:
        task.cancel()
    return epochs, spent


def measure_polling(num_groups: int = 512, epoch_seconds: float = 8.0) -> list[Figure]:
    """CPU time of the dispatcher's process for each epoch of 512 groups."""
    epochs, spent = asyncio.run(_run(num_groups, epoch_seconds, 4 * epoch_seconds))
    milliseconds = 1e3 * spent / max(1, epochs)
    return [
        Figure(
            figure=f"dispatcher: CPU an epoch, {num_groups} groups",
            value=milliseconds,
            unit="ms",
            better="lower",
        ),
        Figure(
            figure=f"dispatcher: load with {num_groups} groups of 60 s epochs",
            value=100.0 * num_groups / 60.0 * milliseconds / 1e3,
            unit="%",
            better="lower",
        ),
    ]
