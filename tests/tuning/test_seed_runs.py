"""Seeds of one config through the real dispatcher, with a thread in place of a worker group."""

import itertools
import os
import signal
import threading
import time

import pytest
import ray

from tests.tuning.test_trial_runner import NARROW, config
from vpetl_ray.results.records import TrialRecord, TrialState
from vpetl_ray.tuning.dispatcher_actor import start_dispatcher
from vpetl_ray.tuning.messages import Signal
from vpetl_ray.tuning.seed_runs import SeedRuns, runs_of


class FakeGroup(threading.Thread):
    """Answers every task at once: accuracy is the seed, by views one more."""

    def __init__(self, dispatcher, group, *, fails=(), interrupts=None, hangs=None):
        super().__init__(daemon=True)
        self.dispatcher, self.group = dispatcher, group
        self.fails, self.interrupts, self.hangs = fails, interrupts, hangs
        self.released = threading.Event()
        self.tasks = []

    def run(self):
        incarnation = self.call("open_group", self.group, 1)
        sequence = 0
        while (answer := self.call("next_task", self.group, incarnation, 0, sequence)) is not (
            Signal.CLOSE
        ):
            if answer is not None:
                sequence += 1
                self.work(answer.lease, answer.task)

    def work(self, lease, task):
        self.tasks.append((task.trial_id, task.kind, task.seed))
        if task.trial_id in self.fails:
            self.call("failed", lease, 0, "it diverged", is_clean=True)
        elif task.kind == "train":
            self.train(lease, task)
        else:
            assert task.start_state == b"tensors"
            if task.trial_id == self.hangs:
                os.kill(os.getpid(), signal.SIGINT)
                self.released.wait()
            metrics = {"top1": task.seed, "views_top1": task.seed + 1, "num_views": 4}
            self.call("report", lease, epoch=0, metrics=metrics, state=None, final=b"")

    def train(self, lease, task):
        is_endless = task.trial_id == self.interrupts
        if is_endless:
            os.kill(os.getpid(), signal.SIGINT)
        for epoch in itertools.count(1):
            is_last = epoch == 3 and not is_endless
            self.call(
                "report",
                lease,
                epoch=epoch,
                metrics={"top1": 10.0 * epoch, "loss": 1.0, "seconds": 0.5, "samples": 8},
                state=b"",
                final=b"tensors" if is_last else None,
            )
            time.sleep(0.1 if is_endless else 0.0)
            if is_last or self.call("may_continue", lease, 0, epoch) is not True:
                return

    def call(self, name, *args, **kwargs):
        return ray.get(getattr(self.dispatcher, name).remote(*args, **kwargs))


class Watcher:
    def __init__(self):
        self.started, self.epochs, self.records, self.kept = [], [], {}, {}

    def on_start(self, trial_id, trainable_params, name):
        self.started.append(trial_id)

    def on_epoch(self, trial_id, row):
        self.epochs.append((trial_id, row.epoch))

    def on_record(self, record):
        self.records[record.id] = record

    def keep(self, record, tensors):
        self.kept[record.id] = tensors


@pytest.fixture
def dispatcher(ray_cluster):
    handle = start_dispatcher(max_waiting=20)
    yield handle
    ray.kill(handle)


def run_seeds(dispatcher, seeds, *groups):
    for group in groups:
        group.start()
    watcher = Watcher()
    blank = TrialRecord(
        id="", number=0, state=TrialState.COMPLETE, trainable_params=7, config={"a.b": 1}
    )
    runs = SeedRuns(
        dispatcher,
        runs_of(config(NARROW), seeds, blank),
        num_concurrent=max(1, len(groups)),
        observers=[watcher],
        keep_tensors=watcher.keep,
    )
    is_whole = runs.run()
    ray.get(dispatcher.close.remote())
    for group in groups:
        group.released.set()
        group.join()
    return is_whole, watcher


def test_each_seed_is_trained_and_measured_before_the_next_one(dispatcher):
    group = FakeGroup(dispatcher, 0)
    is_whole, watcher = run_seeds(dispatcher, [5, 2], group)
    assert is_whole
    assert group.tasks == [
        ("seed5", "train", 5),
        ("seed5.test", "evaluate_views", 5),
        ("seed2", "train", 2),
        ("seed2.test", "evaluate_views", 2),
    ]
    first = watcher.records["seed5"]
    assert (first.number, first.top1, first.epochs, first.seconds) == (0, 30.0, 3, 1.5)
    assert (first.test_top1, first.test_top1_multi_view) == (5.0, 6.0)
    assert first.config == {"a.b": 1, "seed": 5}
    assert [row.top1 for row in first.curve] == [10.0, 20.0, 30.0]
    assert watcher.records["seed2"].number == 1
    assert watcher.kept == {"seed5": b"tensors", "seed2": b"tensors"}
    assert watcher.epochs == [(f"seed{seed}", epoch) for seed in (5, 2) for epoch in (1, 2, 3)]


def test_a_seed_that_fails_does_not_stop_the_others(dispatcher):
    groups = [FakeGroup(dispatcher, n, fails=("seed0", "seed2.test")) for n in range(2)]
    is_whole, watcher = run_seeds(dispatcher, [0, 1, 2], *groups)
    assert is_whole
    states = {name: record.state.value for name, record in watcher.records.items()}
    assert states == {"seed0": "failed", "seed1": "complete", "seed2": "failed"}
    assert watcher.records["seed0"].reason == "it diverged"
    assert watcher.records["seed2"].reason.startswith("could not be measured")
    assert watcher.records["seed2"].top1 == 30.0


def test_an_interruption_keeps_what_was_finished_and_starts_nothing_more(dispatcher):
    group = FakeGroup(dispatcher, 0, interrupts="seed1")
    is_whole, watcher = run_seeds(dispatcher, [0, 1, 2], group)
    assert not is_whole
    assert list(watcher.records) == ["seed0"]
    assert watcher.records["seed0"].test_top1 == 0.0
    assert watcher.started == ["seed0", "seed1"]


def test_an_interruption_does_not_wait_for_a_long_epoch_and_keeps_what_is_trained(
    dispatcher, monkeypatch
):
    monkeypatch.setattr("vpetl_ray.tuning.seed_runs.CLOSE_SECONDS", 0.5)
    group = FakeGroup(dispatcher, 0, hangs="seed1.test")
    is_whole, watcher = run_seeds(dispatcher, [0, 1, 2], group)
    assert not is_whole
    assert list(watcher.records) == ["seed0", "seed1"]
    assert watcher.records["seed1"].state is TrialState.COMPLETE
    assert watcher.records["seed1"].test_top1 is None


def test_seeds_without_groups_fail_with_the_reason(dispatcher):
    ray.get(dispatcher.abort.remote("no worker group is left: no such clip store"))
    is_whole, watcher = run_seeds(dispatcher, [0])
    assert is_whole
    assert watcher.records["seed0"].state is TrialState.FAILED
