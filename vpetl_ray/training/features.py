"""Batches as they enter the part of the model that changes, and features computed once.

Below the first trainable position everything is frozen and runs as in evaluation (no stochastic
depth), so its output for a fixed view is the same in every epoch of every trial.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from vpetl_ray.models.preprocess import clips_to_input
from vpetl_ray.petl.method import Backbone
from vpetl_ray.training.clips import ClipSource

DEFAULT_MAX_BYTES: Final = 1 << 30
"""Memory that one worker's features may take."""
FIXED_EPOCH: Final = 1
"""The epoch whose views are kept."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Reads batches of one source as they enter stage `depth` + 1."""

    model: Backbone
    source: ClipSource
    depth: int
    device: torch.device
    precision: str = "fp32"
    features: Tensor | None = None
    """(N, ...) what `FeatureCache.get` gave; None reads clips and runs the frozen prefix."""

    def batch(self, indices: Sequence[int] | Tensor, *, epoch: int, train: bool) -> Tensor:
        """(B, ...) what enters stage depth + 1, on the device, without gradient.

        The frozen prefix must be in evaluation mode; changing modes at every step is too slow.
        """
        if self.features is not None:
            return self.features[torch.as_tensor(indices, device=self.device)]
        clips_u8 = self.source.batch(indices, epoch=epoch, train=train)
        video = clips_to_input(clips_u8.to(self.device, non_blocking=True))
        if self.depth == 0:
            return video
        with torch.no_grad(), autocast(self.device, self.precision):
            return self.model.forward_prefix(video, self.depth)


class FeatureCache:
    """Features of a frozen prefix in memory, shared by all epochs and trials of one worker.

    An entry belongs to a model, a source, a depth and a precision; hold on to the source, a new
    object is another source. The least recently used entries go when the limit is reached.

    Args:
        max_bytes: of all entries together; what does not fit is not kept.

    """

    def __init__(self, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self.max_bytes = max_bytes
        self._entries: OrderedDict[tuple[object, ...], _Entry] = OrderedDict()

    @property
    def num_bytes(self) -> int:
        """Bytes held now."""
        return sum(entry.features.nbytes for entry in self._entries.values())

    def get(self, inputs: Inputs, *, train: bool, batch_size: int) -> Tensor | None:
        """Features of every clip of a source, computed at the first call.

        Args:
            inputs: the model, source, depth, device and precision.
            train: whether the views are those of training.
            batch_size: clips a step while computing.

        Returns:
            (N, ...) on the device; None where views are not fixed or the limit is too small.

        """
        if inputs.depth == 0 or len(inputs.source) == 0:
            return None
        if train and not inputs.source.fixed_views:
            return None
        key = (id(inputs.model), id(inputs.source), train, inputs.depth, inputs.precision)
        entry = self._entries.get(key)
        if entry is None:
            features = self._compute(inputs, train=train, batch_size=batch_size)
            if features is None:
                return None
            entry = self._entries[key] = _Entry(inputs.model, inputs.source, features)
        self._entries.move_to_end(key)
        return entry.features

    def clear(self) -> None:
        """Forget everything: for when the backbone gets other weights."""
        self._entries.clear()

    def _compute(self, inputs: Inputs, *, train: bool, batch_size: int) -> Tensor | None:
        was_training = inputs.model.training
        inputs.model.eval()
        try:
            return self._run_prefix(inputs, train=train, batch_size=batch_size)
        finally:
            inputs.model.train(was_training)

    def _run_prefix(self, inputs: Inputs, *, train: bool, batch_size: int) -> Tensor | None:
        num_clips = len(inputs.source)
        features: Tensor | None = None
        for start in range(0, num_clips, batch_size):
            indices = torch.arange(start, min(start + batch_size, num_clips))
            x = inputs.batch(indices, epoch=FIXED_EPOCH if train else 0, train=train)
            if features is None:
                if not self._make_room(x[0].nbytes * num_clips):
                    return None
                features = x.new_empty((num_clips, *x.shape[1:]))
            features[start : start + len(x)] = x
        return features

    def _make_room(self, num_bytes: int) -> bool:
        if num_bytes > self.max_bytes:
            return False
        while self.num_bytes + num_bytes > self.max_bytes:
            self._entries.popitem(last=False)
        return True


@dataclass(frozen=True)
class _Entry:
    model: Backbone  # held, so that its id stays its own
    source: ClipSource
    features: Tensor


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Run in bf16 where that is asked for."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")
