"""What a weights file must pass before any of it is copied. Each fault is a CheckpointError."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from vpetl_ray.errors import CheckpointError
from vpetl_ray.models.weight_family import HEAD, Network

_SHOWN = 5
"""Keys a message names before it only counts."""
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_network(path: Path, found: Network, asked: Network, name: str) -> None:
    """Refuse weights of another network than the one called `name`, and say which they are of."""
    if found.widths != asked.widths or (found != asked and found.names):
        raise CheckpointError(
            f"{path}: these weights are {found}, the spec asks for {name} ({asked.numbers})"
        )


def check_keys(
    path: Path, tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Hold the file to exactly the tensors the architecture has, all faults in one message."""
    faults = []
    if missing := [key for key in shapes if key not in tensors]:
        faults.append(f"{_count(missing, 'missing tensor')}: {_name(missing)}")
    if extra := [key for key in tensors if key not in shapes]:
        faults.append(f"{_count(extra, 'unexpected tensor')}: {_name(extra)}")
    wrong = [
        f"{key} is {_size(tensors[key].shape)}, needed is {_size(shape)}"
        for key, shape in shapes.items()
        if key in tensors and tuple(tensors[key].shape) != shape
    ]
    if wrong:
        faults.append(f"{_count(wrong, 'tensor')} of another shape: {_name(wrong)}")
    if faults:
        raise CheckpointError(f"{path}: {'; '.join(faults)}")


def check_head(path: Path, head: Mapping[str, Tensor], asked: tuple[int, ...]) -> None:
    """Refuse a classifier that is not there or has other than the `asked` (classes, features)."""
    if len(head) < len(HEAD):
        raise CheckpointError(f"{path}: has no classifier to load")
    found = tuple(head[HEAD[0]].shape)
    if found != asked or head[HEAD[1]].shape != asked[:1]:
        raise CheckpointError(
            f"{path}: its classifier is {_size(found)} (classes x features), "
            f"the model has {_size(asked)}"
        )


def check_values(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse what is not stored as plain floats, NaN and infinite values."""
    coded = [f"{key} ({t.dtype})" for key, t in tensors.items() if t.dtype not in _FLOATS]
    if coded:
        raise CheckpointError(
            f"{path}: {_count(coded, 'tensor')} not stored as 16, 32 or 64-bit floats: "
            f"{_name(coded)}"
        )
    bad = [key for key, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if bad:
        raise CheckpointError(
            f"{path}: {_count(bad, 'tensor')} with NaN or infinite values: {_name(bad)}"
        )


def _name(things: list[str]) -> str:
    more = f" and {len(things) - _SHOWN} more" if len(things) > _SHOWN else ""
    return ", ".join(things[:_SHOWN]) + more


def _count(things: list[str], what: str) -> str:
    return f"{len(things)} {what}{'s' if len(things) > 1 else ''}"


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
