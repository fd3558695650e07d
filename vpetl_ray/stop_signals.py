"""SIGTERM ends a command in order, as Ctrl-C does, and the exit code says which of them it was."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(KeyboardInterrupt):
    """SIGTERM came: everything unwinds as after Ctrl-C."""


_received: list[int] = []
"""SIGINT and SIGTERM of this process, in their order. Signals are the process's, so is this."""


def note_signal(number: int) -> None:
    """Remember a signal that somebody handles."""
    _received.append(number)


def ended_by() -> signal.Signals:
    """The signal that came first; SIGINT where none was handled here, as Python handles that."""
    return signal.Signals(_received[0]) if _received else signal.SIGINT


def exit_code() -> int:
    """130 after Ctrl-C, 143 after SIGTERM, as a shell says it of a process that a signal ended."""
    return 128 + ended_by()


@contextmanager
def sigterm_unwinds() -> Iterator[None]:
    """Let SIGTERM raise `Terminated` within the block; not in a thread, which gets no signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _received.clear()
    before = signal.signal(signal.SIGTERM, _raise)
    hook = sys.unraisablehook
    sys.unraisablehook = _raise_again
    try:
        yield
    finally:
        sys.unraisablehook = hook
        signal.signal(signal.SIGTERM, before)


_SECONDS_TO_RETURN = 0.1


def _raise_again(unraisable: sys.UnraisableHookArgs) -> None:
    """Raise once more what came while a finalizer or a callback ran, where Python drops it."""
    if not issubclass(unraisable.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)
        return
    main = threading.main_thread().ident
    assert main is not None
    timer = threading.Timer(_SECONDS_TO_RETURN, signal.pthread_kill, (main, ended_by()))
    timer.daemon = True
    timer.start()


def _raise(number: int, frame: FrameType | None) -> None:
    note_signal(number)
    raise Terminated
