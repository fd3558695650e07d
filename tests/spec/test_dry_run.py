import pytest

from vpetl_ray.errors import SearchError, SpecError
from vpetl_ray.spec import dry_run
from vpetl_ray.spec.dry_run import plan_dry_run
from vpetl_ray.spec.load import load_spec

from .conftest import MINIMAL


def test_dry_run_says_size_costs_budget_start_and_workers(write):
    spec = load_spec(write(), ["budget.trainable_params=10k", "search.start=[paper_adapter]"])
    text = plan_dry_run(spec, nodes=[{"CPU": 4, "GPU": 0}]).text()
    assert text == (
        "search space:         15 configs\n"
        "trainable parameters: smallest 1 548, median 5 604, largest 10 084\n"
        "budget:               10 000, allows 93.3% of the space\n"
        "tried first:          linear probe (1 548)\n"
        "left out:             paper_adapter: this space has no adapter\n"
        "trials:               30\n"
        "frozen layers:        1 view of a clip run through them once; 73% of a forward pass is "
        "below the last stage; kept on disk, up to 20 GB\n"
        "workers:              4 worker groups of 1 worker with 1 CPU each"
    )


def test_dry_run_shows_the_resolved_spec(write):
    spec = load_spec(write())
    assert plan_dry_run(spec, nodes=[{"CPU": 1}]).spec_yaml == spec.to_yaml()


def test_dry_run_says_how_many_trials_are_stopped_early(write):
    spec = load_spec(write(), ["search.halving={rungs: [2, 4], eta: 3}", "training.epochs=8"])
    text = plan_dry_run(spec, nodes=[{"CPU": 1}]).text()
    assert (
        "early stopping:       after epoch 2, at most 10 of 30 trials go on; "
        "after epoch 4, at most 3 of 10 trials go on: about 38% of the epochs\n"
    ) in text


def test_dry_run_says_what_fixed_views_would_save(write):
    spec = load_spec(write(), ["data.train_crop=random", "data.views=free"])
    text = plan_dry_run(spec, nodes=[{"CPU": 1}]).text()
    assert "with data.views=4 a config of the last stage alone would save 73%" in text
    spec = load_spec(write(), ["data.flip=0.5", "resources.features_gb=0"])
    text = plan_dry_run(spec, nodes=[{"CPU": 1}]).text()
    assert "4 views of a clip" in text
    assert "kept in memory by each worker" in text


def test_a_small_share_is_not_rounded_to_nothing(write):
    text = MINIMAL.replace("{choice: [2, 4]}", "{int: [2, 5000]}")
    spec = load_spec(write(text), ["budget.trainable_params=2k"])
    assert "allows less than 0.1% of the space" in plan_dry_run(spec, nodes=[{"CPU": 1}]).text()


def test_dry_run_without_the_number_of_classes(write):
    spec = load_spec(write(), ["data={source: folder, path: .}"])
    with pytest.raises(SpecError, match="give it a number"):
        plan_dry_run(spec)
    assert plan_dry_run(spec, num_classes=4, nodes=[{"CPU": 1}]).summary.smallest == 516


def test_dry_run_suggests_that_small_trials_share_a_gpu(write):
    nodes = [{"CPU": 8, "GPU": 1}]
    text = plan_dry_run(load_spec(write()), nodes=nodes).text()
    assert "resources.gpus_per_worker=0.125 would let 8 trials share one" in text
    shared = load_spec(write(), ["resources.gpus_per_worker=0.25"])
    text = plan_dry_run(shared, nodes=nodes).text()
    assert "4 worker groups of 1 worker with 1 CPU and 0.25 GPU each" in text
    assert "share one" not in text
    with pytest.raises(SpecError, match="a share of a GPU is for groups of one worker"):
        load_spec(write(), ["resources.gpus_per_worker=0.5", "resources.workers_per_group=2"])


def test_dry_run_where_no_group_fits(write):
    spec = load_spec(write(), ["resources.workers_per_group=4"])
    with pytest.raises(SearchError, match="not one worker group"):
        plan_dry_run(spec, nodes=[{"CPU": 2}])


def test_dry_run_says_where_bf16_is_worth_it(write, monkeypatch):
    monkeypatch.setattr(dry_run, "this_machine", lambda: {"CPU": 2.0, "GPU": 0.0})
    monkeypatch.setattr(dry_run, "multiplies_bf16", lambda: True)
    assert "precision:            this CPU" in plan_dry_run(load_spec(write())).text()
    already = load_spec(write(), ["training.precision=bf16"])
    assert "precision:" not in plan_dry_run(already).text()
    assert "precision:" not in plan_dry_run(load_spec(write()), nodes=[{"CPU": 2}]).text()
    monkeypatch.setattr(dry_run, "multiplies_bf16", lambda: False)
    assert "precision:" not in plan_dry_run(load_spec(write())).text()
