"""Where the time of one trial goes, and how near its steps come to what the device can do.

Seconds are taken with the device waited for at every change of phase, so a profiled trial on a GPU
is somewhat slower than another; its results are the same to the bit.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from statistics import median
from typing import Any, Final

import torch
from torch.profiler import ProfilerActivity, record_function

from vpetl_ray.models.counted import flop_counter

FEATURES: Final = "frozen layers, once"
DATA: Final = "wait for data"
FORWARD: Final = "forward"
BACKWARD: Final = "backward"
OPTIMISER: Final = "optimiser"
EVALUATION: Final = "evaluation"
PHASES: Final = (FEATURES, DATA, FORWARD, BACKWARD, OPTIMISER, EVALUATION)
"""In the order of the table."""
TRACED_STEPS: Final = 20
"""The trace has so many steps: of a whole trial it would be too large for any viewer."""
TRACE_FILE: Final = "trace.json"
PROFILE_FILE: Final = "profile.json"

_MATMUL_SIZE: Final = {"cuda": 8192, "cpu": 1024}
_MATMUL_RUNS: Final = 7

_NOTHING: Final = nullcontext()


def no_phase(name: str) -> AbstractContextManager[None]:
    """Take no time: what a trial that is not profiled calls."""
    return _NOTHING


class TrialProfile:
    """Watches one trial from its first epoch on.

    Args:
        folder: where the trace and the table are written.
        device: what it runs on.
        precision: fp32 or bf16.
        counts_flops: whether a step's products are counted (not while code is being compiled).

    """

    def __init__(
        self, folder: Path, device: torch.device, precision: str, *, counts_flops: bool = True
    ) -> None:
        self._folder = folder
        self._device = device
        self._precision = precision
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._counts_flops = counts_flops
        self._step_flops: int | None = None
        self._num_steps = 0
        self._epoch_seconds = 0.0
        self._own_seconds = 0.0
        self._trace: torch.profiler.profile | None = None
        folder.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it prints about itself otherwise
        activities = [ProfilerActivity.CPU]
        if device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        self._trace = torch.profiler.profile(activities=activities)
        self._trace.start()
        self._start = time.perf_counter()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the block's time to one of `PHASES`."""
        self._wait()
        start = time.perf_counter()
        with record_function(name):
            yield
            self._wait()
        self._seconds[name] += time.perf_counter() - start

    @contextmanager
    def step(self) -> Iterator[None]:
        """Watch a training step; the products of the second are counted, and it is in no sum."""
        self._num_steps += 1
        if self._num_steps == 2 and self._counts_flops:
            before, start = dict(self._seconds), time.perf_counter()
            with flop_counter() as counter:
                yield
            self._step_flops = int(counter.get_total_flops())
            self._seconds = before
            self._own_seconds += time.perf_counter() - start
        else:
            yield
        if self._num_steps == TRACED_STEPS:
            start = time.perf_counter()
            self._write_trace()
            self._own_seconds += time.perf_counter() - start

    @contextmanager
    def epoch(self) -> Iterator[None]:
        """Watch an epoch: what is not in one is orchestration."""
        start = time.perf_counter()
        yield
        self._epoch_seconds += time.perf_counter() - start

    def finish(self, more: Mapping[str, Any] | None = None) -> None:
        """Write what was seen; the trial is over."""
        total = time.perf_counter() - self._start
        rest = self._epoch_seconds - sum(self._seconds.values()) - self._own_seconds
        self._write_trace()
        timed_steps = self._num_steps - (1 if self._step_flops else 0)
        rate = matmul_rate(self._device, self._precision)
        busy = self._seconds[FORWARD] + self._seconds[BACKWARD]
        achieved = None
        if self._step_flops and busy:
            achieved = self._step_flops * timed_steps / busy
        document = {
            **(more or {}),
            "device": str(self._device),
            "precision": self._precision,
            "threads": torch.get_num_threads(),
            "steps": self._num_steps,
            "seconds": {
                **self._seconds,
                "rest of the epochs": max(0.0, rest),
                "orchestration": max(0.0, total - self._epoch_seconds),
                "the profile itself": self._own_seconds,
            },
            "step_flops": self._step_flops,
            "matmul_flops_per_second": rate,
            "share_of_matmul_rate": None if achieved is None else achieved / rate,
        }
        text = json.dumps(document, indent=2)
        (self._folder / PROFILE_FILE).write_text(text + "\n", encoding="utf-8")

    def close(self) -> None:
        """End the trace of a trial that was broken off."""
        if self._trace is not None:
            self._trace.stop()
            self._trace = None

    def _write_trace(self) -> None:
        if self._trace is not None:
            self._trace.stop()
            self._trace.export_chrome_trace(str(self._folder / TRACE_FILE))
            self._trace = None

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def matmul_rate(device: torch.device, precision: str) -> float:
    """FLOP a second of one large matrix product: what the device itself can do, measured."""
    size = _MATMUL_SIZE.get(device.type, 1024)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.ones(size, size, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    with torch.no_grad():
        for _ in range(_MATMUL_RUNS):
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            start = time.perf_counter()
            torch.mm(a, b)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds.append(time.perf_counter() - start)
    return 2 * size**3 / median(seconds)
