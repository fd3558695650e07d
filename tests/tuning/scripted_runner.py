"""A trial runner that does what its config says, and no training."""

import os
import signal
import time
from pathlib import Path

import torch
import torch.distributed as dist

from vpetl_ray.tuning.trial_protocol import EpochOutput


class ScriptedRunner:
    """Config: epochs, and optionally raise_at, die_at, die_rank, once (a path), seconds."""

    def __init__(self, payload, context):
        if payload == "broken":
            raise FileNotFoundError("no such clip store")
        self.context = context
        self.shared = context.shared

    def start(self, task):
        self.config = task.config
        self.epoch = int(task.start_state or 0)
        self.started_at = self.epoch

    def run_epoch(self):
        self.epoch += 1
        time.sleep(self.config.get("seconds", 0.0))
        if self.epoch == self.config.get("raise_at"):
            raise ValueError("this width does not exist")
        if self.epoch == self.config.get("die_at") and self._is_my_turn_to_die():
            os.kill(os.getpid(), signal.SIGKILL)
        metrics = {
            "pid": os.getpid(),
            "started_at": self.started_at,
            "ranks": self._count_ranks(),
            "shared": float(self.shared.sum()),
            "threads": torch.get_num_threads(),
        }
        return EpochOutput(
            epoch=self.epoch, metrics=metrics, is_last=self.epoch >= self.config["epochs"]
        )

    def state(self):
        return b"%d" % self.epoch

    def result(self):
        return b"tensors after %d" % self.epoch

    def close(self):
        self.config = None

    def _count_ranks(self):
        ranks = torch.ones(1)
        if self.context.world_size > 1:
            dist.all_reduce(ranks)
        return int(ranks.item())

    def _is_my_turn_to_die(self):
        marker = Path(self.config["once"]) if "once" in self.config else None
        if self.context.rank != self.config.get("die_rank", 0) or (marker and marker.exists()):
            return False
        if marker:
            marker.touch()
        return True
