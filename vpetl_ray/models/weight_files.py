"""Reading a weights file that somebody else wrote, without running what is in it.

The kind of file is told by its first bytes, not by its name. Pickles are read with
`weights_only=True` and nothing else; whatever goes wrong is one CheckpointError.
"""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from vpetl_ray.errors import CheckpointError

_WRAPPERS = ("state_dict", "model", "module", "model_state", "model_state_dict")
"""Keys under which training programs put the weights beside their own state."""

_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"


def read_weight_file(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read every tensor of a .safetensors or torch file on CPU, and the file's metadata.

    Raises:
        CheckpointError: the file is missing, unreadable, truncated, or holds code.

    """
    if not path.is_file():
        kind = "is a folder, not a weights file" if path.is_dir() else "no such weights file"
        raise CheckpointError(f"{path}: {kind}")
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    if head[8:9] == b"{":  # first, since the length before it may begin like a pickle
        return _read_safetensors(path)
    if head.startswith((_ZIP, _PICKLE)):
        return _tensors_of(path, _read_torch(path)), {}
    found = "is empty" if not head else f"starts with {head!r}"
    raise CheckpointError(f"{path}: neither a safetensors nor a torch file (it {found})")


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415  (only needed here)

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            keys = list(file.keys())
            return {key: file.get_tensor(key) for key in keys}, file.metadata() or {}
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: truncated or corrupt safetensors file ({error})") from error


def _read_torch(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken or hostile pickle may raise anything
        code = re.search(r"GLOBAL (\S+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and code:
            raise CheckpointError(
                f"{path}: holds pickled code ({code[1]}), which is never run; "
                "keep only its tensors, best as safetensors"
            ) from error
        raise CheckpointError(
            f"{path}: truncated or corrupt torch file ({_first_line(error)})"
        ) from error


def _tensors_of(path: Path, content: object) -> dict[str, Tensor]:
    """Find the weights in what was unpickled: themselves, or under one of the usual keys."""
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not a table of weights")
    tables = (content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping))
    table: Mapping[object, object] = next(tables, content)
    tensors = {str(key): value for key, value in table.items() if isinstance(value, Tensor)}
    if not tensors:
        keys = ", ".join(str(key) for key in list(table)[:5]) or "none"
        raise CheckpointError(f"{path}: holds no weights (its keys: {keys})")
    return tensors


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
