"""A model as one safetensors file that needs no other: backbone, branches, classifier."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

from vpetl_ray.errors import CheckpointError
from vpetl_ray.models.arch import get_arch
from vpetl_ray.models.build import build_model
from vpetl_ray.models.weight_checks import check_head, check_keys
from vpetl_ray.models.weight_family import HEAD
from vpetl_ray.petl.adapter_file import checked_config, parse_header, read_safetensors
from vpetl_ray.petl.attach import Attached, attach
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
    return read_safetensors(path, names=())[0].get("format") == FORMAT


def load_whole(path: Path) -> tuple[Attached, ModelFacts]:
    """Build what `save_whole` wrote, once its header and its tensors agree.

    Raises:
        CheckpointError: the file is broken, or of another version.

    """
    about, state = read_safetensors(path)
    header = parse_header(path, about, texts=("arch",))
    facts = ModelFacts.of(header["extra"], path, num_classes=header["num_classes"])
    arch = get_arch(header["arch"])
    head = {name: state[name] for name in HEAD if name in state}
    check_head(path, head, (header["num_classes"], arch.num_features))
    config = checked_config(path, header, arch, state)
    model = build_model(arch, header["num_classes"])
    attached = attach(model, config, seed=0)
    check_keys(path, state, {name: tuple(t.shape) for name, t in model.state_dict().items()})
    model.load_state_dict(state)
    return attached, facts
