"""How the workers of a group are joined for DDP, told without torch.

Ray Train's own `TorchConfig` does the same, but importing it imports torch, and Ray Train's
controllers import it: one process a group on the driver's node, which computes nothing, with 280 MB
of torch in each. Here only the workers import torch.
"""

from __future__ import annotations

import logging
import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import ray
import ray.train
from ray.train.backend import Backend, BackendConfig

logger = logging.getLogger(__name__)

LEAVE_SECONDS = 30.0
"""How long workers may take to leave their process group before they are ended without."""


@dataclass
class ProcessGroupConfig(BackendConfig):
    """What DDP workers talk through: `nccl` or `gloo`."""

    backend: str
    timeout_s: int = 1800
    """Of a collective."""

    @property
    def backend_cls(self) -> type[ProcessGroup]:
        """What joins them."""
        return ProcessGroup

    @property
    def train_func_context(self) -> Any:
        """What the train function runs in."""
        return on_its_device


class ProcessGroup(Backend):
    """Joins the workers when they are there, and takes them apart before they are ended."""

    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        """Let every worker join; called in the controller, with all workers alive."""
        address = worker_group.execute_single(0, _free_address)
        worker_group.execute(_join, address, backend_config.backend, backend_config.timeout_s)

    def on_shutdown(self, worker_group: Any, backend_config: Any) -> None:
        """Let every worker leave, if it still can."""
        try:
            ray.get(worker_group.execute_async(_leave), timeout=LEAVE_SECONDS)
        except ray.exceptions.GetTimeoutError:
            logger.warning("workers did not leave their process group in %g s", LEAVE_SECONDS)


def on_its_device() -> AbstractContextManager[None]:
    """Make the worker's GPU the current one of this thread, which is the train function's."""
    import ray.train.torch  # noqa: PLC0415 - in a worker
    import torch  # noqa: PLC0415

    if torch.cuda.is_available():
        device = ray.train.torch.get_device()
        if device.type == "cuda":
            torch.cuda.set_device(device)
    return nullcontext()


def _free_address() -> tuple[str, int]:
    """Of this worker's node as others reach it, and a port that nobody has yet."""
    from ray.train._internal.utils import get_address_and_port  # noqa: PLC0415

    found: tuple[str, int] = get_address_and_port()
    return found


def _join(address: tuple[str, int], backend: str, timeout_s: int) -> None:
    import torch.distributed as dist  # noqa: PLC0415 - in a worker

    context, (host, port) = ray.train.get_context(), address
    # As `torchrun` sets them, and NCCL's plugins and others look for them.
    os.environ |= {
        "MASTER_ADDR": host,
        "MASTER_PORT": str(port),
        "RANK": str(context.get_world_rank()),
        "WORLD_SIZE": str(context.get_world_size()),
        "LOCAL_RANK": str(context.get_local_rank()),
        "LOCAL_WORLD_SIZE": str(context.get_local_world_size()),
        "NODE_RANK": str(context.get_node_rank()),
    }
    if backend == "nccl":
        # A collective that fails ends the process in place of hanging.
        os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1")
    dist.init_process_group(backend, init_method="env://", timeout=timedelta(seconds=timeout_s))


def _leave() -> None:
    import torch  # noqa: PLC0415 - in a worker
    import torch.distributed as dist  # noqa: PLC0415

    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.destroy_process_group()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
