"""Ctrl-C while native code runs.

Python runs its signal handlers between two bytecodes. During a long native call the first bytecodes are those
of a progress callback, and a KeyboardInterrupt raised there cannot cross the C frames. So while such a call
runs, Ctrl-C only leaves a note (and asks for cancellation); what would have happened happens when the call is
over and every state is consistent.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any


class DeferredInterrupt:
    """Context manager: SIGINT calls `on_interrupt`, and takes its usual effect at the end of the block.

    Does nothing outside the main thread, where Python delivers no signals, and where SIGINT is ignored.
    """

    def __init__(self, on_interrupt: Callable[[], None] | None = None) -> None:
        self._on_interrupt = on_interrupt
        self.previous: Any = None
        """The handler that it stands in for."""
        self.pending = False

    def _note(self, _signum: int, _frame: FrameType | None) -> None:
        self.pending = True
        if self._on_interrupt is not None:
            self._on_interrupt()

    def __enter__(self) -> DeferredInterrupt:
        if threading.current_thread() is threading.main_thread():
            previous = signal.getsignal(signal.SIGINT)
            if callable(previous):
                self.previous = previous
                _active.append(self)
                signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self.previous is not None:
            previous, self.previous = self.previous, None
            _active.remove(self)
            signal.signal(signal.SIGINT, previous)
            if self.pending:
                previous(signal.SIGINT, None)  # raises KeyboardInterrupt, unless the program chose otherwise


_active: list[DeferredInterrupt] = []  # outermost first; the main thread's


@contextlib.contextmanager
def interrupt_at_once() -> Iterator[None]:
    """For a wait in Python code, such as reading from a pipe, within a `DeferredInterrupt`: Ctrl-C takes its
    usual effect there and then."""
    outermost = _active[0] if _active else None
    if outermost is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    deferring = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, outermost.previous)
    try:
        if any(deferred.pending for deferred in _active):
            outermost.previous(signal.SIGINT, None)
        yield
    finally:
        signal.signal(signal.SIGINT, deferring)
