"""Real trials in real groups: what one worker computes, two compute together."""

import pytest
import ray

from tests.tuning.test_trial_runner import NARROW, WIDE, config, groups, tensors
from vpetl_ray.petl.config import PetlConfig
from vpetl_ray.tuning.cluster import all_nodes, plan_groups
from vpetl_ray.tuning.dispatcher_actor import start_dispatcher
from vpetl_ray.tuning.messages import Outcome, OutcomeState, make_task
from vpetl_ray.tuning.worker_group import worker_groups

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

__all__ = ["groups"]  # the fixture

TRIALS = {"wide": WIDE, "narrow": NARROW, "probe": PetlConfig(), "again": WIDE}


def run_all(setup, workers):
    """Epochs and tensors of every trial, in one group of so many workers."""
    plan = plan_groups(
        all_nodes(),
        num_groups=1,
        workers_per_group=workers,
        cpus_per_worker=1,
        gpus_per_worker=None,
    )
    dispatcher = start_dispatcher()
    with worker_groups(setup, plan, dispatcher):
        for name, petl in TRIALS.items():
            task = make_task(name, config(petl, probe_epochs=3), until_epoch=99)
            ray.get(dispatcher.submit.remote(task))
        found = {name: finish(dispatcher, name) for name in TRIALS}
    ray.kill(dispatcher)
    return found


def finish(dispatcher, name):
    seen = []
    while not seen or not isinstance(seen[-1], Outcome):
        seen += ray.get(dispatcher.next_results.remote(name, timeout=150.0))
    assert seen[-1].state is OutcomeState.DONE, seen[-1].reason
    curve = [(r.epoch, r.metrics["top1"], r.metrics["train_loss"]) for r in seen[:-1]]
    return curve, tensors(seen[-1].final)


def test_two_workers_give_what_one_gives_trial_after_trial(ray_cluster, groups):
    alone, together = run_all(groups, 1), run_all(groups, 2)
    assert alone["again"] == alone["wide"]  # to the last bit
    assert together["again"] == together["wide"]
    for name in TRIALS:
        for one, two in zip(alone[name][0], together[name][0], strict=True):
            assert two == pytest.approx(one, rel=1e-4)
