from collections.abc import Mapping
from dataclasses import replace
from itertools import chain
from typing import Any

import pytest
import torch
from toy_training import BAPAT, LAST_STAGE, NUM_CLASSES, RECIPE, FakeClips

from vpetl_ray.errors import DataError, VpetlError
from vpetl_ray.models.backbone import Backbone
from vpetl_ray.petl.attach import attach
from vpetl_ray.petl.config import PetlConfig
from vpetl_ray.petl.methods import FullConfig
from vpetl_ray.training.loop import EpochResult, FineTuning, TrainingDiverged
from vpetl_ray.training.recipe import Recipe

RECIPES = {
    "adamw": RECIPE,
    "sgd with warm-up and decay": replace(
        RECIPE,
        optimizer="sgd",
        learning_rate=0.05,
        schedule="cosine",
        warmup_epochs=1,
        weight_decay=0.01,
    ),
    "drop path, smoothing and clip": replace(
        RECIPE, drop_path=0.4, label_smoothing=0.1, grad_clip=1.0
    ),
    "bf16": replace(RECIPE, precision="bf16"),
}


def run(
    model: Backbone,
    config: PetlConfig = BAPAT,
    recipe: Recipe = RECIPE,
    *,
    seed: int = 0,
    train: FakeClips | None = None,
    **options: Any,
) -> tuple[list[EpochResult], Mapping[str, torch.Tensor]]:
    attached = attach(model, config, seed=seed)
    clips, val = train or FakeClips(50, seed=1), FakeClips(22, seed=2)
    tuning = FineTuning(model, attached, clips, val, recipe, seed=seed, **options)
    results = []
    while not tuning.done:
        results.append(tuning.run_epoch())
    state = attached.state_dict()
    attached.detach()
    return [replace(result, seconds=0.0) for result in results], state


