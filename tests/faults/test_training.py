"""Real trials that have no memory, or whose loss is no number any more."""

from dataclasses import replace

import pytest
import ray
import torch
from safetensors.torch import load

from tests.faults.faulty_runner import make_small_runner
from tests.faults.groups import Groups
from tests.tuning.conftest import ray_cluster
from tests.tuning.test_trial_runner import WIDE, config, groups, tensors
from vpetl_ray.tuning.dispatcher import RETRY_PARTS
from vpetl_ray.tuning.group_worker import is_contained, is_out_of_memory
from vpetl_ray.tuning.messages import OutcomeState, make_task
from vpetl_ray.tuning.trial_protocol import WorkerContext

__all__ = ["groups", "ray_cluster"]

pytestmark = pytest.mark.timeout(400)


def task(name, **recipe):
    return make_task(name, config(WIDE, optimizer="sgd", **recipe), until_epoch=99)


def train_here(groups, **recipe):
    """Losses and tensors of a trial in this process."""
    context = WorkerContext(
        group=0, rank=0, world_size=1, device="cpu", num_threads=1, shared=groups.shared
    )
    runner = groups.make_runner(groups.payload, context)
    runner.start(task("whole", **recipe))
    outputs = [runner.run_epoch()]
    while not outputs[-1].is_last:
        outputs.append(runner.run_epoch())
    return [output.metrics["train_loss"] for output in outputs], load(runner.result())


def test_a_real_trial_without_memory_and_one_that_diverges(ray_cluster, groups, record_fault):
    """In one group, one after another: every trial leaves it as it was."""
    small = replace(groups, make_runner=make_small_runner, payload=(groups.payload, 3))
    with Groups(1, 1, setup=small) as workers:
        for name, recipe in {
            "fits": {"batch_size": 2},
            "large": {"batch_size": 8},
            "diverges": {"batch_size": 2, "learning_rate": 1e30},
            "again": {"batch_size": 2},
        }.items():
            ray.get(workers.dispatcher.submit.remote(task(name, **recipe)))
        found = {name: workers.finish(name) for name in ("fits", "large", "diverges", "again")}
    losses, whole = train_here(groups, batch_size=8)

    states = {name: outcome.state for name, (_, outcome) in found.items()}
    lost = sum(states[name] is not OutcomeState.DONE for name in ("fits", "large", "again"))
    record_fault("out of memory, once", lost=int(states["large"] is not OutcomeState.DONE))
    record_fault("loss is no number: failed", lost=lost)
    assert lost == 0, found["large"][1].reason
    # A step in parts is the step of the whole batch.
    assert [r.metrics["train_loss"] for r in found["large"][0]] == pytest.approx(losses, rel=1e-4)
    for name, tensor in load(found["large"][1].final).items():
        assert (tensor - whole[name]).abs().max() < 1e-5
    # Failed at once, by its own name, and the group is as good as before.
    epochs, outcome = found["diverges"]
    assert (epochs, outcome.state) == ([], OutcomeState.FAILED)
    assert "training diverged: the " in outcome.reason
    assert "epoch 1" in outcome.reason
    assert tensors(found["again"][1].final) == tensors(found["fits"][1].final)


GIB = 2**30


@pytest.mark.gpu
def test_a_gpu_whose_memory_is_full_takes_the_step_in_parts(groups):
    """CUDA's own refusal: a quarter of a GiB a clip, where a process may have one and a half."""
    context = WorkerContext(
        group=0, rank=0, world_size=1, device="cuda:0", num_threads=1, shared=groups.shared
    )
    runner = groups.make_runner(groups.payload, context)

    def fill(module, inputs):
        torch.empty(len(inputs[0]) * GIB // 4, dtype=torch.uint8, device="cuda:0")

    whole = torch.cuda.mem_get_info(0)[1]
    torch.cuda.set_per_process_memory_fraction(1.5 * GIB / whole, 0)
    hook = runner._model.head.register_forward_pre_hook(fill)
    try:
        large = task("large", batch_size=8)
        runner.start(large)
        with pytest.raises(torch.cuda.OutOfMemoryError) as caught:
            runner.run_epoch()
        assert is_out_of_memory(caught.value)
        assert is_contained(caught.value, context)
        runner.close()
        del caught
        runner.start(replace(large, num_parts=RETRY_PARTS))
        outputs = [runner.run_epoch()]
        while not outputs[-1].is_last:
            outputs.append(runner.run_epoch())
    finally:
        hook.remove()
        torch.cuda.set_per_process_memory_fraction(1.0, 0)
    runner.start(task("whole", batch_size=8))
    first = runner.run_epoch()
    assert outputs[0].metrics["train_loss"] == pytest.approx(first.metrics["train_loss"], rel=1e-3)
