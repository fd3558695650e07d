"""The processes of a private Ray, known by a mark in their environment.

Ray ends its own, but where an end comes soon after the start, or cannot wait: then some of them
look for the others for a minute before they end.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator

import psutil

_NAME = "VPETL_RAY_STARTED_BY"
_MAX_LOOKS = 5


class OwnProcesses:
    """Every process that is started within `marked`, and every process that one of these starts."""

    def __init__(self) -> None:
        self._mark = secrets.token_hex(16)

    @contextlib.contextmanager
    def marked(self) -> Iterator[None]:
        """Mark what is started within the block."""
        os.environ[_NAME] = self._mark
        try:
            yield
        finally:
            del os.environ[_NAME]

    def kill(self) -> None:
        """Kill all that live; again, while there are some that others have started meanwhile."""
        for _ in range(_MAX_LOOKS):
            living = list(self._living())
            if not living:
                return
            for process in living:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            psutil.wait_procs(living, timeout=1.0)

    def _living(self) -> Iterator[psutil.Process]:
        for process in psutil.process_iter():
            # Another user's, or one that has ended by now.
            with contextlib.suppress(psutil.Error, OSError):
                is_ours = process.environ().get(_NAME) == self._mark
                if is_ours and process.status() != psutil.STATUS_ZOMBIE:
                    yield process
