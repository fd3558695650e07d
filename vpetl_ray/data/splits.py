"""Validation and test splits for data sets that do not bring them.

What is held out is drawn class by class from a seed, so it does not depend on the order of the
files, and another class does not change it. Configs are chosen on val; test is for final figures.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from vpetl_ray.data.data_set import DataSet, Split, VideoItem
from vpetl_ray.errors import DataError

Item = TypeVar("Item")
ByClass = dict[str, list[Item]]
"""Class name -> its items (mostly paths), in an order that does not change."""


def complete_splits(
    given: Mapping[str, ByClass[Item]],
    val_share: float,
    seed: int,
    *,
    part: str = "folder",
    whole: str = "folder",
) -> tuple[dict[Split, ByClass[Item]], tuple[str, ...]]:
    """Make three splits of those that are given, `train` among them.

    Args:
        given: the splits that the data set brings, by name.
        val_share: share of each class that is held out.
        seed: decides which items.
        part: what a split is in this data set, for the notes.
        whole: what the data set is, for the notes.

    Returns:
        The splits, and sentences for the user about what was decided.

    """
    train = given["train"]
    if "val" in given and "test" in given:
        return {"train": train, "val": given["val"], "test": given["test"]}, ()
    if "test" in given:
        rest, val = hold_out(train, val_share, f"{seed}/val")
        return {"train": rest, "val": val, "test": given["test"]}, _lacking(train, val=val)
    if "val" in given:
        rest, val = hold_out(train, val_share, f"{seed}/val")
        # Kinetics publishes figures on `val`. Choosing configs on it would spoil them.
        note = (
            f"there is no test {part}: val is kept for the final figures, and "
            f"{val_share:.0%} of train is used to choose by"
        )
        return {"train": rest, "val": val, "test": given["val"]}, (note, *_lacking(train, val=val))
    rest, test = hold_out(train, val_share, f"{seed}/test")
    train, val = hold_out(rest, val_share, f"{seed}/val")
    lacking = _lacking(train, val=val, test=test)
    note = (
        f"the {whole} brings no splits: {val_share:.0%} each of every class for validation and test"
    )
    return {"train": train, "val": val, "test": test}, (note, *lacking)


def _lacking(train: ByClass[Item], **held: ByClass[Item]) -> tuple[str, ...]:
    """Say it where classes have too few items for one to be held out."""
    counts = {split: len(train) - len(items) for split, items in held.items()}
    said = [f"{number} of {len(train)} for {split}" for split, number in counts.items() if number]
    return (f"classes with too few videos to hold one out: {', '.join(said)}",) if said else ()


def no_videos(split: Split, given: Mapping[str, object]) -> str:
    """Say why a split has no videos."""
    if split in given:
        return f"the {split} split has no videos"
    return (
        f"there is no {split} split, and no class has videos enough to hold one out for it; "
        "a class needs 2, or 3 where test is split off, too"
    )


def hold_out(
    items: ByClass[Item],
    share: float,
    seed: str,
    *,
    group: Callable[[Item], str] | None = None,
) -> tuple[ByClass[Item], ByClass[Item]]:
    """Split a share of each class off; return the rest and what was held out.

    At least one item of each class that has two is held out; a class's only item stays.

    Args:
        items: by class.
        share: of each class.
        seed: decides which items.
        group: items of one group (scenes of one film) stay together where a class has several.

    """
    rest: ByClass[Item] = {}
    held: ByClass[Item] = {}
    for label, members in items.items():
        count = max(1, round(share * len(members))) if len(members) > 1 else 0
        rng = random.Random(f"{seed}/{label}")
        if group is not None and len({group(member) for member in members}) > 1:
            chosen = _whole_groups([group(member) for member in members], count, rng)
        else:
            chosen = set(rng.sample(range(len(members)), count))
        rest[label] = [member for i, member in enumerate(members) if i not in chosen]
        if chosen:
            held[label] = [member for i, member in enumerate(members) if i in chosen]
    return rest, held


def _whole_groups(groups: Sequence[str], count: int, rng: random.Random) -> set[int]:
    """Draw groups that together have about `count` members: no more, unless the first has."""
    sizes = {name: groups.count(name) for name in sorted(set(groups))}
    drawn = rng.sample(list(sizes), len(sizes))
    taken: set[str] = set()
    room = count
    for name in drawn:
        if sizes[name] <= room:
            taken.add(name)
            room -= sizes[name]
    if not taken:
        taken = {min(drawn, key=lambda name: sizes[name])}
    return {i for i, name in enumerate(groups) if name in taken}


def _is_text(name: str) -> bool:
    """Whether a name from the file system is UTF-8: bytes that are not come as lone surrogates."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def data_set_of_videos(
    name: str,
    root: Path,
    classes: Iterable[str],
    splits: Mapping[Split, ByClass[str]],
    notes: tuple[str, ...] = (),
) -> DataSet:
    """List video paths by class as a data set, class after class in label order.

    Raises:
        DataError: a name is no text, which no table can hold.
    """
    classes = tuple(classes)
    paths = (path for videos in splits.values() for listed in videos.values() for path in listed)
    for text in (*classes, *paths):
        if not text.isascii() and not _is_text(text):
            raise DataError(f"data.path: {text!r}: the name is no UTF-8 text; rename it")
    return DataSet(
        name=name,
        root=root,
        classes=classes,
        splits={
            split: tuple(
                VideoItem(path=path, label=index)
                for index, label in enumerate(classes)
                for path in videos.get(label, ())
            )
            for split, videos in splits.items()
        },
        notes=notes,
    )
