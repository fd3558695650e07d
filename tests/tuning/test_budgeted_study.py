"""The study: nothing over the budget, nothing twice, nothing lost when the driver dies."""

from pathlib import Path

import optuna
import pytest

from vpetl_ray.models.arch import get_arch
from vpetl_ray.results.records import EpochRow, TrialRecord, TrialState
from vpetl_ray.tuning.budgeted_study import OVER_BUDGET, BudgetedStudy, Proposal
from vpetl_ray.tuning.domains import Choice, FloatRange, Subset
from vpetl_ray.tuning.samplers import QUEUED, SAMPLERS, TWO_OBJECTIVES
from vpetl_ray.tuning.space import Space, TrialConfig
from vpetl_ray.tuning.start import StartTrial, num_queued, own_values
from vpetl_ray.tuning.study_file import StudyFile

BUDGET = 20_000


def small_space(*, continuous: bool = True) -> Space:
    rate = FloatRange(low=1e-3, high=1e-1, log=True) if continuous else 1e-2
    return Space(
        arch=get_arch("swin3d_nano"),
        num_classes=12,
        tree={
            "petl.patt.targets": Subset(items=("q", "k", "v")),
            "petl.patt.d_bottle": Choice(options=(2, 8, 64)),
            "training.optimizer": "adamw",
            "training.learning_rate": rate,
            "training.epochs": 2,
            "training.batch_size": 8,
        },
    )


def open_study(
    path: Path | None, records: list[TrialRecord] | None = None, **changes: object
) -> BudgetedStudy:
    settings: dict[str, object] = {
        "space": small_space(),
        "budget": BUDGET,
        "sampler": "random",
        "seed": 0,
        "start": [],
        "on_record": (records if records is not None else []).append,
    }
    return BudgetedStudy(path, **{**settings, **changes})  # type: ignore[arg-type]


def finished(proposal: Proposal, top1: float = 50.0, **changes: object) -> TrialRecord:
    values: dict[str, object] = {
        "id": proposal.id,
        "number": proposal.number,
        "state": TrialState.COMPLETE,
        "trainable_params": proposal.trainable_params,
        "top1": top1,
        "epochs": 2,
    }
    return TrialRecord(**{**values, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name not in {*QUEUED, "gp"}])
@pytest.mark.parametrize("over_budget", OVER_BUDGET)
def test_every_sampler_stays_within_the_budget_and_never_repeats(tmp_path, sampler, over_budget):
    records: list[TrialRecord] = []
    study = open_study(tmp_path / "study.db", records, sampler=sampler, over_budget=over_budget)
    keys = []
    for _ in range(20):
        proposal = study.ask()
        assert proposal is not None
        assert proposal.trainable_params <= BUDGET
        keys.append(proposal.config.key)
        study.tell(finished(proposal, top1=proposal.trainable_params / 1000))
    assert len(set(keys)) == 20
    infeasible = [record for record in records if record.state is TrialState.INFEASIBLE]
    proposes_within = sampler in {"auto", "ehvi"} or over_budget == "repair"
    assert bool(infeasible) != proposes_within, "a third of this space is over the budget"
    assert all(record.trainable_params > BUDGET for record in infeasible)
    assert all("budget is 20,000" in (record.reason or "") for record in infeasible)


def test_over_budget_proposals_are_told_with_their_excess(tmp_path):
    study = open_study(tmp_path / "study.db")
    for _ in range(12):
        study.tell(finished(study.ask()))
    stored = optuna.load_study(study_name="search", storage=f"sqlite:///{tmp_path / 'study.db'}")
    for record in study.records:
        constraint = stored.trials[record.number].constraints["over_budget"]
        assert (constraint > 0) == (record.state is TrialState.INFEASIBLE)
        assert constraint == pytest.approx(record.trainable_params / BUDGET - 1)


def test_a_small_space_is_exhausted_without_repeats(tmp_path):
    study = open_study(tmp_path / "study.db", space=small_space(continuous=False))
    keys = []
    while (proposal := study.ask()) is not None:
        keys.append(proposal.config.key)
        study.tell(finished(proposal))
    # The probe, and 7 subsets of q, k, v at the two widths that fit.
    assert len(keys) == len(set(keys)) == 15


def test_grid_visits_every_config_within_the_budget_once(tmp_path):
    study = open_study(tmp_path / "study.db", space=small_space(continuous=False), sampler="grid")
    proposals = []
    while (proposal := study.ask()) is not None:
        proposals.append(proposal)
        study.tell(finished(proposal))
    assert len({proposal.config.key for proposal in proposals}) == 15


def test_start_configs_come_first_and_keep_their_names(tmp_path):
    space = small_space()
    probe = {"petl.patt.targets": (), "petl.classifier.train": True}
    study = open_study(tmp_path / "study.db", space=space, start=[("linear probe", probe)])
    first, second = study.ask(), study.ask()
    assert first.name == "linear probe"
    assert first.config.is_probe
    assert second.name is None


