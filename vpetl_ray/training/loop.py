"""Fine-tune what is attached to a frozen model, an epoch at a time."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from vpetl_ray.errors import DataError, VpetlError
from vpetl_ray.models.backbone import NO_LEAD
from vpetl_ray.petl.attach import Attached
from vpetl_ray.petl.method import Backbone
from vpetl_ray.petl.seeding import seeded
from vpetl_ray.training.clips import ClipSource
from vpetl_ray.training.cut import find_lead
from vpetl_ray.training.evaluation import Evaluation, evaluate, evaluate_inputs
from vpetl_ray.training.features import (
    EVALUATION_VIEW,
    FeatureCache,
    Inputs,
    autocast,
    nobody_asks,
)
from vpetl_ray.training.network import check_compiler, wrap_network
from vpetl_ray.training.optimizer import copy_to_cpu, make_optimizer
from vpetl_ray.training.prefetch import read_ahead
from vpetl_ray.training.profile import (
    BACKWARD,
    DATA,
    EVALUATION,
    FEATURES,
    FORWARD,
    OPTIMISER,
    TrialProfile,
    no_phase,
)
from vpetl_ray.training.recipe import Recipe, learning_rate_factor

__all__ = ["EpochResult", "Evaluation", "FineTuning", "TrainingDiverged", "evaluate"]

_CHECK_EVERY = 16
"""Steps between looks at the loss: each look waits for the device."""


class TrainingDiverged(VpetlError):  # noqa: N818 it reads as a sentence
    """The loss is no number any more."""


@dataclass(frozen=True, kw_only=True)
class EpochResult:
    """One epoch of training and the evaluation after it."""

    epoch: int
    """From 1."""
    top1: float
    """Validation clips classified right, percent."""
    loss: float
    """Mean cross-entropy on the validation clips."""
    train_loss: float
    """Mean of the loss that was minimised."""
    seconds: float
    """For training and evaluation together."""
    samples: int
    """Training clips seen, by all workers together."""


class FineTuning:
    """One trial: train the attached parameters, evaluate after each epoch.

    It may stop after any epoch and go on from `state_dict`, here or in another process. Data
    order follows from (seed, epoch) alone, so trials differ by their configs and not by luck, and
    several workers take together the steps that one would. When the classifier alone is trained,
    features are computed once and `probe_epochs` and `probe_learning_rate` of the recipe count
    (`is_probe`).

    Args:
        model: the backbone that `attached` is in.
        attached: what is trained.
        train: clips to train on.
        val: clips to evaluate on after each epoch.
        recipe: how to train.
        seed: of data order and stochastic depth.
        device: the model is moved there; by default it stays.
        rank: of this process.
        world_size: worker processes; above 1 the process group must exist, and all must take part.
        features: keeps what the frozen part computes, over epochs and trials.
        profile: told of every phase.
        num_parts: each step's clips go through one after another in so many parts, which takes less
            memory and gives the same step, to the rounding (but for stochastic depth, which draws
            for each part).
        on_batch: called with every batch, in training and evaluation.

    Raises:
        DataError: there is nothing to train on, or a label that the classifier has not.
        VpetlError: a global batch is smaller than the number of workers, or what is to be compiled
            cannot be here.

    """

    def __init__(
        self,
        model: Backbone,
        attached: Attached,
        train: ClipSource,
        val: ClipSource,
        recipe: Recipe,
        *,
        seed: int,
        device: torch.device | str | None = None,
        rank: int = 0,
        world_size: int = 1,
        features: FeatureCache | None = None,
        profile: TrialProfile | None = None,
        num_parts: int = 1,
        on_batch: Callable[[], None] = nobody_asks,
    ) -> None:
        _check_clips(model, train, val)
        self.model = model.to(device) if device else model
        self.attached = attached
        self._profile = profile
        self._phase = no_phase if profile is None else profile.phase
        self.recipe = recipe
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.is_probe = attached.first_depth == model.arch.num_stages
        self.num_epochs = recipe.probe_epochs if self.is_probe else recipe.epochs
        self.epoch = 0
        self._batch_size = min(recipe.batch_size, len(train))
        self._steps = len(train) // self._batch_size
        self._num_parts = num_parts
        self._eval_batch_size = -(-recipe.eval_batch_size // num_parts)
        self._on_batch = on_batch
        if self._batch_size < world_size:
            raise VpetlError(
                f"training.batch_size: {self._batch_size} clips a step cannot be shared "
                f"by {world_size} workers"
            )
        self._device = self.model.head.weight.device
        self._cache = FeatureCache() if features is None and self.is_probe else features
        self.model.set_drop_path(recipe.drop_path)
        # Without a cache nothing is gained by it, and blocks may run compiled.
        self._lead = NO_LEAD if self._cache is None else find_lead(attached)
        self._train, self._val = (self._inputs(source) for source in (train, val))
        self._view: int | None = None
        self._labels = train.labels.to(self._device)
        self._learning_rate = recipe.probe_learning_rate if self.is_probe else recipe.learning_rate
        self._optimizer = make_optimizer(attached, recipe, self._learning_rate)
        self._network = wrap_network(self.model, attached.first_depth, world_size, lead=self._lead)
        if recipe.compile:
            check_compiler(self._device)
        self.model.set_running(is_compiled=recipe.compile, is_recomputed=recipe.recompute)

    @property
    def done(self) -> bool:
        """Whether every epoch has run."""
        return self.epoch >= self.num_epochs

    def run_epoch(self) -> EpochResult:
        """Train one more epoch and evaluate.

        Raises:
            TrainingDiverged: the loss became NaN or infinite; the message says when.
            VpetlError: all epochs have run.

        """
        if self.done:
            raise VpetlError(f"training: all {self.num_epochs} epochs have run")
        start = time.perf_counter()
        with self._phase(FEATURES):
            self._fill_cache()
        train_loss = self._train_epoch(self.epoch + 1)
        with self._phase(EVALUATION):
            evaluation = evaluate_inputs(
                self._val,
                batch_size=self._eval_batch_size,
                rank=self.rank,
                world_size=self.world_size,
            )
        if not math.isfinite(evaluation.loss):
            raise TrainingDiverged(
                f"training diverged: the validation loss is {evaluation.loss} after epoch "
                f"{self.epoch + 1}; try a smaller learning rate than {self._learning_rate:g}"
            )
        self.epoch += 1
        return EpochResult(
            epoch=self.epoch,
            top1=evaluation.top1,
            loss=evaluation.loss,
            train_loss=train_loss,
            seconds=time.perf_counter() - start,
            samples=self._steps * self._batch_size,
        )

    def state_dict(self) -> dict[str, Any]:
        """All that going on needs: trainable tensors, optimiser and epoch; small, on the CPU."""
        return {
            "epoch": self.epoch,
            "trainable": self.attached.state_dict(),
            "optimizer": copy_to_cpu(self._optimizer.state_dict()),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict` of the same config, recipe and seed, bit for bit."""
        self.attached.load_state_dict(state["trainable"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.epoch = int(state["epoch"])

    def _inputs(self, source: ClipSource) -> Inputs:
        return Inputs(
            model=self.model,
            source=source,
            depth=self.attached.first_depth,
            lead=self._lead,
            device=self._device,
            precision=self.recipe.precision,
            on_batch=self._on_batch,
        )

    def _fill_cache(self) -> None:
        """Take features of the coming epoch's view, and of the evaluation's."""
        if self._cache is None:
            return
        view = self._view_of(self.epoch + 1)
        if view is not None and view != self._view:
            self._train, self._view = self._with_features(self._train, view), view
        if self._val.features is None:
            self._val = self._with_features(self._val, EVALUATION_VIEW)

    def _view_of(self, epoch: int) -> int | None:
        """Which view that can be kept an epoch sees; None where it draws a new one.

        A probe without fixed views learns from the evaluation view: that is what it is.
        """
        num_views = self._train.source.train_views
        if num_views is None:
            return EVALUATION_VIEW if self.is_probe else None
        return (epoch - 1) % num_views + 1

    def _with_features(self, inputs: Inputs, view: int) -> Inputs:
        assert self._cache is not None
        bare = replace(inputs, features=None)
        kept = self._cache.get(bare, view=view, batch_size=self._eval_batch_size)
        return replace(bare, features=kept)

    def _train_epoch(self, epoch: int) -> float:
        shuffle = seeded(self.seed, "order", epoch)
        order = torch.randperm(len(self._labels), generator=shuffle)
        batches = torch.split(order, self._batch_size)[: self._steps]
        mine = [batch.tensor_split(self.world_size)[self.rank] for batch in batches]
        parts = [share.tensor_split(min(self._num_parts, len(share))) for share in mine]

        def read(indices: Tensor) -> Tensor:
            return self._train.read(indices, epoch=epoch, train=True)

        losses = torch.zeros(self._steps, device=self._device)
        self._set_modes()
        with self._seeded_depth(epoch):
            reads = read_ahead(read, [part for share in parts for part in share], self._device)
            for step, share in enumerate(parts):
                self._set_learning_rate((epoch - 1) * self._steps + step)
                with nullcontext() if self._profile is None else self._profile.step():
                    losses[step] = self._step(share, reads, len(batches[step]))
                if (step + 1) % _CHECK_EVERY == 0 or step + 1 == self._steps:
                    self._check_finite(losses, epoch, step)
        return float(losses.mean())

    def _set_modes(self) -> None:
        """Train above the frozen part only: below, nothing is random."""
        self.model.train()
        for site, block in self.model.block_modules():
            block.train(site.stage > self.attached.first_depth)

    def _step(
        self, parts: Sequence[Tensor], reads: Iterator[Callable[[], Tensor]], num_clips: int
    ) -> Tensor:
        """Train on a share of a step's `num_clips`, part by part; `reads` gives their rows."""
        self._optimizer.zero_grad(set_to_none=True)
        losses = [
            self._add_gradient(part, read, num_clips, is_last=number == len(parts))
            for number, (part, read) in enumerate(zip(parts, reads, strict=False), start=1)
        ]
        with self._phase(OPTIMISER):
            if self.recipe.grad_clip is not None:
                nn.utils.clip_grad_norm_(self.attached.trainable.values(), self.recipe.grad_clip)
            self._optimizer.step()
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def _add_gradient(
        self, indices: Tensor, read: Callable[[], Tensor], num_clips: int, *, is_last: bool
    ) -> Tensor:
        """Run some of a step's clips forward and backward; give their part of its loss."""
        with self._phase(DATA):
            rows = read()
            labels = self._labels[indices.to(self._device)]
        with nullcontext() if is_last else self._without_sync():
            with self._phase(FORWARD):
                x = self._train.enter(rows)
                with autocast(self._device, self.recipe.precision):
                    logits_BK = self._network(x)
                loss = cross_entropy(
                    logits_BK.float(),
                    labels,
                    reduction="sum",
                    label_smoothing=self.recipe.label_smoothing,
                )
                # DDP averages over the workers, whose shares of the batch may differ by a clip.
                loss = loss * (self.world_size / num_clips)
            with self._phase(BACKWARD):
                loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _without_sync(self) -> contextlib.AbstractContextManager[None]:
        """Keep the gradients to this worker: they are averaged with those of the last part."""
        if isinstance(self._network, DistributedDataParallel):
            return self._network.no_sync()
        return nullcontext()

    def _set_learning_rate(self, step: int) -> None:
        factor = learning_rate_factor(
            self.recipe.schedule,
            step,
            total_steps=self.num_epochs * self._steps,
            warmup_steps=self.recipe.warmup_epochs * self._steps,
        )
        for group in self._optimizer.param_groups:
            group["lr"] = self._learning_rate * factor

    def _check_finite(self, losses: Tensor, epoch: int, step: int) -> None:
        """Look at the latest losses, of all workers, so that all of them stop together."""
        start = step - step % _CHECK_EVERY
        latest = losses[start : step + 1]
        if self.world_size > 1:
            dist.all_reduce(latest)
            latest /= self.world_size
        bad = (~latest.isfinite()).nonzero()
        if len(bad):
            raise TrainingDiverged(
                f"training diverged: the loss is {float(latest[bad[0]])} in epoch {epoch}, "
                f"step {start + int(bad[0]) + 1} of {self._steps}; "
                f"try a smaller learning rate than {self._learning_rate:g}"
            )

    @contextlib.contextmanager
    def _seeded_depth(self, epoch: int) -> Iterator[None]:
        """Stochastic depth draws from the global generator: seed it, and leave it as it was."""
        if self.recipe.drop_path == 0:
            yield
            return
        with torch.random.fork_rng():
            seed = seeded(self.seed, "drop_path", epoch, self.rank).initial_seed()
            torch.manual_seed(seed)
            yield


def _check_clips(model: Backbone, train: ClipSource, val: ClipSource) -> None:
    num_classes = model.head.out_features
    for name, source in (("training", train), ("validation", val)):
        if len(source) == 0:
            raise DataError(f"there are no {name} clips")
        if int(source.labels.max()) >= num_classes:
            raise DataError(
                f"a {name} clip has label {int(source.labels.max())}, "
                f"but the classifier has {num_classes} classes"
            )
