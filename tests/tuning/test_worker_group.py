"""Warm groups on a real local Ray, with a runner that needs no model."""

import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import ray
from ray.util.placement_group import placement_group_table

from tests.tuning import scripted_runner
from vpetl_ray.tuning.cluster import GroupPlan
from vpetl_ray.tuning.dispatcher_actor import start_dispatcher
from vpetl_ray.tuning.group_worker import GroupConfig
from vpetl_ray.tuning.messages import Outcome, OutcomeState, make_task
from vpetl_ray.tuning.trial_protocol import GroupSetup
from vpetl_ray.tuning.warm_trainer import make_trainer
from vpetl_ray.tuning.worker_group import WorkerGroups

pytestmark = pytest.mark.timeout(400)  # Ray starts slowly where the machine is busy

# The workers can't import tests: send them the code itself.
ray.cloudpickle.register_pickle_by_value(scripted_runner)
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Search:
    """Groups and their dispatcher, and a synchronous way to run trials on them."""

    def __init__(self, num_groups, workers_per_group, payload=None):
        self.dispatcher = start_dispatcher()
        plan = GroupPlan(
            num_groups=num_groups,
            workers_per_group=workers_per_group,
            cpus_per_worker=1,
            gpus_per_worker=0,
            sentence="",
        )
        setup = GroupSetup(
            make_runner=scripted_runner.ScriptedRunner, payload=payload, shared=np.ones(1000)
        )
        self.groups = WorkerGroups(setup, plan, self.dispatcher)
        self.groups.start()

    def call(self, method, *arguments, **more):
        return ray.get(getattr(self.dispatcher, method).remote(*arguments, **more))

    def submit(self, trial_id, config, until_epoch=99, start_state=None):
        task = make_task(trial_id, config, until_epoch=until_epoch, start_state=start_state)
        self.call("submit", task)

    def finish(self, trial_id):
        """The epochs of a trial and its outcome."""
        seen = []
        while not seen or not isinstance(seen[-1], Outcome):
            news = self.call("next_results", trial_id, timeout=150.0)
            assert news is not None, f"{trial_id} came to no end"
            seen += news
        return seen[:-1], seen[-1]

    def end(self):
        self.groups.close()
        self.groups.close()  # a second time changes nothing
        ray.kill(self.dispatcher)


@pytest.fixture(scope="module")
def singles(ray_cluster):
    """Two groups of one worker."""
    search = Search(num_groups=2, workers_per_group=1)
    assert search.groups.wait_until_ready(2)
    return search  # `pair` ends it


@pytest.fixture(scope="module")
def pair(ray_cluster, singles):
    """One group of two workers, after the two groups of one have gone and left their CPUs."""
    singles.end()
    search = Search(num_groups=1, workers_per_group=2)
    assert search.groups.wait_until_ready(1)
    return search  # the test of `close` ends it


def test_trials_follow_each_other_in_the_same_processes(singles):
    for number in range(12):
        singles.submit(f"many{number}", {"epochs": 2})
    results = [singles.finish(f"many{number}") for number in range(12)]
    assert all(outcome.state is OutcomeState.DONE for _, outcome in results)
    assert all(outcome.final == b"tensors after 2" for _, outcome in results)
    assert all([report.epoch for report in reports] == [1, 2] for reports, _ in results)
    pids = {report.metrics["pid"] for reports, _ in results for report in reports}
    assert len(pids) <= 2
    first = results[0][0][0].metrics
    assert (first["shared"], first["threads"]) == (1000.0, 1)


def test_a_trial_that_raises_is_failed_and_its_worker_takes_the_next(singles):
    singles.submit("bad", {"epochs": 3, "raise_at": 2})
    (report,), outcome = singles.finish("bad")
    assert outcome.state is OutcomeState.FAILED
    assert outcome.reason == "ValueError: this width does not exist"
    pids = set()
    for number in range(8):
        singles.submit(f"after{number}", {"epochs": 1})
        pids.add(singles.finish(f"after{number}")[0][0].metrics["pid"])
    assert report.metrics["pid"] in pids


def test_a_cancelled_trial_stops_between_two_epochs_and_goes_on_from_its_checkpoint(singles):
    singles.submit("pause", {"epochs": 4}, until_epoch=2)
    reports = []
    while len(reports) < 2:
        reports += singles.call("next_results", "pause")
    assert singles.call("next_result", "pause", timeout=0.5) is None  # it waits to be granted more
    singles.call("cancel", "pause")
    _, outcome = singles.finish("pause")
    assert outcome.state is OutcomeState.CANCELLED
    state = singles.call("checkpoint", "pause")
    singles.submit("pause", {"epochs": 4}, start_state=state)
    reports, outcome = singles.finish("pause")
    assert outcome.state is OutcomeState.DONE
    assert [report.epoch for report in reports] == [3, 4]
    assert reports[0].metrics["started_at"] == 2


def test_a_trial_whose_worker_was_killed_goes_on_in_the_other_group(singles, tmp_path):
    config = {"epochs": 4, "die_at": 3, "once": str(tmp_path / "died")}
    singles.submit("killed", config)
    reports, outcome = singles.finish("killed")
    assert outcome.state is OutcomeState.DONE
    assert [report.epoch for report in reports] == [1, 2, 3, 4]
    assert reports[2].metrics["started_at"] == 2
    assert reports[2].group != reports[1].group
    assert singles.call("stats").lost_groups == 1


