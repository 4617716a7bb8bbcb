"""Answers for asyncio: computed in a thread, handed to the loop piece by piece."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Iterator
from types import TracebackType
from typing import Protocol


class Stream(Protocol):
    """An answer in pieces: `ReplyStream`."""

    def __enter__(self) -> Iterator[str]:
        """The pieces; the answer is closed at the end of the block."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def cancel(self) -> None:
        """Ends the answer within the current step."""


async def pieces(stream: Stream) -> AsyncGenerator[str, None]:
    """The pieces of an answer, without blocking the running loop.

    Each answer has a thread of its own: in the loop's pool of threads, answers that wait for the model could
    take all of them and leave none for the answer that has it. Leaving the iterator, or cancelling the task,
    cancels the answer and waits until it has let the model go.

    Raises:
        What the stream raises.
    """
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[str | _End] = asyncio.Queue()

    def post(item: str | _End) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            loop.call_soon_threadsafe(queue.put_nowait, item)

    def work() -> None:
        error: BaseException | None = None
        try:
            with stream as each:
                for piece in each:
                    post(piece)
        except BaseException as caught:
            error = caught
        post(_End(error))

    threading.Thread(target=work, name="bluelm-answer", daemon=True).start()
    item: str | _End = ""
    try:
        while True:
            item = await queue.get()
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item
    finally:
        stream.cancel()
        while not isinstance(item, _End):
            item = await queue.get()


class _End:
    """After the last piece."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error
