"""Ctrl-C and SIGTERM end a command in order, and the exit code says which of them it was.

Both raise in the main thread, as Python's own Ctrl-C does, so that everything unwinds. Raised
between any two lines, that can be lost (a bare `except` around an import, a finalizer), and can
leave a lock taken for good: `logging` of Python 3.11 takes its own outside of a `try`, and every
other thread then waits for it. So it is raised where that cannot be, and once more where nothing
unwound. Where the end does not come in time all the same (a call into a Ray whose processes were
ended by the same signal), the process says its last words and is ended.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_TICK_SECONDS = 0.05
_LONGEST_WAIT = 10.0
"""For a place to raise at; after that, it is raised anywhere."""
_LOST_SECONDS = 1.0
"""How long nothing may unwind after it was raised."""
_SECONDS_TO_END = {signal.SIGTERM: 25.0, signal.SIGINT: 120.0}
"""Who sends SIGTERM gives half a minute, often; who presses Ctrl-C can do so again."""
_NOT_WITHIN = frozenset(
    {"logging", "importlib._bootstrap", "importlib._bootstrap_external", "weakref", "_weakrefset"}
)


class Terminated(KeyboardInterrupt):
    """SIGTERM came: everything unwinds as after Ctrl-C."""


_received: list[int] = []
"""SIGINT and SIGTERM of this process, in their order. Signals are the process's, so is this."""
_news: queue.SimpleQueue[None] = queue.SimpleQueue()
"""A handler may come while its own thread holds any lock: this one queue asks for none."""
_last_words: list[str] = []
_kills: list[Callable[[], None]] = []
_commands: list[_Delivery] = []
"""Those that have the signals of this process: one, or none."""


def note_signal(number: int) -> None:
    """Remember a signal that somebody handles; from the first on, the end has so much time."""
    _received.append(number)
    _news.put(None)


def ended_by() -> signal.Signals:
    """The signal that came first; SIGINT where none was handled here, as Python handles that."""
    return signal.Signals(_received[0]) if _received else signal.SIGINT


def exit_code() -> int:
    """130 after Ctrl-C, 143 after SIGTERM, as a shell says it of a process that a signal ended."""
    return 128 + ended_by()


def interrupted(rest: str) -> str:
    """Say that it was interrupted, and by what; then `rest`."""
    return f"interrupted{' by SIGTERM' if ended_by() is signal.SIGTERM else ''}{rest}"


def set_last_words(rest: str) -> None:
    """Set what follows "interrupted" where the end does not come in time."""
    _last_words[:] = [rest]


@contextmanager
def killed_if_late(kill: Callable[[], None]) -> Iterator[None]:
    """Have `kill` end what was started within the block where the end does not come in time."""
    _kills.append(kill)
    try:
        yield
    finally:
        _kills.remove(kill)


def ignore_signals() -> None:
    """Let no further signal come between the last words and the end of a command."""
    if _commands and threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)


class _Delivery:
    """Raises what a signal asks for, in the main thread and at a moment that suits."""

    def __init__(self) -> None:
        self.is_over = False
        self._number: int = signal.SIGINT
        self._due_since: float | None = None
        self._raised: BaseException | None = None
        self._raised_at = 0.0
        self._is_tick = False
        ticker = threading.Thread(target=self._tick, name="vpetl-signals", daemon=True)
        ticker.start()

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Take a signal, or a tick that asks once more; raises where it may."""
        if self._is_tick:
            self._is_tick = False
        else:
            note_signal(number)
            self._number, self._due_since = number, time.monotonic()
        if self._due_since is not None and self._may_raise(frame, self._due_since):
            self._due_since, self._raised_at = None, time.monotonic()
            self._raised = Terminated() if self._number == signal.SIGTERM else KeyboardInterrupt()
            raise self._raised

    def _may_raise(self, frame: FrameType | None, since: float) -> bool:
        if time.monotonic() - since > _LONGEST_WAIT:
            return True
        while frame is not None:
            is_finalizer = frame.f_code.co_name == "__del__"
            if is_finalizer or frame.f_globals.get("__name__") in _NOT_WITHIN:
                return False
            frame = frame.f_back
        return True

    def say_nothing_of_it(self, unraisable: sys.UnraisableHookArgs) -> None:
        """Keep Python from printing what it dropped: it is raised once more."""
        if unraisable.exc_value is not self._raised:
            sys.__unraisablehook__(unraisable)

    def _tick(self) -> None:
        """Ask for what is due, from the first signal on: it may be lost at any time."""
        while not _received:
            _news.get()
            if self.is_over:
                return
        main = threading.main_thread().ident
        assert main is not None
        began = unwound_at = time.monotonic()
        while not self.is_over:
            time.sleep(_TICK_SECONDS)
            if time.monotonic() - began > _SECONDS_TO_END[ended_by()]:
                _end_now()
            if self._is_unwinding(main):
                unwound_at = time.monotonic()
            if self._due_since is None:
                if self._raised is None:
                    continue  # somebody else has this signal
                if time.monotonic() - max(unwound_at, self._raised_at) < _LOST_SECONDS:
                    continue
                self._due_since = time.monotonic()
            self._is_tick = True
            signal.pthread_kill(main, self._number)

    def _is_unwinding(self, main: int) -> bool:
        """Say whether the main thread is at what an `except` or `finally` does about it."""
        found: Any = sys._current_exceptions().get(main)
        error = found[1] if isinstance(found, tuple) else found  # before and from Python 3.12 on
        while error is not None and error is not self._raised:
            error = error.__context__
        return error is not None


def _end_now() -> None:
    os.write(2, f"\n{interrupted(''.join(_last_words))}\n".encode())
    for kill in tuple(_kills):
        kill()
    os._exit(exit_code())


@contextmanager
def signals_unwind() -> Iterator[None]:
    """Let Ctrl-C raise `KeyboardInterrupt` and SIGTERM `Terminated` within the block.

    Not in a thread, which gets no signals; and who started this command may have it ignore Ctrl-C.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _received.clear()
    _last_words.clear()
    delivery = _Delivery()
    _commands.append(delivery)
    before = {
        number: signal.signal(number, delivery.handle)
        for number in _SIGNALS
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    hook, sys.unraisablehook = sys.unraisablehook, delivery.say_nothing_of_it
    try:
        yield
    finally:
        sys.unraisablehook = hook
        delivery.is_over = True
        _commands.remove(delivery)
        _news.put(None)
        for number, handler in before.items():
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, handler)
