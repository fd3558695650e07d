"""A lock between processes, and between machines that share a file system with working locks."""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)


class LockHeldError(Exception):
    """Another process has the lock."""


@contextmanager
def file_lock(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock that the file `path` stands for; wait for it as long as it takes.

    With `wait` false, raise a LockHeldError where another process holds it.

    The kernel drops the lock of a process that dies, so a lock is never left behind. The file
    itself stays: deleting it would let a third process lock a new one beside a waiting second.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                raise LockHeldError(path) from None
            log.info("waiting for another process that holds %s", path)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
