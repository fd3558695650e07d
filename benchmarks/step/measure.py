"""Training steps side by side: interleaved times, peak memory, FLOPs, the matmul rate."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from vpetl_ray.models.counted import flop_counter

Step = Callable[[], Tensor]


def make_step(
    forward: Callable[[Tensor], Any],
    optimizer: torch.optim.Optimizer,
    video_BCTHW: Tensor,
    labels_B: Tensor,
    precision: str,
) -> Step:
    """One training step from the video to the changed weights; gives the loss."""
    device = video_BCTHW.device.type

    def step() -> Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            out = forward(video_BCTHW)
        logits_BK = getattr(out, "logits", out)  # transformers wraps them
        loss = cross_entropy(logits_BK.float(), labels_B)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def interleaved_seconds(
    steps: Mapping[str, Step], device: torch.device, *, rounds: int, warmup: int, budget: float
) -> dict[str, float]:
    """Median seconds of each step: round by round, each in turn, so that a busy machine is fair.

    Args:
        steps: by name.
        device: waited for before and after each.
        rounds: of which the medians are taken.
        warmup: rounds before them.
        budget: seconds after which no further round starts (of five at least).

    """
    taken: dict[str, list[float]] = {name: [] for name in steps}
    end = time.perf_counter() + budget
    names = list(steps)
    gc.collect()
    gc.disable()
    for number in range(warmup + rounds):
        if number >= warmup + 5 and time.perf_counter() > end:
            break
        for name in names:
            _wait_for(device)
            start = time.perf_counter()
            steps[name]()
            _wait_for(device)
            if number >= warmup:
                taken[name].append(time.perf_counter() - start)
        names.append(names.pop(0))
    gc.enable()
    return {name: median(seconds) for name, seconds in taken.items()}


def peak_bytes(step: Step, device: torch.device) -> float:
    """Memory that one step takes beyond what it starts with."""
    _wait_for(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        _wait_for(device)
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(profile_memory=True) as profile:
        step()
    held = peak = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda e: e.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def count_flops(step: Step) -> int:
    """Floating-point operations of the matrix products and convolutions of one step."""
    with flop_counter() as counter:
        step()
    return counter.get_total_flops()


def matmul_rate(device: torch.device, precision: str) -> float:
    """FLOP a second of one large product, the device's own rate: the best of several."""
    size = 8192 if device.type == "cuda" else 1536
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(8):
        _wait_for(device)
        start = time.perf_counter()
        torch.mm(a, b)
        _wait_for(device)
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)


def largest_difference(
    ours: Mapping[str, nn.Parameter], theirs: Mapping[str, nn.Parameter]
) -> float:
    """Of two models' gradients, over the largest of each tensor."""
    worst = 0.0
    for name, parameter in ours.items():
        mine, other = parameter.grad, theirs[name].grad
        assert mine is not None
        assert other is not None, name
        worst = max(worst, float((mine - other).abs().max() / other.abs().max()))
    return worst


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