def test_a_search_that_gives_all_its_groups_away_goes_on_when_it_has_one_again(singles):
    assert singles.groups.wait_until_ready(2)  # one of them lost its process a moment ago
    singles.submit("given", {"epochs": 6, "seconds": 0.2})
    assert singles.call("next_results", "given", timeout=60.0)
    assert singles.groups.give(5) == 2
    deadline = time.monotonic() + 60.0
    while singles.groups.num_running:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert not any(pg["state"] == "CREATED" for pg in placement_group_table().values())
    singles.groups.add(1)
    reports, outcome = singles.finish("given")
    assert outcome.state is OutcomeState.DONE
    assert reports[-1].epoch == 6
    assert 1 <= reports[-1].metrics["started_at"] < 6  # not from its beginning
    assert singles.call("stats").lost_groups == 1  # the one of the test before


def test_the_process_that_controls_a_group_has_no_torch(singles):
    """280 MB of it for each group, on the driver's node."""
    config = GroupConfig(
        group=0,
        dispatcher=singles.dispatcher,
        setup=singles.groups._setup,
        shared=singles.groups._shared,
        num_threads=1,
        beat_seconds=1.0,
    )
    trainer = make_trainer(config, singles.groups.plan, "/nowhere")

    @ray.remote(num_cpus=0, runtime_env={"env_vars": {"FRESH": "process"}})
    def unpack(*what):
        return "ray.train" in sys.modules, "torch" in sys.modules

    parts = (trainer.train_run_context, trainer._create_default_callbacks())
    assert ray.get(unpack.remote(*parts)) == (True, False)


def test_two_workers_of_a_group_work_on_the_same_trial(pair):
    pair.submit("both", {"epochs": 2})
    reports, outcome = pair.finish("both")
    assert outcome.state is OutcomeState.DONE
    assert [report.metrics["ranks"] for report in reports] == [2, 2]


@pytest.mark.slow
def test_a_killed_worker_of_two_brings_both_back_and_the_trial_goes_on(pair, tmp_path):
    config = {"epochs": 3, "die_at": 2, "die_rank": 1, "once": str(tmp_path / "died")}
    pair.submit("killed", config)
    reports, outcome = pair.finish("killed")
    assert outcome.state is OutcomeState.DONE
    assert [report.epoch for report in reports] == [1, 2, 3]
    assert reports[0].metrics["pid"] != reports[1].metrics["pid"]
    assert reports[1].metrics == {**reports[1].metrics, "started_at": 1, "ranks": 2}


@pytest.mark.slow
def test_a_trial_that_kills_its_group_three_times_is_failed_and_the_search_goes_on(pair):
    pair.submit("killer", {"epochs": 3, "die_at": 1})
    pair.submit("next", {"epochs": 1})
    _, outcome = pair.finish("killer")
    assert outcome.state is OutcomeState.FAILED
    assert "lost 3 times" in outcome.reason
    assert pair.finish("next")[1].state is OutcomeState.DONE


@pytest.mark.slow
def test_two_workers_that_raise_fail_the_trial_and_come_back_in_new_processes(pair):
    pair.submit("fine", {"epochs": 1})
    pair.submit("bad", {"epochs": 1, "raise_at": 1})
    pair.submit("after", {"epochs": 1})
    (before,), _ = pair.finish("fine")
    assert pair.finish("bad")[1].reason == "ValueError: this width does not exist"
    (after,), _ = pair.finish("after")
    assert before.metrics["pid"] != after.metrics["pid"]


def test_close_leaves_nothing_behind(pair):
    """Actors, placement groups, threads, files. It ends the group of the tests above."""
    pair.submit("last", {"epochs": 1})
    (report,), _ = pair.finish("last")
    pair.submit("long", {"epochs": 10**6, "seconds": 300.0})  # killed in the middle of an epoch
    wait_for(lambda: pair.call("stats").queued == 0)
    storage = Path(pair.groups._storage)
    assert storage.exists()
    pair.groups.close()
    assert pair.finish("long")[1].state is OutcomeState.CANCELLED
    pair.end()
    assert pair.groups.num_running == 0
    assert not storage.exists()
    assert not [t.name for t in threading.enumerate() if t.name.startswith("vpetl-group")]
    wait_for(lambda: not Path(f"/proc/{report.metrics['pid']}").exists())
    wait_for(lambda: {group["state"] for group in placement_group_table().values()} == {"REMOVED"})
    wait_for(lambda: ray.available_resources().get("CPU") == 2.0)


@pytest.mark.slow
def test_when_no_group_can_be_set_up_every_trial_fails_with_the_reason(ray_cluster):
    search = Search(num_groups=1, workers_per_group=1, payload="broken")
    search.submit("hopeless", {"epochs": 1})
    _, outcome = search.finish("hopeless")
    assert outcome.state is OutcomeState.FAILED
    assert outcome.reason == ("no worker group is left: FileNotFoundError: no such clip store")
    assert search.groups.wait_until_ready() is False
    search.end()


def wait_for(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.1)
