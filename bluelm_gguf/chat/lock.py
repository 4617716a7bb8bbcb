"""The lock that serialises computing on a model."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from ..errors import Cancelled, InvalidArgumentError
from ..native.interrupt import DeferredInterrupt

POLL_S = 0.05
"""How often whoever waits looks whether to give up."""


class CancelFlag:
    """Is set once. Unlike threading.Event it has no lock, so a signal handler may set it at any moment."""

    def __init__(self) -> None:
        self._is_set = False

    def set(self) -> None:
        """Sets it."""
        self._is_set = True

    def is_set(self) -> bool:
        """Whether it was set."""
        return self._is_set


class OwnedLock:
    """A lock that says so instead of hanging when its own thread asks for it twice."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner: int | None = None
        self._waiting: set[int] = set()  # threads

    def check_not_mine(self) -> None:
        """Raises InvalidArgumentError if this thread has the lock: waiting for it would never end."""
        if self._owner == threading.get_ident():
            raise InvalidArgumentError(
                "the model is still answering: finish or close that stream before asking something else"
            )

    def acquire(self, is_cancelled: Callable[[], bool] = lambda: False) -> None:
        """Waits for other threads. In the main thread, to be called with Ctrl-C deferred.

        Raises:
            InvalidArgumentError: this thread has it already.
            Cancelled: `is_cancelled` became true meanwhile.
        """
        self.check_not_mine()
        me = threading.get_ident()
        self._waiting.add(me)
        try:
            while not self._lock.acquire(timeout=POLL_S):
                if is_cancelled():
                    raise Cancelled("cancelled while another thread had the model")
        finally:
            self._waiting.discard(me)
        self._owner = me

    def release(self) -> None:
        """Lets it go; any thread may."""
        self._owner = None
        self._lock.release()

    def let_others(self) -> None:
        """For a thread that will take it again: gives those who wait the time to wake up and take it."""
        if self._waiting:
            time.sleep(0.001)

    @contextlib.contextmanager
    def held(self, is_cancelled: Callable[[], bool] = lambda: False) -> Iterator[DeferredInterrupt]:
        """Holds it for a block; Ctrl-C ends the waiting, and takes effect when the block is over.

        Yields:
            Whose `pending` says whether Ctrl-C was pressed.

        Raises: as `acquire`.
        """
        with DeferredInterrupt() as interrupt:
            self.acquire(lambda: interrupt.pending or is_cancelled())
            try:
                yield interrupt
            finally:
                self.release()
