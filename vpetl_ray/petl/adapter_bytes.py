"""The size of a config's adapter file to the byte, before anything is trained."""

import json
from collections.abc import Mapping
from functools import lru_cache
from math import prod
from typing import Any, Final

import torch

from vpetl_ray.models.build import build_model
from vpetl_ray.petl.adapter_file import HASH_LENGTH, make_header
from vpetl_ray.petl.attach import HEAD, make_placements
from vpetl_ray.petl.config import PetlConfig
from vpetl_ray.petl.method import Arch, Backbone

Shapes = Mapping[str, tuple[int, ...]]

BYTES_A_NUMBER: Final = 4
"""Adapter files hold float32."""
_LENGTH_FIELD = 8
"""In front of the header: how long it is."""
_ALIGNMENT = 8
"""What the header's length is rounded up to, with spaces."""


def count_adapter_bytes(
    config: PetlConfig, arch: Arch, num_classes: int, metadata: Mapping[str, Any] | None = None
) -> int:
    """Count the bytes of the file that `save_adapter` would write.

    Args:
        config: as it would be attached.
        arch: the backbone.
        num_classes: outputs of the classifier, which is in the file, trained or not.
        metadata: the facts that will be kept beside: their text counts.

    Raises:
        VpetlError: the config does not fit the architecture.

    """
    config.check(arch)
    header = make_header(
        config,
        arch=arch.name,
        num_classes=num_classes,
        backbone_hash="0" * HASH_LENGTH,
        metadata=metadata,
    )
    return _file_bytes(_saved_shapes(config, arch, num_classes), header)


def _saved_shapes(config: PetlConfig, arch: Arch, num_classes: int) -> Shapes:
    """Name the tensors of `Attached.state_dict`: the branches are built, the backbone is not."""
    model = _empty_model(arch, num_classes)
    placements = make_placements(config, model, seed=0)
    trained = (named for placement in placements for named in placement.parameters())
    head = ((f"{HEAD}.{name}", parameter) for name, parameter in model.head.named_parameters())
    return {name: tuple(parameter.shape) for name, parameter in (*trained, *head)}


@lru_cache(maxsize=4)
def _empty_model(arch: Arch, num_classes: int) -> Backbone:
    """Build the backbone without memory for its numbers."""
    with torch.device("meta"):
        return build_model(arch, num_classes)


def _file_bytes(shapes: Shapes, header: Mapping[str, str]) -> int:
    """As safetensors writes it: its header is JSON without spaces, tensors by name."""
    entries: dict[str, Any] = {"__metadata__": dict(header)}
    end = 0
    for name in sorted(shapes):
        start, end = end, end + BYTES_A_NUMBER * prod(shapes[name])
        entries[name] = {"dtype": "F32", "shape": shapes[name], "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    return _LENGTH_FIELD + -(-len(text) // _ALIGNMENT) * _ALIGNMENT + end
