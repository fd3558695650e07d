"""Our own sampler: its gain is exact, its model fits, and it finds what random draws do not."""

import random

import numpy as np
import pytest

from tests.tuning.test_budgeted_study import BUDGET, finished, open_study, small_space
from vpetl_ray.models.arch import get_arch
from vpetl_ray.results.front import hypervolume
from vpetl_ray.results.records import EpochRow
from vpetl_ray.tuning import expected_improvement
from vpetl_ray.tuning.config_vectors import ConfigVectors
from vpetl_ray.tuning.domains import Choice, FloatRange, Subset
from vpetl_ray.tuning.epoch_seconds import EpochSeconds
from vpetl_ray.tuning.expected_improvement import _Fitted, expected_gain
from vpetl_ray.tuning.gaussian_process import GaussianProcess
from vpetl_ray.tuning.space import Space


def test_expected_gain_is_the_mean_gain_of_hypervolume():
    rng = np.random.default_rng(0)
    size_N, top1_N = rng.random(12), 50.0 + 40.0 * rng.random(12)
    size_M, mean_M, sd_M = rng.random(6), 60.0 + 30.0 * rng.random(6), 1.0 + 8.0 * rng.random(6)
    floor = float(top1_N.min())
    reference = [max(1.0, size_N[_front(size_N, top1_N)].max()) + 0.05, -floor]
    known_N2 = np.column_stack([size_N, -top1_N])
    before = hypervolume(known_N2, reference)
    gains = []
    for size, mean, sd in zip(size_M, mean_M, sd_M, strict=True):
        drawn = rng.normal(mean, sd, size=4000)
        after = [hypervolume([*known_N2, [size, -top1]], reference) for top1 in drawn]
        gains.append(np.mean(after) - before)
    exact_M = expected_gain(size_M, mean_M, sd_M, size_N, top1_N, floor)
    np.testing.assert_allclose(exact_M, gains, rtol=0.08, atol=0.02)


def _front(size_N, top1_N):
    return [
        i for i in range(len(size_N)) if not ((size_N <= size_N[i]) & (top1_N > top1_N[i])).any()
    ]


def a_process(num_inputs):
    """Return one whose trend is a constant."""
    return GaussianProcess(num_inputs, lambda x_ND: np.ones((len(x_ND), 1)), [1e-6])


def test_the_gradient_of_the_process_is_that_of_its_loss():
    rng = np.random.default_rng(0)
    x_ND = rng.random((15, 3))
    model = a_process(3)
    model.fit(x_ND, x_ND[:, 0] + rng.normal(0, 0.1, 15), np.full(15, 0.01), search=False)
    squared_DNN = (x_ND.T[:, :, None] - x_ND.T[:, None, :]) ** 2
    given = squared_DNN, x_ND @ x_ND.T
    at = rng.normal(0, 0.5, 6)
    _, gradient = model._loss(at, *given)
    for i, step in enumerate(1e-5 * np.eye(6)):
        slope = (model._loss(at + step, *given)[0] - model._loss(at - step, *given)[0]) / 2e-5
        assert gradient[i] == pytest.approx(slope, rel=1e-4, abs=1e-5)


def test_the_process_finds_the_inputs_that_matter_and_trusts_noisy_points_less():
    rng = np.random.default_rng(1)
    x_ND = rng.random((60, 6))
    truth = lambda x: 80.0 + 10.0 * np.sin(4.0 * x[:, 2])  # noqa: E731
    y_N, variance_N = truth(x_ND), np.zeros(60)
    y_N[::3] += 30.0  # told with the noise that they have
    variance_N[::3] = 30.0**2
    model = a_process(6)
    model.fit(x_ND, y_N, variance_N, search=True)
    new_MD = rng.random((100, 6))
    mean_M, sd_M = model.predict(new_MD)
    error_M = mean_M - truth(new_MD)
    assert np.sqrt((error_M**2).mean()) < 1.5
    assert np.mean(np.abs(error_M) < 2.5 * sd_M) > 0.85


