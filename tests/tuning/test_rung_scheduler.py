"""Halving in a real Tune, on real groups, with trials that only pretend to train."""

import asyncio
import os
import signal
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import ray

from tests.tuning.test_budgeted_study import open_study
from vpetl_ray.models.arch import get_arch
from vpetl_ray.results.records import TrialState
from vpetl_ray.tuning.cluster import free_nodes, plan_groups
from vpetl_ray.tuning.dispatcher_actor import DispatcherActor, start_dispatcher
from vpetl_ray.tuning.domains import Choice
from vpetl_ray.tuning.halving import Halving
from vpetl_ray.tuning.messages import make_task
from vpetl_ray.tuning.run import TrialsEnd, run_trials
from vpetl_ray.tuning.rung_checkpoints import RungCheckpoints
from vpetl_ray.tuning.rung_scheduler import RungScheduler
from vpetl_ray.tuning.space import Space
from vpetl_ray.tuning.trainable import RUNGS, TRAINABLE_PARAMS, TRIAL_ID
from vpetl_ray.tuning.trial_protocol import EpochOutput, GroupSetup
from vpetl_ray.tuning.worker_group import worker_groups

pytestmark = pytest.mark.timeout(400)  # groups start slowly on a busy machine

EPOCHS = 4
# In no order: of trials that get better one by one, each is the best of its rung when it comes.
RATES = tuple(round(1e-3 * 1.3 ** (7 * i % 18), 6) for i in range(18))


class PretendRunner:
    """Accuracy grows with the width and the learning rate; a checkpoint is the epoch."""

    def start(self, task):
        self.recipe = task.config.recipe
        self.epoch = int(task.start_state or 0)

    def run_epoch(self):
        self.epoch += 1
        top1 = 100 * self.recipe.learning_rate * (1 + 0.1 * self.epoch)
        metrics = {"top1": top1, "loss": 1.0, "train_loss": 1.0, "seconds": 0.01}
        return EpochOutput(epoch=self.epoch, metrics=metrics, is_last=self.epoch == EPOCHS)

    def state(self):
        return b"%d" % self.epoch

    def result(self):
        return b"tensors after %d" % self.epoch

    def close(self):
        pass


class LateDispatcher(DispatcherActor):
    """One to which a pause comes in late: an actor that does many at once is promised no order."""

    async def cancel(self, trial_id):
        await asyncio.sleep(0.2)
        await super().cancel(trial_id)


@dataclass
class Watcher:
    """An observer that counts."""

    epochs: list
    records: list
    interrupt_after: int = 10**6

    def on_start(self, trial_id, trainable_params, name):
        pass

    def on_epoch(self, trial_id, row):
        self.epochs.append((trial_id, row.epoch))
        if len(self.epochs) == self.interrupt_after:
            os.kill(os.getpid(), signal.SIGINT)

    def on_record(self, record):
        self.records.append(record)


def space():
    return Space(
        arch=get_arch("swin3d_nano"),
        num_classes=12,
        tree={
            "petl.adapter.d_bottle": 4,
            "training.learning_rate": Choice(options=RATES),
            "training.epochs": EPOCHS,
            "training.batch_size": 8,
        },
    )


def search(
    tmp_path,
    halving,
    watcher,
    *,
    end=TrialsEnd.FINISHED,
    look=lambda study: None,
):
    tensors = {}
    study = open_study(
        tmp_path / "study.db", watcher.records, space=space(), budget=10**6, sampler="grid"
    )
    look(study)
    dispatcher = start_dispatcher()
    plan = plan_groups(
        free_nodes(), num_groups=2, workers_per_group=1, cpus_per_worker=1, gpus_per_worker=0
    )
    setup = GroupSetup(make_runner=lambda payload, context: PretendRunner())
    with worker_groups(setup, plan, dispatcher):
        found = run_trials(
            study,
            dispatcher,
            num_trials=len(RATES),
            num_concurrent=2,
            max_minutes=None,
            observers=[watcher],
            keep_tensors=lambda record, final: tensors.update({record.id: final}),
            halving=halving,
            checkpoints=RungCheckpoints(tmp_path / "paused"),
        )
    ray.kill(dispatcher)
    assert found is end
    return tensors


