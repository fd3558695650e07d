"""A search's results folder, read back: of one that is over, or runs."""

from __future__ import annotations

import fcntl
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vpetl_ray.errors import SpecError
from vpetl_ray.models.arch import count_backbone, get_arch
from vpetl_ray.results.labels import path_label
from vpetl_ray.results.objectives import COSTS
from vpetl_ray.results.records import TrialRecord, read_trials
from vpetl_ray.results.search_page import PageFacts

LOCK_FILE = ".lock"
"""Held by the process that is at work in the folder."""
MAX_BUDGET = 10**15
"""Far above every backbone."""


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
        front = json.loads((path / "front.json").read_bytes())
        spec = yaml.safe_load((path / "spec.yaml").read_bytes())
        backbone = _member(front, "backbone", str)
        facts = PageFacts(
            name=_member(front, "name", str),
            folder=path_label(path),
            backbone=backbone,
            backbone_params=count_backbone(get_arch(backbone)),
            data=_member(_member(spec, "data", dict), "source", str),
            budget=_budget(front),
            references=_references(front),
        )
    except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        problem = " ".join(str(error).split())
        raise SpecError(f"{path}: its files are not those of a search: {problem}") from error
    records = tuple(read_trials(path / "trials.parquet"))
    return SearchFolder(path=path, facts=facts, records=records, is_running=_is_running(path))


def _member(values: Any, key: str, kind: type) -> Any:
    """Take what is written under a key.

    Raises:
        TypeError: there is none, or it is of another kind.
    """
    if not isinstance(values, dict) or not isinstance(values.get(key), kind):
        got = repr(values.get(key) if isinstance(values, dict) else values)
        raise TypeError(f"{key}: must be a {kind.__name__}, got {got[:60]}")
    return values[key]


def _budget(front: dict[str, Any]) -> int | None:
    budget = front.get("budget")
    if budget is None or (type(budget) is int and 0 < budget <= MAX_BUDGET):
        return budget
    raise ValueError(f"budget: must be a count of parameters or null, got {str(budget)[:60]}")


def _references(front: dict[str, Any]) -> dict[str, float]:
    """Where the hypervolume ends on the axes of the objectives that a spec has added."""
    reference = _member(front, "hypervolume_reference", dict)
    objectives = _member({"objectives": [], **front}, "objectives", list)
    further = {name: reference[name] for name in COSTS if name in objectives and name in reference}
    for name, value in further.items():
        if type(value) not in (int, float) or not 0 < value < math.inf:
            raise ValueError(f"hypervolume_reference.{name}: must be above 0, got {value!r:.60}")
    return further


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
