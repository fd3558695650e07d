"""A search's results folder, read back: of one that is over, or runs."""

from __future__ import annotations

import fcntl
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vpetl_ray.errors import SpecError
from vpetl_ray.models.arch import count_backbone, get_arch
from vpetl_ray.results.labels import path_label
from vpetl_ray.results.records import TrialRecord, read_trials
from vpetl_ray.results.search_page import PageFacts

LOCK_FILE = ".lock"
"""Held by the process that is at work in the folder."""


@dataclass(frozen=True, kw_only=True)
class SearchFolder:
    """What a folder says."""

    path: Path
    facts: PageFacts
    records: tuple[TrialRecord, ...]
    is_running: bool


def read_search(path: Path) -> SearchFolder:
    """Read a search's folder, at any moment.

    Raises:
        SpecError: it is none.
        SearchError: a file in it cannot be read.

    """
    if not (path / "front.json").is_file() or not (path / "trials.parquet").is_file():
        raise SpecError(f"{path}: is no search's results folder (front.json, trials.parquet)")
    try:
        front: dict[str, Any] = json.loads((path / "front.json").read_bytes())
        spec: dict[str, Any] = yaml.safe_load((path / "spec.yaml").read_text(encoding="utf-8"))
        reference = dict(front["hypervolume_reference"])
        further = {key: reference[key] for key in front.get("objectives", ()) if key in reference}
        for name in ("trainable_params", "top1"):
            further.pop(name, None)
        facts = PageFacts(
            name=front["name"],
            folder=path_label(path),
            backbone=front["backbone"],
            backbone_params=count_backbone(get_arch(front["backbone"])),
            data=spec["data"]["source"],
            budget=front["budget"],
            references=further,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SpecError(f"{path}: its files are not those of a search: {error!r}") from error
    records = tuple(read_trials(path / "trials.parquet"))
    return SearchFolder(path=path, facts=facts, records=records, is_running=_is_running(path))


def _is_running(path: Path) -> bool:
    """Whether a process is at work in the folder; asking disturbs nobody."""
    try:
        with (path / LOCK_FILE).open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
