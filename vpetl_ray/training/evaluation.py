"""Accuracy and loss of a model on a source of clips."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import cross_entropy

from vpetl_ray.errors import DataError
from vpetl_ray.petl.method import Backbone
from vpetl_ray.training.clips import ClipSource
from vpetl_ray.training.features import Inputs, autocast


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What `evaluate` found, over all ranks."""

    top1: float
    """Clips classified right, percent."""
    loss: float
    """Mean cross-entropy, without label smoothing."""
    num_clips: int
    """Clips evaluated."""
    predictions: Tensor | None = None
    """Class of each clip, int64 (N,) on the CPU, if asked for."""


def evaluate(
    model: Backbone,
    source: ClipSource,
    *,
    batch_size: int = 64,
    device: torch.device | str | None = None,
    precision: str = "fp32",
    rank: int = 0,
    world_size: int = 1,
    keep_predictions: bool = False,
) -> Evaluation:
    """Evaluate every clip once, in the source's evaluation view, shared among the ranks.

    Args:
        model: left in the mode it was in.
        source: the clips.
        batch_size: clips a step, a rank.
        device: by default the model's.
        precision: fp32 or bf16.
        rank: of this process.
        world_size: processes that share the work; all of them must call.
        keep_predictions: also return the class of each clip.

    Raises:
        DataError: there are no clips.

    """
    device = torch.device(device) if device else model.head.weight.device
    inputs = Inputs(model=model, source=source, depth=0, device=device, precision=precision)
    return evaluate_inputs(
        inputs,
        batch_size=batch_size,
        rank=rank,
        world_size=world_size,
        keep_predictions=keep_predictions,
    )


def evaluate_inputs(
    inputs: Inputs,
    *,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    keep_predictions: bool = False,
) -> Evaluation:
    """As `evaluate`, from wherever the inputs come."""
    num_clips = len(inputs.source)
    if num_clips == 0:
        raise DataError("there are no clips to evaluate on")
    model = inputs.model
    was_training = model.training
    model.eval()
    labels = inputs.source.labels.to(inputs.device)
    sums = torch.zeros(2, dtype=torch.float64, device=inputs.device)  # loss, clips right
    predictions = torch.zeros(num_clips, dtype=torch.int64, device=inputs.device)
    mine = torch.arange(num_clips).tensor_split(world_size)[rank]
    with torch.inference_mode(), autocast(inputs.device, inputs.precision):
        for indices in torch.split(mine, batch_size):
            x = inputs.batch(indices, epoch=0, train=False)
            logits_BK = model.forward_suffix(x, inputs.depth).float()
            where = indices.to(inputs.device)
            predictions[where] = logits_BK.argmax(1)
            sums[0] += cross_entropy(logits_BK, labels[where], reduction="sum")
            sums[1] += (predictions[where] == labels[where]).sum()
    model.train(was_training)
    if world_size > 1:
        dist.all_reduce(sums)
        if keep_predictions:
            dist.all_reduce(predictions)  # zeros but for a rank's own
    loss, right = (sums / num_clips).tolist()
    return Evaluation(
        top1=100 * right,
        loss=loss,
        num_clips=num_clips,
        predictions=predictions.cpu() if keep_predictions else None,
    )