def test_same_seed_gives_the_same_proposals(tmp_path):
    def configs(path: Path) -> list[str]:
        study = open_study(path, sampler="tpe")
        keys = []
        for _ in range(14):
            proposal = study.ask()
            keys.append(proposal.config.key)
            study.tell(finished(proposal, top1=proposal.number))
        return keys

    assert configs(tmp_path / "a.db") == configs(tmp_path / "b.db")


def test_a_reopened_study_knows_its_records_and_issues_unfinished_configs_again(tmp_path):
    path = tmp_path / "study.db"
    study = open_study(path)
    done, lost = study.ask(), study.ask()
    study.tell(finished(done, top1=61.5))

    reopened = open_study(path)
    assert [r.id for r in reopened.records if r.state is TrialState.COMPLETE] == [done.id]
    again = reopened.ask()
    assert (again.number, again.config.key) == (lost.number, lost.config.key)
    assert reopened.ask().number > lost.number


def test_a_config_lost_before_it_was_written_down_is_not_issued(tmp_path):
    path = tmp_path / "study.db"
    study = open_study(path)
    study.tell(finished(study.ask()))
    raw = optuna.load_study(study_name="search", storage=f"sqlite:///{path}")
    orphan = raw.ask()  # the driver dies here
    reopened = open_study(path)
    assert reopened.ask().number > orphan.number


def test_a_reopened_study_does_not_repeat_a_config(tmp_path):
    path = tmp_path / "study.db"
    space = small_space(continuous=False)
    study = open_study(path, space=space)
    keys = []
    for _ in range(7):
        proposal = study.ask()
        keys.append(proposal.config.key)
        study.tell(finished(proposal))
    reopened = open_study(path, space=space)
    while (proposal := reopened.ask()) is not None:
        keys.append(proposal.config.key)
        reopened.tell(finished(proposal))
    assert len(keys) == len(set(keys)) == 15


def test_a_stopped_trial_is_not_told_as_if_its_early_accuracy_were_final(tmp_path):
    path = tmp_path / "study.db"
    study = open_study(path)
    proposal = study.ask()
    study.tell(finished(proposal, top1=12.0, state=TrialState.STOPPED, epochs=1))
    stored = optuna.load_study(study_name="search", storage=f"sqlite:///{path}")
    assert stored.trials[proposal.number].state is optuna.trial.TrialState.PRUNED
    assert stored.trials[proposal.number].values is None


def test_test_accuracy_of_a_finished_trial_survives_reopening(tmp_path):
    path = tmp_path / "study.db"
    study = open_study(path)
    proposal = study.ask()
    study.tell(finished(proposal))
    study.set_test_top1(proposal.number, 58.25)
    record = next(r for r in open_study(path).records if r.number == proposal.number)
    assert record.test_top1 == 58.25


def test_a_list_is_trained_in_its_order_and_nothing_after_it(tmp_path):
    space = small_space(continuous=False)
    wide = [{"petl.patt.targets": ("v",), "petl.patt.d_bottle": 64}]
    rows = [{"petl.patt.targets": ("v",), "petl.patt.d_bottle": d} for d in (8, 2, 8)]
    start = [
        StartTrial(str(i), own_values(space, values)) for i, values in enumerate([*rows, *wide])
    ]
    records: list[TrialRecord] = []
    settings = {"space": space, "sampler": "list", "start": start, "budget": 10_000}
    study = open_study(tmp_path / "study.db", records, **settings)
    first = study.ask()
    resumed = open_study(tmp_path / "study.db", records, **settings)
    names = [first.name]
    for _ in range(3):
        proposal = resumed.ask()
        if proposal is not None:
            names.append(proposal.name)
    # The first is issued again on resume; its twin is not trained twice; the wide one is too large.
    assert names == ["0", "0", "1"]
    assert [r.name for r in records if r.state is TrialState.INFEASIBLE] == ["3"]
    assert num_queued(space, start, "list", budget=10_000) == 2
    assert num_queued(space, start, "list") == 3


def test_a_whole_grid_is_every_config_within_the_budget_once(tmp_path):
    space = small_space(continuous=False)
    start = [StartTrial("first", own_values(space, {"petl.patt.d_bottle": 8}))]
    study = open_study(tmp_path / "study.db", space=space, sampler="grid", start=start)
    keys = []
    while (proposal := study.ask()) is not None:
        keys.append(proposal.config.key)
        study.tell(finished(proposal))
    within = {
        config.key for config in map(space.build, space.grid()) if space.count(config) <= BUDGET
    }
    assert len(keys) == len(set(keys)) == num_queued(space, start, "grid", budget=BUDGET)
    assert set(keys) == within
    assert keys[0] == space.build(start[0].values).key


FURTHER = ("adapter_bytes", "latency_ms", "train_seconds")


def counted(trial_id: str, config: TrialConfig) -> dict[str, float]:
    return {"adapter_bytes": 1000.0 + len(trial_id)}


def trained(study: BudgetedStudy, proposal: Proposal) -> TrialRecord:
    top1 = 40.0 + proposal.number % 7
    costs = {**proposal.costs, "latency_ms": 2.0 + proposal.number % 3, "train_seconds": 8.0}
    curve = tuple(EpochRow(epoch=epoch, top1=top1, seconds=4.0) for epoch in (1, 2))
    study.observe(proposal.number, curve[:1], {**costs, "train_seconds": 4.0})
    return finished(proposal, top1, curve=curve, costs=costs)


