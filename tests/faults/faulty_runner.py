"""Runners that come to harm where their config says so, in real processes of real groups."""

import ctypes
import os
import signal
import time
from pathlib import Path

import numpy as np
import torch

from tests.tuning.scripted_runner import ScriptedRunner
from vpetl_ray.tuning.trial_runner import FineTuningRunner


class FaultyRunner(ScriptedRunner):
    """Config besides: fault, at (an epoch), on (a rank), times, marks (a folder)."""

    def start(self, task):
        super().start(task)
        self.num_parts = task.num_parts

    def run_epoch(self):
        self.context.alive()
        if self.epoch + 1 == self.config.get("at"):
            self._strike()
        output = super().run_epoch()
        metrics = {**output.metrics, "ended_at": time.time(), "parts": self.num_parts}
        return type(output)(epoch=output.epoch, metrics=metrics, is_last=output.is_last)

    def _strike(self):
        marks = Path(self.config["marks"])
        before = len(list(marks.iterdir()))
        if self.context.rank != self.config.get("on", 0) or before >= self.config.get("times", 1):
            return
        (marks / str(before)).write_text(str(time.time()))
        FAULTS[self.config["fault"]]()


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def freeze():
    os.kill(os.getpid(), signal.SIGSTOP)


def sleep():
    time.sleep(3600)


def hold_the_lock():
    """Block in C code that does not let go of Python's lock."""
    ctypes.PyDLL(None).sleep(3600)


def fill_host():
    np.empty(10**16, dtype=np.uint8)


def fill_torch():
    torch.empty(10**16, dtype=torch.uint8)


def fill_cuda():
    # What torch raises on a GPU; there is none here.
    raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


FAULTS = {
    f.__name__: f for f in (kill, freeze, sleep, hold_the_lock, fill_host, fill_torch, fill_cuda)
}


def make_small_runner(payload, context):
    """A real runner in which more than `most` clips at a time do not fit."""
    setup, most = payload
    return SmallRunner(setup, context, most)


class SmallRunner(FineTuningRunner):
    def __init__(self, setup, context, most):
        super().__init__(setup, context)
        self._most = most
        self._model.head.register_forward_pre_hook(self._check)

    def _check(self, module, inputs):
        if self._model.training and len(inputs[0]) > self._most:
            fill_cuda()
