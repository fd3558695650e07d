"""What an adapter file says of itself besides its tensors: enough to use it on a video."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from vpetl_ray.errors import CheckpointError


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """What all trials of a search have in common, for the adapter file of each."""

    weights: str
    """The backbone's weights: `demo`, or the path of their file where they were trained."""
    data: str
    """The kind of data set, as specs name it."""
    clip: Mapping[str, int | str]
    """frames, stride, short_side and sampling: what of a video is decoded."""
    size: int
    """Height and width of what the model sees, in pixels."""
    segments: int
    """Clips along a video, in final figures."""
    crops: int
    """Crops of each of them."""


def adapter_facts(
    common: DataFacts | None, *, trial: str, seed: int, classes: list[str], precision: str
) -> dict[str, Any]:
    """Put together the facts of one adapter file; their text is part of its size."""
    own: dict[str, Any] = {"trial": trial, "seed": seed, "classes": classes, "precision": precision}
    return {**own, **asdict(common)} if common else own


@dataclass(frozen=True, kw_only=True)
class ModelFacts(DataFacts):
    """What a file says that `adapter_facts` described."""

    trial: str
    seed: int
    classes: tuple[str, ...]
    """Names, in the order of the classifier's outputs."""
    precision: str
    """fp32 or bf16: how it was evaluated."""

    @classmethod
    def of(cls, extra: Mapping[str, Any], path: object) -> Self:
        """Read them from a header's `extra`.

        Args:
            extra: as `adapter_file.read_header` gives it.
            path: of the file, for the message.

        Raises:
            CheckpointError: it is a file of an older version, which said less.

        """
        names = tuple(cls.__dataclass_fields__)
        missing = [name for name in names if name not in extra]
        if missing:
            raise CheckpointError(
                f"{path}: does not say {', '.join(missing)}, which it takes to use it on a video; "
                "it is of an older version: train it again with vpetl_ray.finetune"
            )
        values = {name: extra[name] for name in names}
        return cls(**{**values, "classes": tuple(extra["classes"])})
