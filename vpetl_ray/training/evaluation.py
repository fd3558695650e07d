"""Accuracy and loss of a model on a source of clips, seen once or in several views."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import cross_entropy

from vpetl_ray.errors import DataError
from vpetl_ray.models.preprocess import clips_to_input
from vpetl_ray.petl.method import Backbone
from vpetl_ray.training.clips import ClipSource, MultiViewSource
from vpetl_ray.training.features import Inputs, autocast, nobody_asks


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

    def logits_of(indices: Tensor) -> Tensor:
        x = inputs.batch(indices, epoch=0, train=False)
        return inputs.logits(x).float()

    one_pass = _Pass(
        model=inputs.model,
        source=inputs.source,
        device=inputs.device,
        precision=inputs.precision,
        batch_size=batch_size,
        rank=rank,
        world_size=world_size,
    )
    return _measure(one_pass, logits_of, keep_predictions=keep_predictions)


def evaluate_views(
    model: Backbone,
    source: MultiViewSource,
    *,
    batch_size: int = 64,
    device: torch.device | str | None = None,
    precision: str = "fp32",
    rank: int = 0,
    world_size: int = 1,
    keep_predictions: bool = False,
    on_batch: Callable[[], None] = nobody_asks,
) -> Evaluation:
    """Evaluate every clip by the mean of its views' class probabilities, as final figures are.

    The loss is the cross-entropy of that mean. A step runs one view of `batch_size` clips, so it
    takes no more memory than `evaluate`; the arguments are those of `evaluate`, and `on_batch` is
    called with every view of every batch.

    Raises:
        DataError: there are no clips.

    """
    device = torch.device(device) if device else model.head.weight.device

    def log_probabilities_of(indices: Tensor) -> Tensor:
        total: Tensor | None = None
        for number in range(source.num_views):
            on_batch()
            clips_u8 = source.batch_view(indices, number)
            logits_BK = model(clips_to_input(clips_u8.to(device, non_blocking=True)))
            probabilities_BK = logits_BK.float().softmax(1)
            total = probabilities_BK if total is None else total + probabilities_BK
        assert total is not None
        mean_BK = total / source.num_views
        return mean_BK.clamp_min(torch.finfo(mean_BK.dtype).tiny).log()

    one_pass = _Pass(
        model=model,
        source=source,
        device=device,
        precision=precision,
        batch_size=batch_size,
        rank=rank,
        world_size=world_size,
    )
    return _measure(one_pass, log_probabilities_of, keep_predictions=keep_predictions)


@dataclass(frozen=True, kw_only=True)
class _Pass:
    """One pass over all clips of a source, shared among the ranks."""

    model: Backbone
    source: ClipSource
    device: torch.device
    precision: str
    batch_size: int
    rank: int
    world_size: int


def _measure(
    what: _Pass, logits_of: Callable[[Tensor], Tensor], *, keep_predictions: bool
) -> Evaluation:
    """Compare what `logits_of` gives for clips, fp32 (B, K), with their labels."""
    model, device = what.model, what.device
    num_clips = len(what.source)
    if num_clips == 0:
        raise DataError("there are no clips to evaluate on")
    was_training = model.training
    model.eval()
    labels = what.source.labels.to(device)
    sums = torch.zeros(2, dtype=torch.float64, device=device)  # loss, clips right
    predictions = torch.zeros(num_clips, dtype=torch.int64, device=device)
    mine = torch.arange(num_clips).tensor_split(what.world_size)[what.rank]
    with torch.inference_mode(), autocast(device, what.precision):
        for indices in torch.split(mine, what.batch_size):
            logits_BK = logits_of(indices)
            where = indices.to(device)
            predictions[where] = logits_BK.argmax(1)
            sums[0] += cross_entropy(logits_BK, labels[where], reduction="sum")
            sums[1] += (predictions[where] == labels[where]).sum()
    model.train(was_training)
    if what.world_size > 1:
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