@pytest.mark.parametrize("variant", ["promotion", "stopping"])
def test_the_best_are_trained_to_their_end_and_no_epoch_is_trained_twice(
    ray_cluster, tmp_path, variant
):
    watcher = Watcher([], [])
    tensors = search(tmp_path, Halving([1, 2], eta=3, variant=variant), watcher)
    assert len(watcher.records) == len(RATES)
    complete = {r.id for r in watcher.records if r.state is TrialState.COMPLETE}
    stopped = {r.id for r in watcher.records if r.state is TrialState.STOPPED}
    assert complete | stopped == {r.id for r in watcher.records}
    assert len(set(watcher.epochs)) == len(watcher.epochs)
    for record in watcher.records:
        assert [row.epoch for row in record.curve] == list(range(1, record.epochs + 1))
        assert record.epochs == EPOCHS if record.id in complete else record.epochs in (1, 2)
    assert tensors.keys() == complete
    assert set(tensors.values()) == {b"tensors after 4"}
    best = max(watcher.records, key=lambda r: r.config["training.learning_rate"])
    assert best.id in complete
    if variant == "promotion":
        assert len(watcher.epochs) <= 0.6 * EPOCHS * len(RATES)


def test_what_is_promoted_is_judged_with_the_latest_results_known(ray_cluster, tmp_path):
    watcher = Watcher([], [])
    halving, known = Halving([1, 2], eta=2), []

    def look(study):
        def judge(numbers, *, is_new_possible):
            begun = {int(name[1:]) for name, _ in watcher.epochs}
            known.append((set(numbers), begun, {b.number for b in study.beliefs if b.curve}))
            ended = {r.number for r in watcher.records}
            assert {b.number for b in study.beliefs if b.state is not None} == ended

        study.worth = judge

    search(tmp_path, halving, watcher, look=look)
    assert len(known) > len(RATES)
    for waiting, begun, seen in known:
        assert waiting <= begun == seen
    # At each rung somebody is the last to come: then all of them are known, and their ends too.
    assert len(known[-1][2]) == len(RATES)


def test_a_pause_that_comes_in_late_does_not_undo_the_promotion_behind_it(ray_cluster):
    dispatcher = ray.remote(LateDispatcher).options(num_cpus=0, max_concurrency=100).remote()
    searcher = SimpleNamespace(on_trial_result=lambda *_: None, costs_of=lambda _: ())
    scheduler = RungScheduler(Halving([1], eta=2), dispatcher, searcher)
    tune = SimpleNamespace(pause_trial=lambda *_, **__: None)
    config = space().build({"training.learning_rate": RATES[0]})
    for name, top1 in (("first", 50.0), ("second", 40.0)):
        ray.get(dispatcher.submit.remote(make_task(name, config, until_epoch=1)))
        trial = SimpleNamespace(
            trial_id=name,
            config={TRIAL_ID: name, RUNGS: (1,), TRAINABLE_PARAMS: 10},
            status="RUNNING",
        )
        scheduler.on_trial_add(tune, trial)
        scheduler.on_trial_result(tune, trial, {"epoch": 1, "top1": top1})
    ray.get(dispatcher.cancel.remote("nobody"))  # behind the messages of before
    incarnation = ray.get(dispatcher.open_group.remote(0, 1))
    assert ray.get(dispatcher.load.remote()) == (1, 1)
    task = ray.get(dispatcher.next_task.remote(0, incarnation, 0, 0))
    assert task.lease.trial_id == "first"
    ray.kill(dispatcher)


def test_a_search_that_was_cut_off_goes_on_with_its_rungs(ray_cluster, tmp_path):
    first, second = Watcher([], [], interrupt_after=14), Watcher([], [])
    search(tmp_path, Halving([1, 2], eta=3), first, end=TrialsEnd.INTERRUPTED)
    waiting = {path.stem for path in (tmp_path / "paused").iterdir()}
    assert waiting
    search(tmp_path, Halving([1, 2], eta=3), second)
    records = first.records + second.records
    assert len({record.id for record in records}) == len(records) == len(RATES)
    # What waited at a rung is not trained to there again, and no more goes on than without a break.
    came_to = {trial: max(e for t, e in first.epochs if t == trial and e <= 2) for trial in waiting}
    again = set(first.epochs) & set(second.epochs)
    assert not {(trial, epoch) for trial, epoch in again if epoch <= came_to.get(trial, 0)}
    complete = [record for record in records if record.state is TrialState.COMPLETE]
    assert 2 <= len(complete) <= len(RATES) // 2
    assert all(len(record.curve) == record.epochs for record in records)
    assert not list((tmp_path / "paused").iterdir())
