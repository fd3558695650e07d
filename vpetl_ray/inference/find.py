"""Which file is meant: the adapter of a results folder, and the weights that it needs."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from vpetl_ray.data.demo import DEMO_CHECKPOINT
from vpetl_ray.errors import CheckpointError
from vpetl_ray.training.model_facts import short_repr

ADAPTER: Final = "adapter.safetensors"
"""In a folder that holds one model."""
BACKBONE: Final = "backbone.safetensors"
"""Beside it, where the folder is self-contained."""
WEIGHTS_VARIABLE: Final = "VPETL_WEIGHTS"
"""Environment: folders where weights files are looked for by name, joined as PATH is."""
FRONT: Final = "front.json"
"""In a search's results folder."""
WORDS: Final = ("best", "knee", "smallest")
_DEMO = "demo"


def find_adapter(path: Path, member: str | None = None) -> Path:
    """Find the adapter file that a path, and possibly a member's name, mean.

    Args:
        path: an adapter file, or a folder: of one model, of a search, of a `finetune`.
        member: of a search, a trial's id or one of `WORDS` (by default best); of a `finetune`,
            `seed0` and so on (by default the first).

    Raises:
        CheckpointError: there is none, or no such member.

    """
    if path.is_file():
        return _without_member(path, path, member)
    if not path.is_dir():
        raise CheckpointError(f"{path}: there is no such file or folder")
    if (path / ADAPTER).is_file():
        return _without_member(path / ADAPTER, path, member)
    if (path / FRONT).is_file():
        return _of_search(path, member or WORDS[0])
    seeds = {
        file.stem.removeprefix("adapter-"): file for file in path.glob("adapter-*.safetensors")
    }
    if not seeds:
        raise CheckpointError(
            f"{path}: is neither a search's results folder (front.json), nor finetune's "
            f"(adapter-seed0.safetensors), nor a model's ({ADAPTER})"
        )
    return _named(path, seeds, member or sorted(seeds)[0])


def _without_member(file: Path, path: Path, member: str | None) -> Path:
    if member is not None:
        raise CheckpointError(f"{path}@{member}: {path} is one model; leave @{member} out")
    return file


def _of_search(folder: Path, member: str) -> Path:
    front = read_front(folder)
    files = {entry["id"]: folder / "adapters" / f"{entry['id']}.safetensors" for entry in front}
    if member in WORDS:
        return files[choose_member(folder, member)["id"]]
    # A trial that is not on the front has no file, unless the search keeps all until the end.
    return _named(folder, files, member, also=WORDS)


def _named(folder: Path, files: dict[str, Path], member: str, also: tuple[str, ...] = ()) -> Path:
    if member not in files:
        raise CheckpointError(
            f"{folder}@{member}: there is no such model; there are {', '.join([*also, *files])}"
        )
    if not files[member].is_file():
        raise CheckpointError(f"{files[member]}: there is no such file; was it moved?")
    return files[member]


def read_front(folder: Path) -> list[dict[str, Any]]:
    """Read a search's front as front.json has it, cheapest first.

    Raises:
        CheckpointError: it cannot be read, or nobody is on it.

    """
    front: list[dict[str, Any]] = read_front_document(folder)["front"]
    if not front:
        raise CheckpointError(f"{folder}: its front is empty; no trial was completed")
    return front


def choose_member(folder: Path, word: str) -> dict[str, Any]:
    """Give the best, the knee or the smallest of a search's front.

    Raises:
        CheckpointError: its front cannot be read, is empty, or has no knee.

    """
    front = read_front(folder)
    if word == "smallest":
        return min(front, key=lambda entry: entry["trainable_params"])
    if word == "knee":
        return _at_knee(folder, front)
    return max(front, key=lambda entry: entry["top1"])


def _at_knee(folder: Path, front: list[dict[str, Any]]) -> dict[str, Any]:
    knee = read_front_document(folder).get("knee")
    for entry in front:
        if entry["id"] == knee:
            return entry
    raise CheckpointError(f"{folder / FRONT}: its knee must be a member of its front, got {knee!r}")


def read_front_document(folder: Path) -> dict[str, Any]:
    """Read front.json, in which anything may stand, as a search writes it; the front may be empty.

    Each member has id, trainable_params, top1, test_top1, name and config, of the right kinds.

    Raises:
        CheckpointError: it cannot be read, or says something else.

    """
    path = folder / FRONT
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    if not isinstance(document, dict) or not isinstance(document.get("front"), list):
        raise CheckpointError(f"{path}: is no front of a search")
    if not isinstance(document.get("name", ""), str):
        raise CheckpointError(f"{path}: its name must be text, got {short_repr(document['name'])}")
    members = [_checked(path, entry) for entry in document["front"]]
    return {**document, "front": members}


def _checked(path: Path, entry: object) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise CheckpointError(f"{path}: a member must be an object, got {short_repr(entry)}")
    member = {"test_top1": None, "name": None, **entry}
    for key, (is_right, what) in _MEMBER_CHECKS.items():
        if not is_right(member.get(key)):
            raise CheckpointError(
                f"{path}: a member's {key} must be {what}, got {short_repr(member.get(key))}"
            )
    return member


def _is_percent(value: object) -> bool:
    # NaN is in no range.
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 100


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _is_config(value: object) -> bool:
    return isinstance(value, dict) and all(
        cell is None
        or isinstance(cell, str | int)
        or (isinstance(cell, float) and math.isfinite(cell))
        for cell in value.values()
    )


_ID: Final = re.compile(r"t\d{4,18}", re.ASCII)
_MEMBER_CHECKS: Final[Mapping[str, tuple[Callable[[Any], bool], str]]] = {
    "id": (
        lambda value: isinstance(value, str) and _ID.fullmatch(value) is not None,
        "a trial's id such as t0007",
    ),
    "trainable_params": (_is_count, "a count"),
    "top1": (_is_percent, "a number from 0 to 100"),
    "test_top1": (
        lambda value: value is None or _is_percent(value),
        "a number from 0 to 100 or null",
    ),
    "name": (lambda value: value is None or isinstance(value, str), "text or null"),
    "config": (_is_config, "an object of numbers, texts, true, false and null"),
}


def find_weights(
    recorded: str, adapter: Path, given: Path | None = None, *, what: str = "its backbone"
) -> Path:
    """Find the weights of an adapter's backbone.

    They are where the caller says, or in the adapter's folder, or come with the package, or are
    where they were in training, or in a folder of `WEIGHTS_VARIABLE`.

    Args:
        recorded: what the adapter says: `demo`, or a path.
        adapter: the file.
        given: by the caller.
        what: names the backbone in the message.

    Raises:
        CheckpointError: they are nowhere; the message says which file is needed.

    """
    if given is not None:
        return given  # whether it exists is said by who reads it
    if (bundled := adapter.parent / BACKBONE).is_file():
        return bundled
    if recorded == _DEMO:
        return DEMO_CHECKPOINT
    for path in _places(Path(recorded), adapter.parent):
        with suppress(OSError):  # a name that is too long is nowhere
            if path.is_file():
                return path
    raise CheckpointError(
        f"{adapter}: needs {what}, the file {Path(recorded).name}, which was {recorded} in "
        f"training and is not there; give it with --backbone, or name its folder in "
        f"{WEIGHTS_VARIABLE}"
    )


def _places(recorded: Path, folder: Path) -> Iterator[Path]:
    yield recorded
    yield folder / recorded.name
    for other in filter(None, os.environ.get(WEIGHTS_VARIABLE, "").split(os.pathsep)):
        yield Path(other).expanduser() / recorded.name
