"""Groups on a private Ray, and how trials in them went on."""

import sys
from pathlib import Path

import numpy as np
import ray

from tests.faults import faulty_runner
from tests.tuning import scripted_runner
from vpetl_ray.tuning.cluster import GroupPlan
from vpetl_ray.tuning.dispatcher_actor import start_dispatcher
from vpetl_ray.tuning.messages import Outcome, make_task
from vpetl_ray.tuning.trial_protocol import GroupSetup
from vpetl_ray.tuning.worker_group import WorkerGroups

# The workers can't import tests: send them the code itself.
for module in (scripted_runner, faulty_runner, sys.modules[__name__]):
    ray.cloudpickle.register_pickle_by_value(module)


class Groups:
    """Some groups and their dispatcher."""

    def __init__(self, num_groups, workers_per_group, setup=None, stuck_seconds=600.0):
        self.dispatcher = start_dispatcher(stuck_seconds=stuck_seconds)
        plan = GroupPlan(
            num_groups=num_groups,
            workers_per_group=workers_per_group,
            cpus_per_worker=1,
            gpus_per_worker=0,
            sentence="",
            stuck_seconds=stuck_seconds,
        )
        setup = setup or GroupSetup(make_runner=faulty_runner.FaultyRunner, shared=np.ones(1000))
        self._groups = WorkerGroups(setup, plan, self.dispatcher)
        self._groups.start()
        assert self._groups.wait_until_ready(num_groups)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._groups.close()
        ray.kill(self.dispatcher)

    def submit(self, trial_id, config, until_epoch=99):
        task = make_task(trial_id, config, until_epoch=until_epoch)
        ray.get(self.dispatcher.submit.remote(task))

    def finish(self, trial_id):
        """The epochs of a trial and its outcome."""
        seen = []
        while not seen or not isinstance(seen[-1], Outcome):
            news = ray.get(self.dispatcher.next_results.remote(trial_id, timeout=150.0))
            assert news is not None, f"{trial_id} came to no end"
            seen += news
        return seen[:-1], seen[-1]


def seconds_to_recover(marks, reports):
    """From each strike to the end of the trial's next epoch."""
    ends = [report.metrics["ended_at"] for report in reports]
    struck = [float(path.read_text()) for path in sorted(Path(marks).iterdir())]
    return [min((end for end in ends if end > at), default=at) - at for at in struck]


def doubled(reports):
    """Epochs that were reported twice."""
    epochs = [report.epoch for report in reports]
    return len(epochs) - len(set(epochs))
