"""A trained model that answers what is in a video."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from vpetl_ray.errors import CheckpointError, DataError, SpecError
from vpetl_ray.inference.find import find_weights
from vpetl_ray.inference.video_clips import VideoClips
from vpetl_ray.inference.whole_model import is_whole, load_whole
from vpetl_ray.models.arch import get_arch
from vpetl_ray.models.build import build_model
from vpetl_ray.models.checkpoints import load_backbone
from vpetl_ray.models.preprocess import clips_to_input
from vpetl_ray.models.weight_checks import check_head
from vpetl_ray.models.weight_family import HEAD as HEAD_TENSORS
from vpetl_ray.petl.adapter_file import hash_tensors, load_adapter, read_header, read_safetensors
from vpetl_ray.petl.attach import HEAD, Attached
from vpetl_ray.training.features import autocast
from vpetl_ray.training.model_facts import ModelFacts

Views = Literal["centre", "all"]
"""centre: the one view that trials are compared by. all: the mean over those of final figures."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a model says of one video."""

    video: str
    labels: tuple[str, ...]
    """Every class, the most probable first."""
    probabilities: tuple[float, ...]
    """One a label; they sum to 1."""

    @property
    def label(self) -> str:
        """The most probable class."""
        return self.labels[0]

    @property
    def probability(self) -> float:
        """Of the most probable class."""
        return self.probabilities[0]

    def top(self, number: int) -> list[tuple[str, float]]:
        """Give the most probable classes with their probabilities."""
        return list(zip(self.labels, self.probabilities, strict=True))[:number]


class VideoModel:
    """A frozen backbone with what was trained attached. Made by `load_model`.

    Attributes:
        facts: what the adapter file says of its data.
        attached: the config in the backbone, in evaluation mode.
        adapter: the file.
        weights: the backbone's file.

    """

    def __init__(
        self, attached: Attached, facts: ModelFacts, *, adapter: Path, weights: Path
    ) -> None:
        self.attached = attached
        self.facts = facts
        self.adapter = adapter
        self.weights = weights
        self.keep: object = None
        """What has to live as long as the model: the folder that it was downloaded into."""
        try:
            self.clips = VideoClips(facts)
        except DataError as error:
            raise CheckpointError(f"{adapter}: what it says of clips is wrong: {error}") from error
        attached.model.eval().requires_grad_(requires_grad=False)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names, in the order of the logits."""
        return self.facts.classes

    def predict(self, video: str | Path, *, views: Views = "centre") -> Prediction:
        """Classify one video file, decoded and cropped as in the search's evaluation.

        Args:
            video: any file that PyAV opens.
            views: how much of it is seen.

        Raises:
            DataError: it cannot be read.

        """
        [answer] = self.predict_many([video], views=views)
        if isinstance(answer, DataError):
            raise answer
        return answer

    def predict_many(
        self, videos: Iterable[str | Path], *, views: Views = "centre", batch_size: int = 16
    ) -> Iterator[Prediction | DataError]:
        """Classify files in order; of one that cannot be read, the answer is why.

        Args:
            videos: any number.
            views: how much of each is seen.
            batch_size: files whose clips are in memory at a time.

        """
        remaining = iter(videos)
        while paths := list(islice(remaining, batch_size)):
            seen = [self._read(path, views) for path in paths]
            good = [clips for clips in seen if isinstance(clips, Tensor)]
            rows = iter(self._probabilities(good))
            for path, clips in zip(paths, seen, strict=True):
                yield clips if isinstance(clips, DataError) else self._answer(path, next(rows))

    def logits(self, clips_u8_BTHWC: Tensor) -> Tensor:
        """Give the logits of clips as bytes: fp32 (B, K), in the precision of the evaluation."""
        model = self.attached.model
        device = model.head.weight.device
        with torch.inference_mode(), autocast(device, self.facts.precision):
            logits_BK: Tensor = model(clips_to_input(clips_u8_BTHWC.to(device)))
        return logits_BK.float()

    def _read(self, path: str | Path, views: Views) -> Tensor | DataError:
        try:
            return (
                self.clips.centre(path)[None] if views == "centre" else self.clips.all_views(path)
            )
        except DataError as error:
            return error

    def _probabilities(self, videos: Sequence[Tensor]) -> list[Tensor]:
        """Give (K,) of each video: the mean over its views."""
        if not videos:
            return []
        probabilities_BK = self.logits(torch.cat(list(videos))).softmax(1).cpu()
        parts = torch.split(probabilities_BK, [len(clips) for clips in videos])
        return [part.mean(0) for part in parts]

    def _answer(self, path: str | Path, probabilities_K: Tensor) -> Prediction:
        order = probabilities_K.argsort(descending=True, stable=True).tolist()
        return Prediction(
            video=str(path),
            labels=tuple(self.classes[k] for k in order),
            probabilities=tuple(probabilities_K[k].item() for k in order),
        )


def load_model(
    adapter: Path, *, backbone: Path | None = None, device: str | torch.device | None = None
) -> VideoModel:
    """Build the backbone, load its weights, check that they are the right ones, attach.

    Args:
        adapter: the file, or one that `save_whole` wrote.
        backbone: its weights; by default where `find_weights` finds them.
        device: by default a GPU where there is one.

    Raises:
        CheckpointError: a file is missing or broken, or the weights are others than in training.
        SpecError: there is no such device.

    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    _check_device(device)
    if is_whole(adapter):
        attached, own = load_whole(adapter)
        attached.model.to(device)
        return VideoModel(attached, own, adapter=adapter, weights=adapter)
    header = read_header(adapter)
    num_classes, arch = header["num_classes"], get_arch(header["arch"])
    facts = ModelFacts.of(header["extra"], adapter, num_classes=num_classes)
    _, head = read_safetensors(adapter, names=HEAD_TENSORS)
    check_head(adapter, head, (num_classes, arch.num_features))  # before so large a one is built
    what = f"the backbone {header['arch']} with the hash {header['backbone']}"
    weights = find_weights(facts.weights, adapter, backbone, what=what)
    model = build_model(arch, num_classes)
    load_backbone(model, weights)
    _check_hash(adapter, header, facts, weights, model.state_dict())
    attached = load_adapter(adapter, model, check_backbone=False)
    model.to(device)
    return VideoModel(attached, facts, adapter=adapter, weights=weights)


def _check_device(device: str | torch.device) -> None:
    try:
        torch.zeros(1, device=device).item()  # which a device without memory (meta) refuses
    except (RuntimeError, AssertionError) as error:  # the latter from a torch without CUDA
        raise SpecError(
            f"device: must be one that torch has here, such as cpu or cuda:0, got {str(device)!r}"
        ) from error


def _check_hash(
    adapter: Path,
    header: Mapping[str, Any],
    facts: ModelFacts,
    weights: Path,
    state: Mapping[str, Tensor],
) -> None:
    own = {name: tensor for name, tensor in state.items() if not name.startswith(f"{HEAD}.")}
    found = hash_tensors(own)
    if found != header["backbone"]:
        raise CheckpointError(
            f"{adapter}: was trained on the backbone {Path(facts.weights).name} with the hash "
            f"{header['backbone']}; {weights} is another one, its hash is {found}"
        )
