"""What a clip of the demo shows: which digit, in which motion, before which background."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vpetl_ray.data.demo_motion import (
    SIDE,
    SOURCE_MOTIONS,
    TARGET_MOTIONS,
    Array,
    Motion,
)
from vpetl_ray.data.demo_render import paint, render_coverage

TaskName = Literal["source", "target"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """One task's classes and how its clips and scans are shared out."""

    motions: Mapping[str, Motion]
    number: int
    num_clips: Mapping[str, int]
    """Clips by split."""
    scans: Mapping[str, tuple[int, int]]
    """First scan and the one after the last, by split, in one fixed shuffled order."""


TASKS: Mapping[TaskName, Task] = {
    "source": Task(
        motions=SOURCE_MOTIONS,
        number=0,
        num_clips={"train": 3000, "val": 200, "test": 500},
        scans={"train": (0, 600), "val": (600, 650), "test": (650, 700)},
    ),
    "target": Task(
        motions=TARGET_MOTIONS,
        number=1,
        num_clips={"train": 900, "val": 420, "test": 960},
        scans={"train": (700, 1200), "val": (1200, 1400), "test": (1400, 1797)},
    ),
}
SPLITS = ("train", "val", "test")


def class_name(task: TaskName, index: int) -> str:
    """Return the class of a split's clip of this number: the classes take turns."""
    names = list(TASKS[task].motions)
    return names[index % len(names)]


def draw_clip(task: TaskName, split: str, index: int, *, seed: int) -> NDArray[np.uint8]:
    """Draw the frames of one clip, before they are encoded.

    Args:
        task: "source" or "target".
        split: "train", "val" or, for the target, "test".
        index: number of the clip in its split; its class is ``index`` modulo the classes.
        seed: the demo's seed.

    Returns:
        RGB frames, uint8, of shape (8, 32, 32, 3).
    """
    rng = _generator(task, split, index, seed)
    scan_88 = _scans()[_draw_scan(rng, task, split)]
    motion = TASKS[task].motions[class_name(task, index)]
    coverage_THW = render_coverage(scan_88, motion(rng))
    if task == "source":
        ink_C = np.full(3, rng.uniform(170, 255))
        return paint(coverage_THW, _noise(rng), ink_C)
    ink_C = rng.uniform(0, 70, size=3)
    return paint(coverage_THW, _tinted_crop(rng), ink_C)


def scan_of_clip(task: TaskName, split: str, index: int, *, seed: int) -> int:
    """Tell which of the 1797 scans, in their shuffled order, a clip shows."""
    return _draw_scan(_generator(task, split, index, seed), task, split)


def _generator(task: TaskName, split: str, index: int, seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, TASKS[task].number, SPLITS.index(split), index])


def _draw_scan(rng: np.random.Generator, task: TaskName, split: str) -> int:
    return int(rng.integers(*TASKS[task].scans[split]))


@functools.cache
def _scans() -> Array:
    """All handwriting scans, 0..1, of shape (1797, 8, 8), in one fixed shuffled order."""
    from sklearn.datasets import load_digits  # noqa: PLC0415 - takes a second

    scans: Array = load_digits().images / 16.0
    return scans[np.random.default_rng(0).permutation(len(scans))]


@functools.cache
def _photos() -> tuple[Array, ...]:
    """Brightness, 0..1, of the two sample photographs at a third of their size."""
    from sklearn.datasets import load_sample_images  # noqa: PLC0415 - takes a second

    def shrink(photo: NDArray[np.uint8]) -> Array:
        rows, columns = photo.shape[0] // 3 * 3, photo.shape[1] // 3 * 3
        blocks = photo[:rows, :columns].reshape(rows // 3, 3, columns // 3, 3, 3)
        small: Array = blocks.mean(axis=(1, 3, 4)) / 255.0
        return small

    return tuple(shrink(photo) for photo in load_sample_images().images)


def _noise(rng: np.random.Generator) -> Array:
    """Draw a dark cloudy background, grey, of shape (32, 32, 3)."""
    coarse = rng.uniform(0, 1, size=(9, 9))
    at = np.linspace(0, 7.999, SIDE)
    low, share = at.astype(np.intp), at % 1
    rows = coarse[low] * (1 - share[:, None]) + coarse[low + 1] * share[:, None]
    cloud_HW = rows[:, low] * (1 - share) + rows[:, low + 1] * share
    grey_HW = rng.uniform(0, 40) + 70 * cloud_HW
    return np.repeat(grey_HW[..., None], 3, axis=2)


def _tinted_crop(rng: np.random.Generator) -> Array:
    """Cut a bright crop of a photograph, in one random tint, of shape (32, 32, 3)."""
    photo = _photos()[rng.integers(len(_photos()))]
    top, left = (rng.integers(0, size - SIDE + 1) for size in photo.shape)
    crop_HW = photo[top : top + SIDE, left : left + SIDE]
    tint_C = rng.uniform(175, 255, size=3)
    tinted: Array = (0.5 + 0.5 * crop_HW)[..., None] * tint_C
    return tinted
