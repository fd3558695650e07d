"""Batches as they enter the part of the model that changes, and features computed once.

Below the first trainable position everything is frozen and runs as in evaluation (no stochastic
depth), so its output for a fixed view is the same in every epoch of every trial.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import torch
from torch import Tensor

from vpetl_ray.models.backbone import NO_LEAD, Lead
from vpetl_ray.models.preprocess import clips_to_input
from vpetl_ray.petl.adapter_file import hash_tensors
from vpetl_ray.petl.method import Backbone
from vpetl_ray.training.clips import ClipSource, NamedSource
from vpetl_ray.training.feature_store import FeatureStore, StoredFeatures

DEFAULT_MAX_BYTES: Final = 1 << 30
"""Memory that one worker's features may take; those of a feature store take none of a CPU's."""
EVALUATION_VIEW: Final = 0
"""Beside those of training, which are counted from 1 as epochs are."""
_FORMAT: Final = 1
"""To be raised when the same facts come to give other features."""


def nobody_asks() -> None:
    """Take no notice: what `on_batch` is where nobody watches over the training."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Reads batches of one source as they enter stage `depth` + 1, or leave its frozen lead."""

    model: Backbone
    source: ClipSource
    depth: int
    device: torch.device
    precision: str = "fp32"
    lead: Lead = NO_LEAD
    """How much of stage `depth` + 1 is frozen, too."""
    features: Tensor | None = None
    """(N, ...) what `FeatureCache.get` gave; None reads clips and runs the frozen prefix."""
    on_batch: Callable[[], None] = nobody_asks
    """Called with every batch that enters: a sign of life."""

    def batch(self, indices: Sequence[int] | Tensor, *, epoch: int, train: bool) -> Tensor:
        """(B, ...) what enters stage depth + 1, on the device, without gradient.

        The frozen prefix must be in evaluation mode; changing modes at every step is too slow.
        """
        return self.enter(self.read(indices, epoch=epoch, train=train))

    def read(self, indices: Sequence[int] | Tensor, *, epoch: int, train: bool) -> Tensor:
        """Features, or clips as uint8, on the device: what `enter` takes."""
        if self.features is not None:
            rows = self.features[torch.as_tensor(indices, device=self.features.device)]
            return to_device(rows, self.device)
        return to_device(self.source.batch(indices, epoch=epoch, train=train), self.device)

    def enter(self, rows: Tensor) -> Tensor:
        """Run the frozen part, where `read` gave clips."""
        self.on_batch()
        if self.features is not None:
            return rows
        video = clips_to_input(rows)
        if self.depth == 0:
            return video
        with torch.no_grad(), autocast(self.device, self.precision):
            return self.model.forward_prefix(video, self.depth, self.lead)

    def logits(self, x: Tensor) -> Tensor:
        """(B, K) from what `batch` gave."""
        return self.model.forward_suffix(x, self.depth, self.lead)


