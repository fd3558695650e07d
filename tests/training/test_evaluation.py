import pytest
import torch
from toy_training import FakeClips

from vpetl_ray.errors import DataError
from vpetl_ray.models.backbone import Backbone
from vpetl_ray.models.preprocess import clips_to_input
from vpetl_ray.training.evaluation import evaluate


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
