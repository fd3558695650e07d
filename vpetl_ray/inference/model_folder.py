"""A folder that holds one model: what `pick --out` writes and `vpetl_ray.load` reads."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

from vpetl_ray.errors import CheckpointError
from vpetl_ray.inference.find import ADAPTER, BACKBONE
from vpetl_ray.inference.video_model import load_model

CARD: Final = "MODEL_CARD.md"


def write_folder(
    directory: Path, adapter: Path, card: str, *, bundle: bool, backbone: Path | None = None
) -> int:
    """Write the adapter and its card, and with `bundle` the backbone's weights; it is loaded first.

    The folder appears whole or not at all.

    Args:
        directory: new.
        adapter: the file.
        card: Markdown.
        bundle: whether the folder is to need no other file.
        backbone: the weights, where they are not found by themselves.

    Returns:
        Bytes written.

    Raises:
        CheckpointError: it exists, cannot be written, or the backbone is missing or another one.

    """
    if directory.exists():
        raise CheckpointError(f"--out: {directory} exists already")
    model = load_model(adapter, backbone=backbone, device="cpu")
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    except OSError as error:
        raise CheckpointError(f"--out: {directory} cannot be made: {error.strerror}") from error
    try:
        shutil.copyfile(adapter, part / ADAPTER)
        (part / CARD).write_text(card, encoding="utf-8")
        if bundle:
            # As it is, whatever its format: the first bytes of a file tell it, not its name.
            shutil.copyfile(model.weights, part / BACKBONE)
        part.chmod(0o755)
        os.rename(part, directory)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        raise CheckpointError(f"--out: {directory} cannot be written: {error.strerror}") from error
    return sum(file.stat().st_size for file in directory.iterdir())