def is_equal(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize("model", ["swin", "vit"], indirect=True)
@pytest.mark.parametrize("config", [BAPAT, LAST_STAGE, PetlConfig(methods=(FullConfig(),))])
def test_training_learns_an_easy_task(model: Backbone, config: PetlConfig):
    results, _ = run(model, config, replace(RECIPE, epochs=5))
    assert [result.epoch for result in results] == [1, 2, 3, 4, 5]
    assert results[-1].top1 > 80
    assert results[-1].train_loss < results[0].train_loss
    assert results[0].samples == 48  # six batches of 8 out of 50 clips


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_same_seed_gives_the_same_numbers_and_another_seed_others(model: Backbone, recipe: Recipe):
    first, first_state = run(model, recipe=recipe)
    second, second_state = run(model, recipe=recipe)
    other, _ = run(model, recipe=recipe, seed=1)
    assert first == second
    assert is_equal(first_state, second_state)
    assert first != other


@pytest.mark.parametrize("stop_after", [0, 1, 2])
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_going_on_from_a_state_equals_never_having_stopped(
    model: Backbone, train: FakeClips, val: FakeClips, recipe: Recipe, stop_after: int
):
    expected, expected_state = run(model, recipe=recipe)
    attached = attach(model, BAPAT, seed=0)
    tuning = FineTuning(model, attached, train, val, recipe, seed=0)
    for _ in range(stop_after):
        tuning.run_epoch()
    state = tuning.state_dict()
    tuning.run_epoch()  # what comes after the state must not change it
    attached.detach()
    torch.manual_seed(123)

    attached = attach(model, BAPAT, seed=99)
    tuning = FineTuning(model, attached, train, val, recipe, seed=0)
    tuning.load_state_dict(state)
    results = []
    while not tuning.done:
        results.append(replace(tuning.run_epoch(), seconds=0.0))
    assert results == expected[stop_after:]
    assert is_equal(attached.state_dict(), expected_state)


def test_only_what_is_attached_changes(model: Backbone, train: FakeClips, val: FakeClips):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    attached = attach(model, replace(BAPAT, train_classifier=False), seed=0)
    head = model.head.weight.clone()
    FineTuning(model, attached, train, val, RECIPE, seed=0).run_epoch()
    assert torch.equal(model.head.weight, head)
    attached.detach()
    assert is_equal(before, model.state_dict())


def test_trials_see_the_clips_in_the_same_order(
    model: Backbone, train: FakeClips, val: FakeClips, monkeypatch: pytest.MonkeyPatch
):
    orders = []
    for config in (BAPAT, LAST_STAGE):
        seen: list[list[int]] = []
        clips = FakeClips(50, seed=1)

        def spy(indices, *, epoch, train, clips=clips, seen=seen):
            seen.append(indices.tolist())
            return FakeClips.batch(clips, indices, epoch=epoch, train=train)

        monkeypatch.setattr(clips, "batch", spy)
        run(model, config, train=clips)
        orders.append(seen)
    assert orders[0] == orders[1]
    first, second = (list(chain.from_iterable(orders[0][i : i + 6])) for i in (0, 6))
    assert first != second
    assert len(set(first)) == 48


def test_drop_path_leaves_the_global_generator_alone(model: Backbone):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run(model, recipe=RECIPES["drop path, smoothing and clip"])
    assert torch.equal(torch.rand(3), expected)


def test_divergence_is_reported_with_epoch_and_step(model: Backbone):
    with pytest.raises(TrainingDiverged, match=r"in epoch 1, step \d+ of 6; .*than 1e\+30"):
        run(model, recipe=replace(RECIPE, optimizer="sgd", learning_rate=1e30))


def test_probe_trains_the_classifier_on_features_read_once(model: Backbone, train: FakeClips):
    results, state = run(model, PetlConfig(), train=train)
    assert len(results) == RECIPE.probe_epochs
    assert set(state) == {"head.weight", "head.bias"}
    assert train.num_read == len(train)
    assert results[-1].top1 > 100 / NUM_CLASSES


def test_probe_without_fixed_views_learns_from_the_evaluation_view(model: Backbone):
    moving = FakeClips(50, seed=1, train_views=None)
    fixed = FakeClips(50, seed=1)
    assert run(model, PetlConfig(), train=moving)[0] == run(model, PetlConfig(), train=fixed)[0]
    assert moving.num_read == len(moving)


def test_run_after_the_end_is_refused(model: Backbone, train: FakeClips, val: FakeClips):
    attached = attach(model, BAPAT, seed=0)
    tuning = FineTuning(model, attached, train, val, replace(RECIPE, epochs=1), seed=0)
    tuning.run_epoch()
    assert tuning.done
    with pytest.raises(VpetlError, match="all 1 epochs have run"):
        tuning.run_epoch()


def test_clips_that_do_not_fit_are_refused(model: Backbone, train: FakeClips, val: FakeClips):
    attached = attach(model, BAPAT, seed=0)
    with pytest.raises(DataError, match="there are no validation clips"):
        FineTuning(model, attached, train, FakeClips(0, seed=0), RECIPE, seed=0)
    with pytest.raises(VpetlError, match="8 clips a step cannot be shared by 9 workers"):
        FineTuning(model, attached, train, val, RECIPE, seed=0, world_size=9)
    train.labels = train.labels + 1
    with pytest.raises(DataError, match="label 3, but the classifier has 3 classes"):
        FineTuning(model, attached, train, val, RECIPE, seed=0)


def test_fewer_clips_than_a_batch_are_one_batch(model: Backbone, val: FakeClips):
    attached = attach(model, BAPAT, seed=0)
    few = FakeClips(5, seed=1)
    result = FineTuning(model, attached, few, val, RECIPE, seed=0).run_epoch()
    assert result.samples == 5


@pytest.mark.parametrize("num_parts", [2, 3, 99])
def test_a_step_in_parts_is_the_same_step_in_less_memory(model, num_parts):
    recipe = replace(RECIPE, optimizer="sgd", learning_rate=0.05, grad_clip=1.0)
    most = 0

    def look(module, inputs):
        nonlocal most
        most = max(most, len(inputs[0]))

    whole, weights = run(model, recipe=recipe)
    with model.head.register_forward_pre_hook(look):
        parted, parted_weights = run(model, recipe=recipe, num_parts=num_parts)
    assert most == max(-(-8 // num_parts), -(-16 // num_parts))
    for one, other in zip(whole, parted, strict=True):
        assert other.top1 == one.top1
        assert other.train_loss == pytest.approx(one.train_loss, rel=1e-4)
    for name, weight in weights.items():
        assert (parted_weights[name] - weight).abs().max() < 1e-5, name


def test_a_validation_loss_that_is_no_number_ends_the_trial(model):
    attached = attach(model, BAPAT, seed=0)
    clips = FakeClips(8, seed=1)
    recipe = replace(RECIPE, epochs=2, optimizer="sgd", learning_rate=1e30, schedule="constant")
    tuning = FineTuning(model, attached, clips, clips, recipe, seed=0)
    # One step: its loss is that of the start, and what it leads to is seen by validation first.
    with pytest.raises(TrainingDiverged, match="validation loss is nan after epoch 1"):
        tuning.run_epoch()
    attached.detach()
    assert tuning.epoch == 0


def test_every_batch_is_a_sign_of_life(model):
    beats = []
    run(model, on_batch=lambda: beats.append(1))
    assert len(beats) == 3 * (6 + 2)  # epochs of so many steps, and of so many batches of val