@pytest.mark.parametrize("sampler", [s for s in SAMPLERS if s not in TWO_OBJECTIVES])
def test_every_sampler_takes_further_objectives_and_goes_on(tmp_path: Path, sampler: str):
    settings = {
        "sampler": sampler,
        "costs": FURTHER,
        "count_costs": counted,
        "start": [("one", {"petl.patt.targets": ("k",), "petl.patt.d_bottle": 2})]
        if sampler == "list"
        else [],
        "space": small_space(continuous=sampler not in QUEUED),
        "over_budget": "reject",
        "budget": 5_000,
    }
    study = open_study(tmp_path / "study.db", **settings)
    for _ in range(9):
        proposal = study.ask()
        if proposal is None:
            break
        study.tell(trained(study, proposal))
    kept = [record for record in study.records if record.state is TrialState.COMPLETE]
    assert kept
    assert all(set(record.costs) == set(FURTHER) for record in kept)
    assert all("adapter_bytes" in record.costs for record in study.records if record.config)
    again = open_study(tmp_path / "study.db", **settings)
    assert again.records == study.records
    if sampler not in QUEUED:
        assert again.ask() is not None


def test_what_was_measured_of_an_unfinished_trial_is_kept(tmp_path: Path):
    settings = {"costs": FURTHER, "count_costs": counted, "sampler": "tpe"}
    study = open_study(tmp_path / "study.db", **settings)
    proposal = study.ask()
    assert proposal is not None
    assert proposal.costs == {"adapter_bytes": 1005.0}
    curve = [EpochRow(epoch=1, top1=30.0, seconds=4.0)]
    study.keep_curve(proposal.number, curve, {**proposal.costs, "latency_ms": 3.5})
    again = open_study(tmp_path / "study.db", **settings).ask()
    assert again is not None
    assert again.costs == {"adapter_bytes": 1005.0, "latency_ms": 3.5}


def test_the_file_has_a_direction_for_every_objective(tmp_path: Path):
    study = open_study(tmp_path / "study.db", costs=FURTHER, count_costs=counted)
    proposal = study.ask()
    assert proposal is not None
    study.tell(trained(study, proposal))
    stored = optuna.load_study(study_name="search", storage=f"sqlite:///{tmp_path / 'study.db'}")
    assert len(stored.directions) == 5
    assert stored.trials[0].values[2:] == [1005.0, 2.0, 8.0]


def drive(path: Path, *, kill_at: set[int], **changes: object) -> list[tuple[str, str]]:
    """Train everything, two trials at a time, in a driver that is killed at some of its steps.

    Returns:
        Id and config of every trial that was finished, in that order.
    """
    start = own_values(small_space(), {"petl.patt.d_bottle": 2})
    settings = {"start": [("own", start), ("again", start)], **changes}
    study, live, done, step = open_study(path, **settings), [], [], 0
    while len(done) < 6:
        step += 1
        if step in kill_at:
            study, live = open_study(path, **settings), []
        elif len(live) < 2 and (proposal := study.ask()) is not None:
            live.append(proposal)
        elif live:
            proposal = live.pop(0)
            study.tell(finished(proposal, top1=proposal.trainable_params / 1000))
            done.append((proposal.id, proposal.config.key))
        else:
            break
    return done


@pytest.mark.parametrize(
    ("sampler", "over_budget", "continuous"),
    [("random", "repair", True), ("random", "reject", False), ("grid", "repair", False)],
    ids=["random", "random, small space", "grid"],
)
def test_a_killed_driver_changes_nothing_of_what_random_search_trains(
    tmp_path, sampler, over_budget, continuous
):
    how = {
        "sampler": sampler,
        "over_budget": over_budget,
        "space": small_space(continuous=continuous),
    }
    undisturbed = drive(tmp_path / "whole.db", kill_at=set(), **how)
    assert len(undisturbed) > 3
    often = set(range(1, 200, 3))
    assert drive(tmp_path / "killed.db", kill_at=often, **how) == undisturbed


def test_a_driver_killed_while_it_wrote_or_took_the_queue_loses_none_of_it(tmp_path):
    space = small_space()
    entries = [
        (f"own{width}", own_values(space, {"petl.patt.d_bottle": width})) for width in (2, 8)
    ]
    file = StudyFile(tmp_path / "study.db")
    file.enqueue(space.params_for(entries[0][1]), entries[0][0])
    study = open_study(tmp_path / "study.db", start=entries)
    assert study._file.take() is not None  # and here it is killed: without its values
    again = open_study(tmp_path / "study.db", start=entries)
    proposals = [again.ask(), again.ask(), again.ask()]
    assert [p.name for p in proposals] == ["own2", "own8", None]
    assert [p.id for p in proposals] == ["t0000", "t0001", "t0002"]
    assert proposals[0].config.key == space.build(entries[0][1]).key
