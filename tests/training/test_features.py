from dataclasses import replace

import pytest
import torch
from toy_training import LAST_STAGE, RECIPE, FakeClips

from vpetl_ray.models.backbone import Backbone
from vpetl_ray.petl.attach import attach
from vpetl_ray.petl.config import PetlConfig
from vpetl_ray.training.features import FeatureCache, Inputs
from vpetl_ray.training.loop import EpochResult, FineTuning
from vpetl_ray.training.recipe import Recipe

CPU = torch.device("cpu")


def run(
    model: Backbone,
    train: FakeClips,
    val: FakeClips,
    cache: FeatureCache | None,
    recipe: Recipe = RECIPE,
    config: PetlConfig = LAST_STAGE,
) -> list[EpochResult]:
    attached = attach(model, config, seed=0)
    tuning = FineTuning(model, attached, train, val, recipe, seed=0, features=cache)
    results = [tuning.run_epoch() for _ in range(tuning.num_epochs)]
    attached.detach()
    return results


@pytest.mark.parametrize("model", ["swin", "vit"], indirect=True)
@pytest.mark.parametrize("drop_path", [0.0, 0.3])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_cached_training_equals_uncached(
    model: Backbone, train: FakeClips, val: FakeClips, drop_path: float, precision: str
):
    recipe = replace(RECIPE, drop_path=drop_path, precision=precision)
    plain = run(model, train, val, None, recipe)
    cached = run(model, train, val, FeatureCache(), recipe)
    for one, other in zip(plain, cached, strict=True):
        tolerance = 1e-4 if precision == "fp32" else 1e-2
        assert one.train_loss == pytest.approx(other.train_loss, rel=tolerance)
        assert one.loss == pytest.approx(other.loss, rel=tolerance)
        assert one.top1 == pytest.approx(other.top1, abs=5)


def test_clips_are_read_once_for_all_epochs_and_trials(
    model: Backbone, train: FakeClips, val: FakeClips
):
    cache = FeatureCache()
    first = run(model, train, val, cache)
    second = run(model, train, val, cache)
    assert (train.num_read, val.num_read) == (len(train), len(val))
    assert [r.top1 for r in first] == [r.top1 for r in second]


def test_depths_are_kept_apart(model: Backbone, train: FakeClips, val: FakeClips):
    cache = FeatureCache()
    run(model, train, val, cache)
    run(model, train, val, cache, config=PetlConfig())
    assert train.num_read == 2 * len(train)
    expected = run(model, train, val, None, config=PetlConfig())
    results = run(model, train, val, cache, config=PetlConfig())
    assert [r.top1 for r in results] == [r.top1 for r in expected]


def test_views_that_change_are_never_kept(model: Backbone, val: FakeClips):
    moving = FakeClips(50, seed=1, train_views=None)
    cache = FeatureCache()
    cached = run(model, moving, val, cache)
    assert moving.num_read == 3 * 48
    assert val.num_read == len(val)
    plain = run(model, moving, val, None)
    assert [r.train_loss for r in cached] == [r.train_loss for r in plain]


def test_views_that_come_again_are_computed_once_each(model: Backbone, val: FakeClips):
    two = FakeClips(48, seed=1, train_views=2)
    recipe = replace(RECIPE, epochs=5)
    cache = FeatureCache()
    cached = run(model, two, val, cache, recipe)
    assert two.num_read == 2 * 48
    plain = run(model, two, val, None, recipe)
    losses = [r.train_loss for r in plain]
    assert [r.train_loss for r in cached] == pytest.approx(losses, rel=1e-4)
    one = run(model, FakeClips(48, seed=1), val, None, recipe)
    assert [r.train_loss for r in one] != pytest.approx(losses, rel=1e-3)


def test_what_does_not_fit_is_not_kept(model: Backbone, train: FakeClips, val: FakeClips):
    cache = FeatureCache(max_bytes=100)
    plain = run(model, train, val, None)
    train.num_read = 0
    results = run(model, train, val, cache)
    assert cache.num_bytes == 0
    assert train.num_read >= 3 * 48
    assert [r.top1 for r in results] == [r.top1 for r in plain]


def test_least_recently_used_goes_first(model: Backbone):
    sources = [FakeClips(10, seed=seed) for seed in range(3)]

    def get(source: FakeClips, cache: FeatureCache) -> torch.Tensor | None:
        inputs = Inputs(model=model, source=source, depth=1, device=CPU)
        return cache.get(inputs, view=1, batch_size=4)

    model.eval()
    features = get(sources[0], FeatureCache())
    assert features is not None
    cache = FeatureCache(max_bytes=2 * features.nbytes)
    for index in (0, 1, 0, 2, 0, 1):
        get(sources[index], cache)
    assert [source.num_read for source in sources] == [20, 20, 10]
    assert cache.num_bytes == 2 * features.nbytes
    cache.clear()
    assert cache.num_bytes == 0


@pytest.mark.parametrize("depth", [1, 2])
def test_features_are_what_the_frozen_prefix_gives_whatever_the_mode(
    model: Backbone, train: FakeClips, depth: int
):
    model.set_drop_path(0.5)
    model.train()
    inputs = Inputs(model=model, source=train, depth=depth, device=CPU)
    features = FeatureCache().get(inputs, view=1, batch_size=7)
    assert features is not None
    assert model.training
    model.eval()
    again = inputs.batch(torch.arange(len(train)), epoch=1, train=True)
    assert torch.allclose(features, again, atol=1e-5)
    model.set_drop_path(0.0)
