"""`vpetl_ray.load`: a model by whatever names it."""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vpetl_ray.addresses import has_secret
from vpetl_ray.errors import CheckpointError, SpecError
from vpetl_ray.inference.find import find_adapter

if TYPE_CHECKING:
    import torch

    from vpetl_ray.inference.video_model import VideoModel

_IN_MLFLOW = re.compile(
    r"models:/(?P<name>[^/@]+)(?:@[^/@]+|/[^/@]+)|(?:runs:/)?[0-9a-f]{32}(?:@.+)?/?"
)


@dataclass(frozen=True, kw_only=True)
class Located:
    """An adapter file, and what keeps it there."""

    adapter: Path
    keep: tempfile.TemporaryDirectory[str] | None = None
    """The folder that it was downloaded into, removed with this object."""


def load(
    source: str | Path,
    *,
    backbone: str | Path | None = None,
    device: str | torch.device | None = None,
    tracking_uri: str | None = None,
) -> VideoModel:
    """Load a trained model, ready to `predict`.

    Args:
        source: a folder (of a search, possibly with the member behind it: `runs/x@knee`,
            `runs/x@t0007`; of a `finetune`; or written by `pick --out`), a search's address on
            object storage (`s3://bucket/runs/x@knee`), an adapter file, a registered model
            (`models:/NAME@ALIAS`, `models:/NAME/VERSION`) or an MLflow run's id.
        backbone: the backbone's weights, where they are neither beside the adapter nor where they
            were in training.
        device: by default a GPU where there is one.
        tracking_uri: the MLflow store; by default MLFLOW_TRACKING_URI, else `runs/*/mlflow.db`.

    Raises:
        CheckpointError: there is no such model, or its backbone is missing or another one.
        DataError: the object storage cannot be read, or has no results there.
        SpecError: the MLflow store cannot be read, or has no such model.

    """
    from vpetl_ray.inference.video_model import load_model  # noqa: PLC0415 - torch takes seconds

    located = locate(source, tracking_uri=tracking_uri)
    model = load_model(
        located.adapter, backbone=Path(backbone).expanduser() if backbone else None, device=device
    )
    model.keep = located.keep
    return model


def locate(source: str | Path, *, tracking_uri: str | None = None) -> Located:
    """Find the adapter file that `source` means; see `load`.

    Raises:
        CheckpointError, DataError, SpecError: there is no such model.

    """
    text = str(source)
    if match := _IN_MLFLOW.fullmatch(text):
        return _download(text, match["name"], tracking_uri)
    if "://" in text and has_secret(text):
        raise SpecError(
            "MODEL: its address holds a password or token, and a command line is seen by others; "
            "set it in the environment instead: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    path, _, member = text.rpartition("@")
    if not path or Path(text).expanduser().exists():
        path, member = text, ""
    if "://" in path:
        from vpetl_ray.data.mirror import download_results  # noqa: PLC0415 - pyarrow is slow

        folder, keep = download_results(path)
        return Located(adapter=find_adapter(folder, member or None), keep=keep)
    try:
        return Located(adapter=find_adapter(Path(path).expanduser(), member or None))
    except CheckpointError:
        if os.sep in text or Path(path).expanduser().exists():
            raise
        raise CheckpointError(
            f"{text}: is no folder or file here; a registered model is named models:/{text}"
        ) from None


def _download(source: str, name: str | None, tracking_uri: str | None) -> Located:
    from vpetl_ray.results.mlflow_models import download, find_store  # noqa: PLC0415 - as above

    keep = tempfile.TemporaryDirectory(prefix="vpetl_model_")
    uri = find_store(source, name, tracking_uri)
    return Located(adapter=find_adapter(download(uri, source, Path(keep.name))), keep=keep)
