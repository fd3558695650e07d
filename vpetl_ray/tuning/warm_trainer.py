"""The Ray Train run behind one worker group.

Ray Train's controllers import this file, one process a group, so nothing here imports torch: a
`TorchTrainer` would. Type checkers see Ray Train's V1 settings, hence the ignores.
"""

import os
from typing import Any

from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from vpetl_ray.tuning.cluster import GroupPlan
from vpetl_ray.tuning.group_worker import GroupConfig, LossCallback, serve_group
from vpetl_ray.tuning.process_group import ProcessGroupConfig

TRAIN_SETTINGS = {
    # How often a controller looks after its workers: also the time in which an end is noticed.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # Each of these is an actor or a thread per group that nothing here reads.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_STATE_ACTOR_RECONCILIATION": "0",
    "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING": "0",
    # Trials run where the search was started, so that relative paths mean the same.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}
"""Environment variables that Ray Train reads in the driver and hands on."""

_UNUSED_CALLBACKS = {"DatasetsCallback", "PlacementGroupCleanerCallback"}


_KEPT_BYTES = 1 << 36
_ALLOCATOR = {
    # A step frees and asks for the same memory again and again. Given back to the system in
    # between, it comes as zeroed pages, which the larger a backbone is cost the more of a step.
    "GLIBC_TUNABLES": ":".join(
        f"glibc.malloc.{name}={value}"
        for name, value in {
            "trim_threshold": _KEPT_BYTES,
            "mmap_threshold": _KEPT_BYTES,
            "hugetlb": 1,  # by madvise, where the system lets processes choose
        }.items()
    )
}


def _worker_environment() -> dict[str, str]:
    """Environment variables of the workers; the user's own settings of the allocator stand."""
    allocator = {name: os.environ.get(name, value) for name, value in _ALLOCATOR.items()}
    return {"PYTHONDONTWRITEBYTECODE": "", **allocator}


class WarmTrainer(DataParallelTrainer):
    """A trainer without what a warm group has no use for.

    The two callbacks left out start an actor each, 4 s of CPU time a group: one serves Ray Data,
    the other asks the dashboard every second whether the controller lives, and warns every second
    where there is no dashboard. Placement groups are removed by `WorkerGroups` instead.
    Should Ray rename the method below, they are back, and nothing else changes.
    """

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        return [c for c in callbacks if type(c).__name__ not in _UNUSED_CALLBACKS]


def make_trainer(config: GroupConfig, plan: GroupPlan, storage_path: str) -> WarmTrainer:
    """Prepare a group; its `fit` lasts as long as the group.

    Args:
        config: what the workers get.
        plan: the group's size.
        storage_path: a folder for what Ray Train insists on writing, which is nothing of ours.
    """
    resources = {"CPU": float(plan.cpus_per_worker)}
    if plan.gpus_per_worker:
        resources["GPU"] = float(plan.gpus_per_worker)
    name = f"group{config['group']}"
    backend: str = plan.backend
    if backend == "auto":
        backend = "nccl" if plan.gpus_per_worker else "gloo"
    return WarmTrainer(
        serve_group,  # type: ignore[arg-type]
        train_loop_config=dict(config),
        backend_config=ProcessGroupConfig(backend=backend),
        scaling_config=ScalingConfig(
            num_workers=plan.workers_per_group,
            use_gpu=bool(plan.gpus_per_worker),
            resources_per_worker=resources,
            placement_strategy=plan.placement.upper(),
        ),
        run_config=RunConfig(  # type: ignore[call-arg]
            name=name,
            storage_path=storage_path,
            failure_config=FailureConfig(max_failures=-1),
            callbacks=[LossCallback(config["group"], config["dispatcher"])],  # type: ignore[list-item]
            worker_runtime_env={"env_vars": _worker_environment()},
        ),
    )
