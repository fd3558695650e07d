"""What an adapter file says of itself besides its tensors: enough to use it on a video."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

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
    def of(cls, extra: Any, path: object, *, num_classes: int) -> Self:
        """Read them from a header's `extra`.

        Args:
            extra: as `adapter_file.read_header` gives it.
            path: of the file, for the message.
            num_classes: outputs of its classifier.

        Raises:
            CheckpointError: it is a file of an older version, which said less, or what it says is
                of another kind or contradicts the classifier.

        """
        if not isinstance(extra, Mapping):
            raise CheckpointError(f"{path}: its extra must be a mapping, got {short_repr(extra)}")
        names = tuple(cls.__dataclass_fields__)
        missing = [name for name in names if name not in extra]
        if missing:
            raise CheckpointError(
                f"{path}: does not say {', '.join(missing)}, which it takes to use it on a video; "
                "it is of an older version: train it again with vpetl_ray.finetune"
            )
        for name, (is_right, what) in _CHECKS.items():
            if not is_right(extra[name]):
                raise CheckpointError(
                    f"{path}: its {name} must be {what}, got {short_repr(extra[name])}"
                )
        if len(extra["classes"]) != num_classes:
            raise CheckpointError(
                f"{path}: names {len(extra['classes'])} classes, its classifier has {num_classes}"
            )
        values = {name: extra[name] for name in names}
        return cls(**{**values, "classes": tuple(extra["classes"])})


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_whole_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _are_names(value: object) -> bool:
    """Whether these are texts, at least one and each once."""
    return (
        isinstance(value, list) and all(map(_is_text, value)) and 0 < len(value) == len(set(value))
    )


def _is_clip(value: object) -> bool:
    """Whether the keys are those of `DataFacts.clip`; what values are allowed, `ClipSpec` says."""
    return isinstance(value, Mapping) and set(value) == _CLIP_KEYS


def short_repr(value: object) -> str:
    """As much of a value as a message has room for."""
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


_MAX_SHOWN: Final = 60
_LONGEST_PATH: Final = 4096
_CLIP_KEYS: Final = {"frames", "stride", "short_side", "sampling"}
_CHECKS: Final[Mapping[str, tuple[Callable[[Any], bool], str]]] = {
    "weights": (
        lambda value: _is_text(value) and len(value) <= _LONGEST_PATH,
        f"text of at most {_LONGEST_PATH} characters",
    ),
    "data": (_is_text, "text"),
    "clip": (_is_clip, f"a mapping of {', '.join(sorted(_CLIP_KEYS))}"),
    "size": (_is_whole_number, "a whole number"),
    "segments": (_is_whole_number, "a whole number"),
    "crops": (_is_whole_number, "a whole number"),
    "seed": (_is_whole_number, "a whole number"),
    "classes": (_are_names, "a list of different texts"),
    "precision": (lambda value: value in ("fp32", "bf16"), "fp32 or bf16"),
}
"""What each field must be. `trial` names files: who makes one of it checks it there."""