class FeatureCache:
    """Features of a frozen prefix, shared by all epochs and trials of one worker.

    An entry belongs to a model, a source, a view, a depth and a precision; hold on to the source,
    a new object is another source. The least recently used entries go when the limit is reached.

    Args:
        max_bytes: of all entries in memory together; what does not fit is not kept.
        store: where they are on the disk, for other workers too; of sources that have an id.

    """

    def __init__(
        self, max_bytes: int = DEFAULT_MAX_BYTES, store: FeatureStore | None = None
    ) -> None:
        self.max_bytes = max_bytes
        self.store = store
        self._entries: OrderedDict[tuple[object, ...], _Entry] = OrderedDict()
        self._hashes: dict[tuple[int, int, Lead], str] = {}

    @property
    def num_bytes(self) -> int:
        """Bytes of memory held now."""
        return sum(entry.num_bytes for entry in self._entries.values())

    def get(self, inputs: Inputs, *, view: int, batch_size: int) -> Tensor | None:
        """Features of every clip of a source, computed at the first call.

        Args:
            inputs: the model, source, depth, device and precision.
            view: of training, from 1, or `EVALUATION_VIEW`.
            batch_size: clips a step while computing.

        Returns:
            (N, ...) on the device, or mapped on the CPU; None where the limits are too small.

        """
        if inputs.depth == 0 or len(inputs.source) == 0:
            return None
        self._drop_evicted()
        where = (inputs.depth, inputs.lead)
        key = (id(inputs.model), id(inputs.source), view, where, inputs.precision)
        entry = self._entries.get(key)
        if entry is None:
            entry = self._stored(inputs, view, batch_size) or self._computed(
                inputs, view, batch_size
            )
            if entry is None:
                return None
            self._entries[key] = entry
        self._entries.move_to_end(key)
        return entry.features

    def clear(self) -> None:
        """Forget everything in memory: for when the backbone gets other weights."""
        self._entries.clear()
        self._hashes.clear()

    def _drop_evicted(self) -> None:
        """Let go of files that are not in the store any more, whose room we would hold."""
        for key, entry in list(self._entries.items()):
            if entry.stored is not None and not entry.stored.is_kept:
                del self._entries[key]

    def _stored(self, inputs: Inputs, view: int, batch_size: int) -> "_Entry | None":
        if self.store is None or not isinstance(inputs.source, NamedSource):
            return None
        facts: dict[str, Any] = {
            "format": _FORMAT,
            "clips": inputs.source.id,
            "view": view,
            "arch": inputs.model.arch.name,
            "weights": self._hash_prefix(inputs.model, inputs.depth, inputs.lead),
            "depth": inputs.depth,
            "lead": asdict(inputs.lead),
            "precision": inputs.precision,
            "device": inputs.device.type,
            "torch": torch.__version__,
        }
        with _Evaluating(inputs.model):
            found = self.store.get(
                facts,
                num_clips=len(inputs.source),
                chunk=batch_size,
                compute=lambda start, stop: _run_prefix(inputs, view, start, stop),
            )
        if found is None:
            return None
        fits = found.tensor.nbytes <= self.max_bytes
        if inputs.device.type == "cpu" or not fits or not self._make_room(found.tensor.nbytes):
            return _Entry(inputs.model, inputs.source, found.tensor, stored=found)
        return _Entry(inputs.model, inputs.source, found.tensor.to(inputs.device))

    def _computed(self, inputs: Inputs, view: int, batch_size: int) -> "_Entry | None":
        num_clips = len(inputs.source)
        features: Tensor | None = None
        with _Evaluating(inputs.model):
            for start in range(0, num_clips, batch_size):
                stop = min(start + batch_size, num_clips)
                x = _run_prefix(inputs, view, start, stop)
                if features is None:
                    if not self._make_room(x[0].nbytes * num_clips):
                        return None
                    features = x.new_empty((num_clips, *x.shape[1:]))
                features[start:stop] = x
        assert features is not None
        return _Entry(inputs.model, inputs.source, features)

    def _hash_prefix(self, model: Backbone, depth: int, lead: Lead) -> str:
        """Tell the weights of the frozen part from others; they are read once."""
        key = (id(model), depth, lead)
        if key not in self._hashes:
            last = sum(model.arch.depths[:depth]) + lead.blocks + lead.has_start
            own = [
                tensor.name
                for tensor in model.arch.own_tensors()
                if tensor.stage <= depth or (tensor.block is not None and tensor.block <= last)
            ]
            tensors = dict(model.named_parameters())
            self._hashes[key] = hash_tensors({name: tensors[name] for name in own})
        return self._hashes[key]

    def _make_room(self, num_bytes: int) -> bool:
        if num_bytes > self.max_bytes:
            return False
        while self.num_bytes + num_bytes > self.max_bytes:
            self._entries.popitem(last=False)
        return True


def _run_prefix(inputs: Inputs, view: int, start: int, stop: int) -> Tensor:
    is_training = view != EVALUATION_VIEW
    return inputs.batch(torch.arange(start, stop), epoch=view, train=is_training)


class _Evaluating:
    """The model in evaluation mode for the length of a block."""

    def __init__(self, model: Backbone) -> None:
        self._model = model

    def __enter__(self) -> None:
        self._was_training = self._model.training
        self._model.eval()

    def __exit__(self, *_: object) -> None:
        self._model.train(self._was_training)


@dataclass(frozen=True)
class _Entry:
    model: Backbone  # held, so that its id stays its own
    source: ClipSource
    features: Tensor
    stored: StoredFeatures | None = None

    @property
    def num_bytes(self) -> int:
        """Of memory: what is mapped belongs to the system's page cache."""
        return 0 if self.stored is not None else self.features.nbytes


def to_device(rows: Tensor, device: torch.device) -> Tensor:
    """Move a batch; through pinned memory where that lets the device go on meanwhile."""
    if device.type == "cuda" and rows.device.type == "cpu":
        return rows.pin_memory().to(device, non_blocking=True)
    return rows.to(device, non_blocking=True)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Run in bf16 where that is asked for."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")
