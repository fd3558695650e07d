"""The motions of the demo: where a digit is in each frame of a clip.

Axis letters: T frames of a clip (8), ``_2`` an (x, y) pair in pixels, x to the right and y down.

The plane is a torus: a digit that leaves the picture on one side comes back on the other. With its
first position uniform on the torus and its first angle uniform on the circle, position and angle
are uniform in every frame, whatever the motion. So no single frame of a target clip can tell its
class: the class is in the order of the frames alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NUM_FRAMES = 8
SIDE = 32
_STEPS = np.arange(NUM_FRAMES, dtype=np.float64)

Array = NDArray[np.float64]

_UNIT: Mapping[str, Array] = {
    "right": np.array([1.0, 0.0]),
    "left": np.array([-1.0, 0.0]),
    "up": np.array([0.0, -1.0]),
    "down": np.array([0.0, 1.0]),
}


@dataclass(frozen=True, kw_only=True)
class Path:
    """Where a digit is in each frame of a clip."""

    centres: Array
    """Centres (T, 2) in pixels; those that differ by the side of the picture are the same."""
    angles: Array
    """Clockwise turns (T,) in radians."""
    sizes: Array
    """Sides (T,) of the 8 x 8 scan in pixels."""
    opacities: Array
    """(T,), from 0, invisible, to 1, fully inked."""

    def reversed(self) -> Path:
        """The same path played backwards."""
        return Path(
            centres=self.centres[::-1],
            angles=self.angles[::-1],
            sizes=self.sizes[::-1],
            opacities=self.opacities[::-1],
        )


Motion = Callable[[np.random.Generator], Path]
"""Draws one path of a motion."""


def _path(
    rng: np.random.Generator,
    *,
    shift_T2: Array | None = None,
    turn_T: Array | None = None,
    zoom_T: Array | None = None,
    opacity_T: Array | None = None,
) -> Path:
    """Start at a random position and angle; what is not given stays as it is."""
    still_T = np.zeros(NUM_FRAMES)
    start_2 = rng.uniform(0, SIDE, size=2)
    return Path(
        centres=start_2 + (np.zeros((NUM_FRAMES, 2)) if shift_T2 is None else shift_T2),
        angles=rng.uniform(0, 2 * np.pi) + (still_T if turn_T is None else turn_T),
        sizes=rng.uniform(13.0, 17.0) * (still_T + 1 if zoom_T is None else zoom_T),
        opacities=still_T + 1 if opacity_T is None else opacity_T,
    )


def _spin_rate(rng: np.random.Generator) -> float:
    """Draw radians a frame."""
    return float(np.deg2rad(rng.uniform(16.0, 26.0)))


def _two_parts(rng: np.random.Generator) -> tuple[Array, Array]:
    """Count the steps done in the first part of a clip and in the second, frame by frame."""
    border = rng.uniform(3.25, 3.75)
    return np.minimum(_STEPS, border), np.maximum(_STEPS - border, 0.0)


# Source: single motions.


def _go(direction: str) -> Motion:
    def motion(rng: np.random.Generator) -> Path:
        return _path(rng, shift_T2=rng.uniform(2.2, 3.4) * _STEPS[:, None] * _UNIT[direction])

    return motion


def _spin(sense: int) -> Motion:
    def motion(rng: np.random.Generator) -> Path:
        return _path(rng, turn_T=sense * _spin_rate(rng) * _STEPS)

    return motion


def _zoom(sense: int) -> Motion:
    def motion(rng: np.random.Generator) -> Path:
        growth = sense * rng.uniform(0.07, 0.12)
        return _path(rng, zoom_T=np.exp(growth * (_STEPS - _STEPS.mean())))

    return motion


def _fade(sense: int) -> Motion:
    def motion(rng: np.random.Generator) -> Path:
        ramp_T = np.linspace(rng.uniform(0.1, 0.3), 1.0, NUM_FRAMES)
        return _path(rng, opacity_T=ramp_T[::sense])

    return motion


# Target: compositions of motions, at once or one after the other. A move along both axes at once
# beside the moves along one and then the other made seeds of one config differ by three points.


def _speed(rng: np.random.Generator) -> float:
    """Draw pixels a frame."""
    return float(rng.uniform(2.7, 3.6))


def _then(first: str, second: str) -> Motion:
    def motion(rng: np.random.Generator) -> Path:
        before_T, after_T = _two_parts(rng)
        shift_T2 = before_T[:, None] * _UNIT[first] + after_T[:, None] * _UNIT[second]
        return _path(rng, shift_T2=_speed(rng) * shift_T2)

    return motion


def _there_and_back(first: str) -> Motion:
    def motion(rng: np.random.Generator) -> Path:
        before_T, after_T = _two_parts(rng)
        step_2 = float(rng.choice([-1, 1])) * _speed(rng) * _UNIT[first]
        return _path(rng, shift_T2=(before_T - after_T)[:, None] * step_2)

    return motion


def _swing(rng: np.random.Generator) -> Path:
    before_T, after_T = _two_parts(rng)
    rate = float(rng.choice([-1, 1])) * np.deg2rad(rng.uniform(22, 30))
    return _path(rng, turn_T=rate * (before_T - after_T))


def _orbit(rng: np.random.Generator) -> Path:
    rate = float(rng.choice([-1, 1])) * np.deg2rad(rng.uniform(42, 52))
    phase_T = rng.uniform(0, 2 * np.pi) + rate * _STEPS
    circle_T2 = np.stack([np.cos(phase_T), np.sin(phase_T)], axis=1)
    return _path(rng, shift_T2=rng.uniform(5.0, 6.5) * circle_T2)


def _roll(direction: str, sense: int) -> Motion:
    def motion(rng: np.random.Generator) -> Path:
        shift_T2 = _speed(rng) * _STEPS[:, None] * _UNIT[direction]
        return _path(rng, shift_T2=shift_T2, turn_T=sense * _spin_rate(rng) * _STEPS)

    return motion


SOURCE_MOTIONS: Mapping[str, Motion] = {
    "down": _go("down"),
    "fade_in": _fade(1),
    "fade_out": _fade(-1),
    "left": _go("left"),
    "right": _go("right"),
    "spin_clockwise": _spin(1),
    "spin_counterclockwise": _spin(-1),
    "up": _go("up"),
    "zoom_in": _zoom(1),
    "zoom_out": _zoom(-1),
}
"""What the backbone is pretrained to tell apart."""

TARGET_MOTIONS: Mapping[str, Motion] = {
    "down_then_right": _then("down", "right"),
    "left_then_down": _then("left", "down"),
    "orbit": _orbit,
    "right_then_up": _then("right", "up"),
    "roll_down": _roll("down", -1),
    "roll_left": _roll("left", -1),
    "roll_right": _roll("right", 1),
    "roll_up": _roll("up", 1),
    "sideways_and_back": _there_and_back("right"),
    "spin_and_back": _swing,
    "up_and_down": _there_and_back("up"),
    "up_then_left": _then("up", "left"),
}
"""What the demo's searches learn to tell apart."""
