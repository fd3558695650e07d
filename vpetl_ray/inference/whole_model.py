"""A model as one safetensors file that needs no other: backbone, branches, classifier."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from vpetl_ray.errors import CheckpointError
from vpetl_ray.models.arch import get_arch
from vpetl_ray.models.build import build_model
from vpetl_ray.petl.attach import Attached, attach
from vpetl_ray.petl.config import PetlConfig
from vpetl_ray.training.model_facts import ModelFacts

FORMAT: Final = "vpetl_ray model 1"
"""First thing in the file's metadata; another number is another layout."""


MERGED_METHODS: Final = ("lora",)
"""What `Attached.merge` folds into the frozen weights whole."""


def merge_what_can_be(attached: Attached) -> tuple[str, ...]:
    """Fold branches into the frozen weights; give the names of the methods that are gone."""
    names = {method.name for method in attached.config.methods} & set(MERGED_METHODS)
    if names:
        attached.merge()
    return tuple(sorted(names))


def save_whole(attached: Attached, facts: ModelFacts, path: Path) -> None:
    """Write a model in which `merge_what_can_be` was; `load_whole` reads it.

    Raises:
        CheckpointError: the file cannot be written.

    """
    from safetensors.torch import save_file  # noqa: PLC0415 only who saves needs it

    left = tuple(m for m in attached.config.methods if m.name not in MERGED_METHODS)
    config = replace(attached.config, methods=left, train_classifier=True)
    state = {name: t.detach().cpu().contiguous() for name, t in attached.model.state_dict().items()}
    about = {
        "format": FORMAT,
        "arch": attached.model.arch.name,
        "num_classes": str(attached.model.head.out_features),
        "config": json.dumps(config.to_dict()),
        "extra": json.dumps(asdict(facts)),
    }
    try:
        save_file(state, path, metadata=about)
    except Exception as error:
        raise CheckpointError(f"{path}: cannot be written ({error})") from error


def is_whole(path: Path) -> bool:
    """Whether a file is one that `save_whole` wrote."""
    return _metadata(path).get("format") == FORMAT


def load_whole(path: Path) -> tuple[Attached, ModelFacts]:
    """Build what `save_whole` wrote.

    Raises:
        CheckpointError: the file is broken, or of another version.

    """
    from safetensors.torch import load_file  # noqa: PLC0415

    about = _metadata(path)
    model = build_model(get_arch(about["arch"]), int(about["num_classes"]))
    attached = attach(model, PetlConfig.from_dict(json.loads(about["config"])), seed=0)
    state: Mapping[str, Tensor] = load_file(path)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: its tensors are of another config: {error}") from error
    return attached, ModelFacts.of(json.loads(about["extra"]), path)


def _metadata(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415

    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read as safetensors: {error}") from error
