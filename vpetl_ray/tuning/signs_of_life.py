"""When each worker was last heard of: who is silent for too long hangs, whatever the cause.

Every message of a worker is a sign of life, and it sends one while it trains (`Heartbeat`), from
the thread that trains: a process that lives but does nothing gives none.
"""

import time
from collections.abc import Callable
from typing import Final

STUCK_SECONDS: Final = 600.0
"""How long a worker may be silent before its group is taken for hung, if nobody says otherwise."""


class SignsOfLife:
    """The workers of all groups, by group and rank.

    Args:
        limit: seconds of silence after which a group counts as hung.
        clock: seconds that never go back.
    """

    def __init__(self, limit: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = limit
        self._clock = clock
        self._heard: dict[int, dict[int, float]] = {}
        self._looked_at = clock()

    @property
    def period(self) -> float:
        """How often to `look`."""
        return min(max(self.limit / 20.0, 0.1), 10.0)

    def expect(self, group: int, world_size: int) -> None:
        """From now on this group's workers should be heard of."""
        self._heard[group] = dict.fromkeys(range(world_size), self._clock())

    def note(self, group: int, rank: int) -> None:
        """One of them was heard of."""
        if rank in self._heard.get(group, ()):
            self._heard[group][rank] = self._clock()

    def forget(self, group: int) -> None:
        """The group's processes are gone, or told to go."""
        self._heard.pop(group, None)

    def look(self) -> list[int]:
        """Name the groups of which a worker has been silent for too long.

        Whoever looks may have stood still himself: then nobody is judged by what he did not hear.
        """
        now, before = self._clock(), self._looked_at
        self._looked_at = now
        if now - before > 5.0 * self.period:
            for ranks in self._heard.values():
                ranks.update(dict.fromkeys(ranks, now))
        return [
            group for group, ranks in self._heard.items() if now - min(ranks.values()) > self.limit
        ]


class Heartbeat:
    """Passes signs of life on, a few of them: to be called as often as one likes.

    Args:
        seconds: between two that are passed on.
        clock: seconds that never go back.
    """

    def __init__(self, seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._sent_at = clock()
        self.send: Callable[[], None] | None = None
        """Passes one on; None while there is nobody to tell."""

    def __call__(self) -> None:
        """Something was done."""
        now = self._clock()
        if self.send is not None and now - self._sent_at >= self._seconds:
            self._sent_at = now
            self.send()
