"""What every long command shows: where it is, in a terminal as a live block, else in lines."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

SECONDS_PER_PLAIN_LINE = 10.0
"""Without a terminal: the least time between two lines that only say how far it is."""


_NOTEBOOK = "JPY_PARENT_PID"
"""Set by a Jupyter kernel: its cells cannot move a cursor up, live blocks would pile up."""


def clock_label(seconds: float) -> str:
    """`3:07` or `2:03:07`."""
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def percent_label(value: float | None) -> str:
    """`83.1`, or a dash for what was not measured."""
    return "-" if value is None else f"{value:.1f}"


class StageDisplay:
    """A live block that `_render` fills; while it is a context.

    Args:
        console: where to write; a terminal gets the live block, anything else plain lines.
        name: of what runs.
        clock: seconds that never go back.
    """

    def __init__(
        self, console: Console, *, name: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = console
        self._name = name
        self._clock = clock
        self._started_at = clock()
        self._last_line = 0.0
        self._stage = "starting"
        self._progress = ""
        self._live: Live | None = None

    def __enter__(self) -> Self:
        # Not before: it renders at once, and a subclass is not whole until its own __init__ is.
        if self._console.is_terminal and _NOTEBOOK not in os.environ:
            self._live = Live(
                get_renderable=self._render, console=self._console, refresh_per_second=2
            )
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.stop()

    def stage(self, text: str) -> None:
        """Say what is being waited for while nothing is trained."""
        self._stage, self._progress = text, ""
        if not self._live:
            self.note(f"{self._name}: {text}")

    def progress(self, text: str) -> None:
        """Say how far the stage is."""
        self._progress = f", {text}"
        if not self._live:
            self._line(f"{self._name}: {text}", is_minor=True)

    def note(self, text: str) -> None:
        """Say something that stays on the screen."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _render(self) -> RenderableType:
        return self._headline()

    def _headline(self) -> Text:
        """Name, time, and what is being waited for."""
        text = self._title()
        text.append(f"  {self._stage}{self._progress}", style="italic not bold")
        return text

    def _title(self) -> Text:
        text = Text(self._name, style="bold", no_wrap=True, overflow="ellipsis")
        elapsed = clock_label(self._clock() - self._started_at)
        text.append(f"  {elapsed} elapsed", style="not bold")
        return text

    def _line(self, text: str, *, is_minor: bool) -> None:
        """Print a plain line; a minor one only where the last one is a while ago."""
        now = self._clock()
        if not is_minor or now - self._last_line >= SECONDS_PER_PLAIN_LINE:
            self._last_line = now
            self.note(text)
