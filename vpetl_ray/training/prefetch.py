"""The next batch is read while a step runs."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor


def read_ahead(
    read: Callable[[Tensor], Tensor], batches: Sequence[Tensor], device: torch.device
) -> Iterator[Callable[[], Tensor]]:
    """Give for each batch a function that returns its rows, which waits for no more than it must.

    On a GPU a thread crops, pins and sends the next batch meanwhile: the device then finds it
    there. On the CPU that thread would take the cores that the step runs on, so a batch is read
    when it is asked for.

    Args:
        read: rows of the clips with these indices, on the device.
        batches: indices, in the order in which they are wanted.
        device: of the training.

    """
    if device.type != "cuda":
        for batch in batches:
            yield lambda batch=batch: read(batch)  # type: ignore[misc]
        return
    yield from in_thread(read, batches)


def in_thread(
    read: Callable[[Tensor], Tensor], batches: Sequence[Tensor]
) -> Iterator[Callable[[], Tensor]]:
    """As `read_ahead` on a GPU; what `read` raises is raised where its rows are asked for."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="vpetl-read") as pool:
        coming = pool.submit(read, batches[0]) if len(batches) else None
        for number in range(len(batches)):
            assert coming is not None
            present = coming
            if number + 1 < len(batches):
                coming = pool.submit(read, batches[number + 1])
            yield present.result