def test_what_is_believed_changes_nothing_but_how_sure_the_process_is():
    rng = np.random.default_rng(2)
    x_ND, new_MD, runs_RD = rng.random((30, 4)), rng.random((50, 4)), rng.random((3, 4))
    model = a_process(4)
    model.fit(x_ND, x_ND[:, 0] + rng.normal(0, 0.1, 30), np.full(30, 0.01), search=True)
    mean_M, sd_M = model.predict(new_MD)
    before_R, sd_before_R = model.predict(runs_RD)
    believed_R = model.believe(runs_RD, 0.01)
    after_M, sd_after_M = model.predict(new_MD)
    np.testing.assert_allclose(believed_R, before_R)
    np.testing.assert_allclose(after_M, mean_M)
    np.testing.assert_allclose(model.mean(new_MD), mean_M)
    assert (sd_after_M <= sd_M + 1e-9).all()
    assert (model.predict(runs_RD)[1] < sd_before_R).all()


def test_straight_lines_are_learned_from_a_few_points():
    rng = np.random.default_rng(3)
    x_ND, new_MD = rng.integers(0, 2, (16, 8)).astype(float), rng.random((100, 8))
    slopes_D = np.array([9.0, -7.0, 5.0, 0.0, 0.0, 3.0, 0.0, 0.0])
    model = a_process(8)
    model.fit(x_ND, x_ND @ slopes_D + rng.normal(0, 0.5, 16), np.full(16, 0.25), search=True)
    mean_M, _ = model.predict(new_MD)
    truth_M = new_MD @ slopes_D
    assert np.sqrt(((mean_M - truth_M) ** 2).mean()) < 0.35 * truth_M.std()


def test_a_method_that_is_off_is_next_to_its_narrowest_bottleneck():
    space = Space(
        arch=get_arch("swin3d_nano"),
        num_classes=12,
        tree={
            "petl.patt.targets": ("k", "v"),
            "petl.patt.d_bottle": 8,
            "petl.adapter.enabled": Choice(options=(False, True)),
            "petl.adapter.d_bottle": Choice(options=(2, 8, 64)),
            "petl.adapter.stages": Subset(items=(1, 2, 3), min_size=1),
            "training.optimizer": "adamw",
            "training.learning_rate": FloatRange(low=1e-3, high=1e-1, log=True),
            "training.epochs": 2,
            "training.batch_size": 8,
        },
    )
    vectors = ConfigVectors(space, (1_000, 100_000))
    base = {"training.learning_rate": 1e-2}
    on = {**base, "petl.adapter.enabled": True, "petl.adapter.stages": (1, 3)}
    off = vectors.vector({**base, "petl.adapter.enabled": False}, 1_000)
    narrow = vectors.vector({**on, "petl.adapter.d_bottle": 2}, 1_000)
    wide = vectors.vector({**on, "petl.adapter.d_bottle": 64}, 1_000)
    assert len(off) == len(wide) == vectors.num_inputs
    assert np.abs(off - narrow).sum() < np.abs(off - wide).sum()
    assert ((wide >= 0) & (wide <= 1)).all()


def _accuracy(proposal) -> float:
    """Width and rate matter, and the rate that is best falls as the width grows."""
    if proposal.config.is_probe:
        return 40.0
    rate = np.log10(proposal.config.recipe.learning_rate)
    size = np.log10(proposal.trainable_params)
    return 20.0 + 15.0 * size - 12.0 * (rate + 1.2 + 0.4 * (size - 3.0)) ** 2


def _hypervolume(study) -> float:
    costs = [(np.log10(r.trainable_params), -r.top1) for r in study.records if r.top1]
    return hypervolume(costs, (np.log10(BUDGET), -40.0))


def test_it_finds_a_better_front_than_random_draws(tmp_path):
    found = {}
    for sampler in ("ehvi", "random"):
        volumes = []
        for seed in (0, 1, 2):
            study = open_study(None, sampler=sampler, seed=seed)
            for _ in range(24):
                proposal = study.ask()
                study.tell(finished(proposal, top1=_accuracy(proposal)))
            volumes.append(_hypervolume(study))
        found[sampler] = volumes
    assert min(found["ehvi"]) > max(found["random"])


