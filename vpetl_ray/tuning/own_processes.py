"""The processes of a private Ray, each that this one starts in a process group of its own.

What is sent to this process's own group, as `timeout` does, is then not for them: Ray is there
until its driver has ended in order. And what these processes start is known by its group, or by its
parent. Ray ends its own, but where an end comes soon after the start, or cannot wait: then some of
them look for the others for a minute before they end.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from typing import Any

import psutil  # type: ignore[import-untyped]
from ray._private import services


class OwnProcesses:
    """Every process that Ray starts from here within `started`, and all that these start."""

    def __init__(self) -> None:
        self._groups: list[int] = []

    @contextlib.contextmanager
    def started(self) -> Iterator[None]:
        """Start them within the block."""
        popen: Any = services.ConsolePopen

        def start(*words: Any, **options: Any) -> Any:
            process = popen(*words, **options, process_group=0)
            self._groups.append(process.pid)
            return process

        services.ConsolePopen = start  # type: ignore[assignment, misc]
        try:
            yield
        finally:
            services.ConsolePopen = popen  # type: ignore[misc]

    def kill(self) -> None:
        """Kill all that live."""
        for group in self._groups:
            workers = []  # of a raylet, each in a group of its own
            with contextlib.suppress(psutil.Error):
                workers = psutil.Process(group).children(recursive=True)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)
            for worker in workers:
                with contextlib.suppress(psutil.Error):
                    worker.kill()
