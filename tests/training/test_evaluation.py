import pytest
import torch
from toy_training import FakeClips, FakeViews

from vpetl_ray.errors import DataError
from vpetl_ray.models.backbone import Backbone
from vpetl_ray.models.preprocess import clips_to_input
from vpetl_ray.training.evaluation import evaluate, evaluate_views


@pytest.mark.parametrize("batch_size", [1, 5, 22, 100])
def test_every_clip_counts_once_whatever_the_batch(
    model: Backbone, val: FakeClips, batch_size: int
):
    model.eval()
    with torch.no_grad():
        logits = model(clips_to_input(val.clips))
    result = evaluate(model, val, batch_size=batch_size, keep_predictions=True)
    assert result.num_clips == val.num_read == len(val)
    assert torch.equal(result.predictions, logits.argmax(1))
    right = (logits.argmax(1) == val.labels).float().mean().item()
    assert result.top1 == pytest.approx(100 * right)
    loss = torch.nn.functional.cross_entropy(logits, val.labels).item()
    assert result.loss == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("is_training", [True, False])
def test_evaluation_leaves_the_mode_and_gradients_alone(
    model: Backbone, val: FakeClips, is_training: bool
):
    model.train(is_training)
    model.set_drop_path(0.9)
    first = evaluate(model, val)
    assert model.training == is_training
    assert evaluate(model, val) == first
    assert first.predictions is None
    assert torch.is_grad_enabled()
    model.set_drop_path(0.0)


def test_a_training_step_works_after_an_evaluation(model: Backbone, val: FakeClips):
    evaluate(model, val)
    model(clips_to_input(val.clips)).sum().backward()
    model.zero_grad()


def test_no_clips_are_refused(model: Backbone):
    with pytest.raises(DataError, match="no clips to evaluate"):
        evaluate(model, FakeClips(0, seed=0))


@pytest.mark.parametrize("batch_size", [1, 5, 100])
def test_several_views_count_by_their_mean_probability(model: Backbone, batch_size: int):
    clips = FakeViews(22, seed=2)
    model.eval()
    everything = torch.arange(len(clips))
    with torch.no_grad():
        probabilities = torch.stack(
            [
                model(clips_to_input(clips.batch_view(everything, number))).softmax(1)
                for number in range(3)
            ]
        ).mean(0)
    result = evaluate_views(model, clips, batch_size=batch_size, keep_predictions=True)
    assert torch.equal(result.predictions, probabilities.argmax(1))
    right = probabilities.argmax(1) == clips.labels
    assert result.top1 == pytest.approx(100 * right.float().mean().item())
    of_label = probabilities[everything, clips.labels]
    assert result.loss == pytest.approx(-of_label.log().mean().item(), rel=1e-5)


def test_one_view_is_the_ordinary_evaluation(model: Backbone):
    clips = FakeViews(22, seed=2)
    clips.num_views = 1
    clips.batch_view = lambda indices, number: clips.batch(indices, epoch=0, train=False)
    several, ordinary = evaluate_views(model, clips), evaluate(model, clips)
    assert several.top1 == ordinary.top1
    assert several.loss == pytest.approx(ordinary.loss, rel=1e-6)


def test_a_view_that_is_all_wrong_gives_a_finite_loss(model: Backbone):
    with torch.no_grad():
        bias = model.head.bias.clone()
        model.head.bias[0] = -1e6  # of class 0 the probability is exactly 0 in fp32
    result = evaluate_views(model, FakeViews(22, seed=2))
    model.head.bias.data = bias
    assert 10 < result.loss < 100