def waiting_study(num_trials):
    """Return a study with finished trials, and two that wait: one good by now, one bad."""
    study = open_study(None, sampler="ehvi", seed=3)
    for _ in range(num_trials):
        proposal = study.ask()
        study.tell(finished(proposal, top1=_accuracy(proposal)))
    waiting = [study.ask() for _ in range(2)]
    for proposal, top1 in zip(waiting, (88.0, 12.0), strict=True):
        study.observe(proposal.number, [EpochRow(epoch=1, top1=top1, seconds=1.0)])
    return study, [proposal.number for proposal in waiting]


def test_what_waits_is_worth_what_it_may_add_to_the_front():
    study, waiting = waiting_study(12)
    worth = study.worth(waiting, is_new_possible=True)
    assert worth.of_waiting[0] > 5 * worth.of_waiting[1] > -1
    assert worth.of_new > 0
    assert study.worth(waiting, is_new_possible=False).of_new is None


@pytest.mark.parametrize(("top1", "floor"), [([10.0, 80.0], 40.0), ([60.0, 80.0], 60.0)])
def test_what_is_not_half_as_good_as_the_best_is_no_gain(top1, floor):
    x_ND = np.zeros((2, 3))
    fitted = _Fitted([0, 1], x_ND, np.array(top1), EpochSeconds(x_ND, [1.0, 2.0]))
    assert fitted.floor == floor


def test_what_trains_slowly_is_known_by_what_was_timed():
    x_ND = np.random.default_rng(0).random((20, 3))
    seconds = np.exp(2.0 * x_ND[:, 1])
    few = EpochSeconds(x_ND[:2], seconds[:2]).relative(x_ND)
    many = EpochSeconds(x_ND, seconds).relative(x_ND)
    assert (few == 1.0).all()
    assert np.corrcoef(many, seconds)[0, 1] > 0.95


def test_too_few_trials_are_not_judged():
    study, waiting = waiting_study(0)
    assert study.worth(waiting, is_new_possible=True) is None


def test_what_runs_already_is_not_proposed_beside_it(tmp_path):
    study = open_study(None, sampler="ehvi")
    for _ in range(12):
        proposal = study.ask()
        study.tell(finished(proposal, top1=_accuracy(proposal)))
    together = [study.ask() for _ in range(4)]
    sizes = {proposal.trainable_params for proposal in together}
    rates = sorted(np.log10(p.config.recipe.learning_rate) for p in together)
    assert len({p.config.key for p in together}) == 4
    assert len(sizes) > 1 or rates[-1] - rates[0] > 0.05, "four times nearly the same config"


def test_the_last_config_of_a_small_space_is_found_too(tmp_path):
    study = open_study(None, sampler="ehvi", space=small_space(continuous=False))
    keys, rng = [], random.Random(0)
    while (proposal := study.ask()) is not None:
        keys.append(proposal.config.key)
        study.tell(finished(proposal, top1=rng.uniform(40, 90)))
    assert len(keys) == len(set(keys)) == 15


def test_a_model_of_thousands_of_trials_may_lag_and_still_proposes_well(monkeypatch):
    fits = []
    fit = GaussianProcess.fit
    monkeypatch.setattr(
        GaussianProcess, "fit", lambda self, *a, **more: fits.append(1) or fit(self, *a, **more)
    )
    volumes, num_fits = [], []
    for steady in (2000, 12):  # 12: as if each of these trials were 170
        monkeypatch.setattr(expected_improvement, "_STEADY", steady)
        fits.clear()
        study = open_study(None, sampler="ehvi", seed=0)
        keys = set()
        for _ in range(40):
            proposal = study.ask()
            keys.add(proposal.config.key)
            study.tell(finished(proposal, top1=_accuracy(proposal)))
        assert len(keys) == 40
        volumes.append(_hypervolume(study))
        num_fits.append(len(fits))
    assert num_fits[1] < 0.6 * num_fits[0]
    assert volumes[1] > 0.98 * volumes[0]
