"""What was trained, as one safetensors file: the tensors, their config, and the backbone's hash."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from vpetl_ray.errors import CheckpointError, VpetlError
from vpetl_ray.petl.attach import Attached, attach
from vpetl_ray.petl.config import PetlConfig
from vpetl_ray.petl.count import count_trainable
from vpetl_ray.petl.method import Backbone

FORMAT: Final = "vpetl_ray adapter 1"
"""First thing in the file's metadata; another number is another layout."""


def save_adapter(
    path: Path | str, attached: Attached, metadata: Mapping[str, Any] | None = None
) -> None:
    """Write the trainable tensors and the classifier, and all that loading them needs.

    The file appears whole or not at all.

    Args:
        path: `.safetensors`.
        attached: what to save.
        metadata: JSON-able facts to keep beside (trial, accuracy, class names).

    """
    header = describe_adapter(attached, metadata)
    write_adapter(path, attached.state_dict(), header)


def describe_adapter(
    attached: Attached,
    metadata: Mapping[str, Any] | None = None,
    *,
    backbone_hash: str | None = None,
) -> dict[str, str]:
    """Make the metadata of an adapter file, e.g. in a worker, for the driver to write.

    Args:
        attached: what will be saved.
        metadata: JSON-able facts to keep beside.
        backbone_hash: where it is known; computing it reads every weight.

    """
    model = attached.model
    return make_header(
        attached.config,
        arch=model.arch.name,
        num_classes=model.head.out_features,
        backbone_hash=backbone_hash or hash_tensors(attached.backbone_state()),
        metadata=metadata,
    )


def make_header(
    config: PetlConfig,
    *,
    arch: str,
    num_classes: int,
    backbone_hash: str,
    metadata: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """Make the metadata of an adapter file from what it says, without a model."""
    return {
        "format": FORMAT,
        "config": json.dumps(config.to_dict()),
        "arch": arch,
        "num_classes": str(num_classes),
        "backbone": backbone_hash,
        "extra": json.dumps(dict(metadata or {})),
    }


def write_adapter(path: Path | str, state: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    """Write what `Attached.state_dict` and `describe_adapter` gave."""
    from safetensors.torch import save_file  # noqa: PLC0415 only who saves needs it

    path = Path(path)
    part = path.with_name(path.name + ".part")
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, part, dict(header))
    part.replace(path)


def read_header(path: Path | str) -> dict[str, Any]:
    """Read an adapter file's metadata: config (a dict), arch, num_classes, backbone, extra.

    Raises:
        CheckpointError: there is no such file, or it is none that `save_adapter` wrote.

    """
    return _read(path, with_tensors=False)[0]


def load_adapter(path: Path | str, model: Backbone, *, check_backbone: bool = True) -> Attached:
    """Attach the config of a file to a model and load its tensors.

    Args:
        path: written by `save_adapter`.
        model: the same architecture and number of classes; nothing attached.
        check_backbone: refuse a backbone with other weights than those it was trained on.

    Raises:
        CheckpointError: the file is missing or broken, or made for another model.

    """
    header, state = _read(path, with_tensors=True)
    expected = {"arch": model.arch.name, "num_classes": model.head.out_features}
    for key, value in expected.items():
        if header[key] != value:
            raise CheckpointError(f"{path}: made for {key} {header[key]}, this model has {value}")
    try:
        config = PetlConfig.from_dict(header["config"])
        _check_tensors(path, config, model, state)
    except CheckpointError:
        raise
    except (VpetlError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: its config is none: {error}") from error
    attached = attach(model, config, seed=0)
    try:
        if check_backbone:
            _check_backbone(path, attached, header["backbone"])
        attached.load_state_dict(state)
    except CheckpointError:
        attached.detach()
        raise
    return attached


def _check_backbone(path: Path | str, attached: Attached, expected: str) -> None:
    found = hash_tensors(attached.backbone_state())
    if found != expected:
        raise CheckpointError(
            f"{path}: trained on other backbone weights than this model has "
            f"(hash {expected}, here {found})"
        )


def _read(path: Path | str, *, with_tensors: bool) -> tuple[dict[str, Any], dict[str, Tensor]]:
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415 only who loads needs it

    try:
        with safe_open(path, framework="pt") as file:
            header = dict(file.metadata() or {})
            names = file.keys() if with_tensors else ()
            state = {name: file.get_tensor(name) for name in names}
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: there is no such file") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read as safetensors: {error}") from error
    if header.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: is no adapter file (its format is {header.get('format')!r}, not {FORMAT!r})"
        )
    values: dict[str, Any] = dict(header)
    try:
        values.update(config=json.loads(header["config"]), extra=json.loads(header["extra"]))
        values.update(num_classes=int(header["num_classes"]))
        values.update({key: header[key] for key in ("arch", "backbone")})
    except (KeyError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: its header is damaged ({error!r})") from error
    return values, state


def _check_tensors(
    path: Path | str, config: PetlConfig, model: Backbone, state: Mapping[str, Tensor]
) -> None:
    """Refuse what would take memory that the file does not account for, and NaN."""
    needed = count_trainable(config, model.arch, model.head.out_features).total
    found = sum(tensor.numel() for tensor in state.values())
    if needed > found:
        raise CheckpointError(
            f"{path}: its config has {needed:,} parameters, its tensors only {found:,}"
        )
    bad = [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]
    if bad:
        raise CheckpointError(f"{path}: {bad[0]} has NaN or infinite values")


HASH_LENGTH: Final = 16
"""Digits of what `hash_tensors` gives."""


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """16 hexadecimal digits over names, shapes and bits, whatever the order."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:HASH_LENGTH]
