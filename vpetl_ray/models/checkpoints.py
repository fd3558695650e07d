"""Weights in and out of a backbone. Every failure is one CheckpointError that says what to do.

A file is read (`weight_files`), its keys are put into our names by the family that it is of
(`swin_weights`, `vit_weights`), compared with what the architecture needs, and only then copied:
a refused file leaves the model as it was.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vpetl_ray.errors import CheckpointError
from vpetl_ray.models.arch import Arch, SwinArch, ViTArch, arch_from_dict, arch_to_dict
from vpetl_ray.models.backbone import Backbone
from vpetl_ray.models.build import build_model
from vpetl_ray.models.swin_weights import SwinWeights
from vpetl_ray.models.vit_weights import ViTWeights
from vpetl_ray.models.weight_checks import check_head, check_keys, check_network, check_values
from vpetl_ray.models.weight_family import HEAD, OURS, Network, WeightFamily
from vpetl_ray.models.weight_files import read_weight_file

FAMILIES: Mapping[type[Arch], WeightFamily[Any]] = {
    SwinArch: SwinWeights(),
    ViTArch: ViTWeights(),
}
"""Each family's numbers, and how its weights are read."""


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What `load_backbone` found and did."""

    path: str
    """Absolute path of the file."""
    format: str
    """Which kind of file it is, as `swin_weights` and `vit_keys` name them."""
    num_tensors: int
    """Tensors copied into the model."""
    num_parameters: int
    """Their numbers."""
    dtype: str
    """How the file stores them, for instance float16."""
    has_loaded_head: bool
    """Whether the classifier was copied too."""
    notes: tuple[str, ...]
    """What was changed on the way (inflated, resized, left out), one sentence each."""
    metadata: Mapping[str, str]
    """What the file says about itself (safetensors only)."""


def load_backbone(
    model: Backbone, path: str | os.PathLike[str], *, load_head: bool = False
) -> LoadReport:
    """Copy the weights of a file into `model`, keeping the model's dtype and device.

    Branches attached to the model are left alone.

    Args:
        model: where to.
        path: a file in one of the formats that `swin_weights` and `vit_keys` name, or from
            `save_backbone`.
        load_head: also copy the classifier, which must then be there and fit.

    Raises:
        CheckpointError: the file is missing, broken, holds code or NaN, or fits another network.

    """
    path = Path(path).expanduser().absolute()
    raw, metadata = read_weight_file(path)
    found, tensors, notes = _fit(path, raw, metadata, model.arch)
    head = {key: tensors.pop(key) for key in HEAD if key in tensors}
    check_keys(path, tensors, _shapes(model.arch))
    if load_head:
        check_head(path, head, tuple(model.head.weight.shape))
        tensors.update(head)
    elif head:
        notes.append(f"its classifier of {len(next(iter(head.values())))} classes was left out")
    check_values(path, tensors)
    with torch.no_grad():
        for key, tensor in tensors.items():
            model.get_parameter(key).copy_(tensor)
    return LoadReport(
        path=str(path),
        format=found,
        num_tensors=len(tensors),
        num_parameters=sum(tensor.numel() for tensor in tensors.values()),
        dtype=str(tensors["patch_embed.proj.weight"].dtype).removeprefix("torch."),
        has_loaded_head=load_head,
        notes=tuple(notes),
        metadata=metadata,
    )


def save_backbone(
    model: Backbone,
    path: str | os.PathLike[str],
    *,
    metadata: Mapping[str, str] | None = None,
    dtype: torch.dtype | None = None,
    with_head: bool = False,
) -> Path:
    """Write the backbone as safetensors, whole or not at all.

    Args:
        model: whose weights; branches attached to it are left out.
        path: where to; its folder must exist.
        metadata: strings kept in the file; the architecture is added to them.
        dtype: stored precision (torch.float16 halves the file), by default the model's.
        with_head: also store the classifier.

    Raises:
        CheckpointError: the file cannot be written.

    """
    from safetensors.torch import save_file  # noqa: PLC0415  (only needed here)

    path = Path(path).expanduser().absolute()
    tensors = _backbone_tensors(model)
    if with_head:
        tensors.update({key: model.get_parameter(key).detach() for key in HEAD})
    stored = {key: tensor.to("cpu", dtype).contiguous() for key, tensor in tensors.items()}
    about = {
        **(metadata or {}),
        "format": OURS,
        "version": "1",
        "arch": json.dumps(arch_to_dict(model.arch)),
    }
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        save_file(stored, partial, metadata=about)
        partial.replace(path)
    except Exception as error:
        partial.unlink(missing_ok=True)
        raise CheckpointError(f"{path}: cannot be written ({error})") from error
    return path


def weights_fingerprint(source: Backbone | str | os.PathLike[str], arch: Arch | None = None) -> str:
    """Sha-256 (hex) over the names, shapes and float32 values of the backbone, without classifier.

    A model and the file it was loaded from have the same one, whatever the file's format and
    precision, so it keys feature caches and tells an adapter its backbone. Take it before anything
    of the backbone itself is tuned.

    Args:
        source: a model, or the path of a weights file.
        arch: what to load the file as; by default what the file says or its shapes tell.

    Raises:
        CheckpointError: the file cannot be read, or fits no architecture.

    """
    tensors = (
        _backbone_tensors(source)
        if isinstance(source, Backbone)
        else _file_tensors(Path(source).expanduser().absolute(), arch)
    )
    digest = hashlib.sha256()
    for key in sorted(tensors):
        tensor = tensors[key].to("cpu", torch.float32).contiguous()
        digest.update(f"{key}{tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().data)
    return digest.hexdigest()


def _file_tensors(path: Path, arch: Arch | None) -> dict[str, Tensor]:
    raw, metadata = read_weight_file(path)
    arch = arch or _told_arch(path, raw, metadata)
    _, tensors, _ = _fit(path, raw, metadata, arch)
    tensors = {key: tensor for key, tensor in tensors.items() if key not in HEAD}
    check_keys(path, tensors, _shapes(arch))
    return tensors


def _told_arch(path: Path, raw: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Arch:
    """Tell the architecture of a file: our own say it, others by their shapes."""
    if metadata.get("format") == OURS:
        try:
            return arch_from_dict(json.loads(metadata["arch"]))
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: its metadata names no architecture") from error
    for family in FAMILIES.values():
        arch: Arch | None = family.known_arch(family.canonical(raw, metadata)[1])
        if arch is not None:
            return arch
    raise CheckpointError(f"{path}: fits no known architecture; say which it is")


def _fit(
    path: Path, raw: Mapping[str, Tensor], metadata: Mapping[str, str], arch: Arch
) -> tuple[str, dict[str, Tensor], list[str]]:
    """Give the format, the tensors in our names and sizes, and notes on what was changed."""
    family = FAMILIES[type(arch)]
    found, tensors = family.canonical(raw, metadata)
    asked = family.network_of_arch(arch)
    check_network(path, _network(path, raw, metadata, family), asked, arch.name)
    try:
        fitted, notes = family.fit(found, tensors, arch)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return found, fitted, notes


def _network(
    path: Path,
    raw: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    expected: WeightFamily[Any],
) -> Network:
    """Recognise the network of a file, most likely of the expected family."""
    for family in (expected, *FAMILIES.values()):
        network = family.network_of_weights(family.canonical(raw, metadata)[1])
        if network is not None:
            return network
    keys = ", ".join(list(expected.canonical(raw, metadata)[1])[:5])
    raise CheckpointError(f"{path}: these are no {expected.name} weights (first keys: {keys})")


def _shapes(arch: Arch) -> dict[str, tuple[int, ...]]:
    """Name and shape of every backbone tensor, without the classifier."""
    with torch.device("meta"):
        state = build_model(arch, 1).state_dict()
    return {key: tuple(tensor.shape) for key, tensor in state.items() if key not in HEAD}


def _backbone_tensors(model: Backbone) -> dict[str, Tensor]:
    return {key: model.get_parameter(key).detach() for key in _shapes(model.arch)}
