"""What was trained, as one safetensors file: the tensors, their config, and the backbone's hash."""

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from vpetl_ray.errors import CheckpointError, VpetlError
from vpetl_ray.models.weight_checks import check_values
from vpetl_ray.petl.attach import Attached, attach
from vpetl_ray.petl.config import PetlConfig
from vpetl_ray.petl.count import count_trainable
from vpetl_ray.petl.method import Arch, Backbone

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
    return _adapter_header(path, read_safetensors(path, names=())[0])


def load_adapter(path: Path | str, model: Backbone, *, check_backbone: bool = True) -> Attached:
    """Attach the config of a file to a model and load its tensors.

    Args:
        path: written by `save_adapter`.
        model: the same architecture and number of classes; nothing attached.
        check_backbone: refuse a backbone with other weights than those it was trained on.

    Raises:
        CheckpointError: the file is missing or broken, or made for another model.

    """
    about, state = read_safetensors(path)
    header = _adapter_header(path, about)
    expected = {"arch": model.arch.name, "num_classes": model.head.out_features}
    for key, value in expected.items():
        if header[key] != value:
            raise CheckpointError(f"{path}: made for {key} {header[key]}, this model has {value}")
    config = checked_config(path, header, model.arch, state)
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


def read_safetensors(
    path: Path | str, *, names: Collection[str] | None = None
) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Read a file's metadata, and its tensors: all, or those of these names that it has.

    Raises:
        CheckpointError: there is no such file, or it is broken.

    """
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415 only who loads needs it

    try:
        with safe_open(path, framework="pt") as file:
            wanted = [name for name in file.keys() if names is None or name in names]  # noqa: SIM118
            return dict(file.metadata() or {}), {name: file.get_tensor(name) for name in wanted}
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: there is no such file") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read as safetensors: {error}") from error


def _adapter_header(path: Path | str, about: Mapping[str, str]) -> dict[str, Any]:
    if about.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: is no adapter file (its format is {about.get('format')!r}, not {FORMAT!r})"
        )
    return parse_header(path, about, texts=("arch", "backbone"))


def parse_header(
    path: Path | str, about: Mapping[str, str], *, texts: Collection[str]
) -> dict[str, Any]:
    """Parse a file's metadata: config and extra (JSON), num_classes, and these texts.

    Raises:
        CheckpointError: one is missing or of another kind.

    """
    try:
        return {
            **about,
            "config": json.loads(about["config"]),
            "extra": json.loads(about["extra"]),
            "num_classes": int(about["num_classes"]),
            **{key: about[key] for key in texts},
        }
    except (KeyError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: its header is damaged ({error!r})") from error


def checked_config(
    path: Path | str, header: Mapping[str, Any], arch: Arch, state: Mapping[str, Tensor]
) -> PetlConfig:
    """Read a header's config before anything of it is built.

    Raises:
        CheckpointError: it is none, takes memory that the file does not account for, or the
            file's tensors are no plain floats or not finite.

    """
    try:
        config = PetlConfig.from_dict(header["config"])
        needed = count_trainable(config, arch, header["num_classes"]).total
    except (VpetlError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: its config is none: {error}") from error
    found = sum(tensor.numel() for tensor in state.values())
    if needed > found:
        raise CheckpointError(
            f"{path}: its config has {needed:,} parameters, its tensors only {found:,}"
        )
    check_values(Path(path), state)
    return config


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
