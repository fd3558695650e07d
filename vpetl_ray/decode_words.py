"""What a build of a clip store looks like in words: how far it is, how fast, what was skipped."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from vpetl_ray.data.manifest import Skipped
from vpetl_ray.data.store_files import BuildProgress
from vpetl_ray.stage_display import clock_label

_MAX_NAMED = 3


class DecodeWords:
    """Words for each state of one build.

    Args:
        clock: seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._start: float | None = None
        self._first_new = 0

    def __call__(self, state: BuildProgress) -> str:
        """Say how far, how fast and how long still; what was there already is no speed."""
        how_far = f"{state.num_done:,} of {state.num_videos:,}"
        num_new = state.num_done - state.num_before
        if not num_new:
            return f"decoded before: {how_far}"
        if self._start is None:
            self._start, self._first_new = self._clock(), num_new
        words = [f"decoding videos, {how_far}"]
        seconds = self._clock() - self._start
        speed = (num_new - self._first_new) / seconds if seconds > 0 else 0.0
        if speed:
            left = clock_label((state.num_videos - state.num_done) / speed)
            words += [f"{speed:,.0f} a second", f"about {left} left"]
        words += [f"on {state.place}"] if state.place else []
        words += [f"{state.num_skipped:,} skipped"] if state.num_skipped else []
        return ", ".join(words)


def before_sentence(state: BuildProgress) -> str:
    """Say what an earlier build had done."""
    return f"{state.num_before:,} of {state.num_videos:,} clips were decoded before"


def skipped_sentence(skipped: Sequence[Skipped], num_videos: int) -> str:
    """Say how many videos a store lacks, and of the first ones why; empty where it lacks none."""
    if not skipped:
        return ""
    named = [f"{_shown(Path(entry.path).name)} ({entry.reason})" for entry in skipped[:_MAX_NAMED]]
    rest = len(skipped) - len(named)
    more = f" and {rest:,} more" if rest else ""
    are = "is skipped because it" if len(skipped) == 1 else "are skipped because they"
    return (
        f"{len(skipped):,} of {num_videos:,} videos {are} cannot be read: {', '.join(named)}{more}"
    )


def _shown(name: str) -> str:
    return name if name.isprintable() else repr(name)
