"""What an adapted backbone costs on this device: the time of a forward pass, the memory of a step.

Both leave the model, its gradients and the random numbers as they were.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from vpetl_ray.models.preprocess import clips_to_input
from vpetl_ray.petl.attach import Attached
from vpetl_ray.petl.method import Backbone
from vpetl_ray.training.features import autocast
from vpetl_ray.training.recipe import Recipe

NUM_WARM_UP: Final = 3
MIN_RUNS: Final = 10
MAX_RUNS: Final = 200
ENOUGH_SECONDS: Final = 0.5
"""Of timed runs; on a slow device `MIN_RUNS` take longer."""
_MEGABYTE = 1e6
_MEMORY_EVENT = "[memory]"


def measure_latency(
    model: Backbone,
    clip_u8_1THWC: Tensor,
    precision: str,
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Median milliseconds of classifying one clip, after warm-up.

    From a normalised clip on the device to its logits there, with everything attached as it is
    trained: what could be merged is not.

    Args:
        model: in any mode, which it keeps.
        clip_u8_1THWC: one clip, as clip stores give it.
        precision: fp32 or bf16.
        clock: seconds that never go back.

    """
    device = model.head.weight.device
    seconds: list[float] = []
    with _evaluating(model), torch.inference_mode(), autocast(device, precision):
        video = clips_to_input(clip_u8_1THWC.to(device))
        for _ in range(NUM_WARM_UP):
            model(video)
        while len(seconds) < MIN_RUNS or (
            sum(seconds) < ENOUGH_SECONDS and len(seconds) < MAX_RUNS
        ):
            _wait_for(device)
            start = clock()
            model(video)
            _wait_for(device)
            seconds.append(clock() - start)
    return 1e3 * median(seconds)


def measure_step_memory(
    attached: Attached, clip_u8_1THWC: Tensor, recipe: Recipe, *, batch_size: int
) -> float:
    """Megabytes (10^6 bytes) that training takes at its peak, on one worker.

    All parameters, the optimiser's state, and what a step allocates on top: the batch, the frozen
    part's forward pass, and forward, backward and gradients of the rest. Clips and features that
    are kept for later steps are not in it.

    Args:
        attached: in its model.
        clip_u8_1THWC: one clip, as clip stores give it; a batch is made of it.
        recipe: for its precision, optimiser and stochastic depth.
        batch_size: clips that one worker sees a step.

    """
    model = attached.model
    device = model.head.weight.device
    trainable = list(attached.trainable.values())

    def step() -> None:
        clips_u8 = clip_u8_1THWC.repeat(batch_size, 1, 1, 1, 1).to(device)
        video = clips_to_input(clips_u8)
        labels = torch.zeros(batch_size, dtype=torch.int64, device=device)
        with autocast(device, recipe.precision):
            with torch.no_grad():
                x = model.forward_prefix(video, attached.first_depth)
            logits_BK = model.forward_suffix(x, attached.first_depth)
        loss = cross_entropy(logits_BK.float(), labels)
        torch.autograd.grad(loss, trainable, allow_unused=True)

    was_training = model.training
    devices = [device] if device.type == "cuda" else []
    model.train()
    try:
        with torch.random.fork_rng(devices), torch.enable_grad():
            step()  # the first one also makes what is kept: attention masks, workspaces
            peak = peak_allocation(step, device)
    finally:
        model.train(was_training)
    parameters = sum(parameter.nbytes for parameter in model.parameters())
    state = sum(parameter.nbytes for parameter in trainable) * _num_moments(recipe)
    return (peak + parameters + state) / _MEGABYTE


def peak_allocation(run: Callable[[], object], device: torch.device) -> int:
    """Most bytes that torch held at once during `run`, beyond those that it held before.

    Counted where torch allocates: by its own statistics on a GPU, on the CPU by the profiler's
    record of every allocation. The size of the process would say less: memory that an earlier,
    larger trial has given back is still in it.
    """
    if device.type == "cuda":
        _wait_for(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        _wait_for(device)
        return torch.cuda.max_memory_allocated(device) - before
    now = peak = 0
    for change in _allocations(run):
        now += change
        peak = max(peak, now)
    return peak


def _allocations(run: Callable[[], object]) -> list[int]:
    """Bytes of every allocation, negative where memory was given back, in order."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it prints about itself otherwise
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        run()
    assert profile.profiler is not None
    # The public tables hold sums per operator, from which no peak can be told.
    events: Any = profile.profiler.kineto_results
    return [event.nbytes() for event in events.events() if event.name() == _MEMORY_EVENT]


def _num_moments(recipe: Recipe) -> int:
    """Numbers that the optimiser keeps for each one that it trains."""
    if recipe.optimizer == "adamw":
        return 2
    return 1 if recipe.momentum else 0


@contextmanager
def _evaluating(model: Backbone) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
