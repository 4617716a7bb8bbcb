"""A picture of a chat on its way into the KV cache: its state, and the handle that the user has of it."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ..pictures.encoded import EncodedImage, PreparedImage
from ..pictures.planner import TilerOverrides
from ..progress import ProgressFn

if TYPE_CHECKING:
    from ..pictures.tiling import TilePlan

State = Literal["waiting", "reading", "encoding", "prefilling", "ready", "failed", "cancelled"]
Progress = tuple[str, int, int]


@dataclass(eq=False)
class PictureJob:
    """What is known of one picture; guarded by the chat's condition."""

    image: Any
    """As it was given; None once it was read."""
    name: str
    """The path as it was given, or the kind of object."""
    label: str | None = None
    """For messages about a picture without a path."""
    tiler: TilerOverrides = None
    on_progress: ProgressFn | None = None
    state: State = "waiting"
    progress: Progress | None = None
    prepared: PreparedImage | None = None
    encoded: EncodedImage | None = None
    origin: Literal["given", "encoded", "cached"] = "given"
    is_refused: bool = False
    """on_progress wants no more of it."""
    error: BaseException | None = None
    callbacks: list[Callable[[], object]] = field(default_factory=list)
    """Called when it is done, without the condition."""

    @classmethod
    def of(
        cls,
        image: Any,
        tiler: TilerOverrides = None,
        on_progress: ProgressFn | None = None,
        label: str | None = None,
    ) -> PictureJob:
        """For what `Chat.add_image` was given."""
        kind = os.fspath(image) if isinstance(image, str | os.PathLike) else type(image).__name__
        encoded = image if isinstance(image, EncodedImage) else None
        return cls(image, label or os.fsdecode(kind), label, tiler, on_progress, encoded=encoded)

    @property
    def found(self) -> EncodedImage | PreparedImage | None:
        """The picture as far as it came."""
        return self.encoded or self.prepared

    @property
    def is_done(self) -> bool:
        """Whether it is encoded, or never will be."""
        return self.encoded is not None or self.error is not None

    @property
    def is_settled(self) -> bool:
        """Whether nothing is left to do."""
        return self.state in ("ready", "failed", "cancelled")

    def take_callbacks(self) -> list[Callable[[], object]]:
        """The callbacks that are due; each is taken once."""
        callbacks, self.callbacks = self.callbacks, []
        return callbacks


class PictureWork(Protocol):
    """What a handle needs of the work on its picture: `Background`."""

    def changing(self) -> AbstractContextManager[None]:
        """Holds the chat's condition."""

    def remove(self, job: PictureJob, *, unless_over: bool = False) -> bool:
        """Takes a picture out of the chat."""

    def wait_until(self, is_over: Callable[[], bool], timeout: float | None = None) -> bool:
        """Waits for the work."""


class ImageHandle:
    """A picture of a chat, on its way from a file to the KV cache; made by `Chat.add_image`.

    Any thread may use it. In asyncio, `await handle` gives the EncodedImage without blocking the loop.
    """

    def __init__(self, work: PictureWork, job: PictureJob) -> None:
        self._work = work
        self._job = job
        self.name: str = job.name
        """The path as it was given, or the kind of object."""

    @property
    def state(self) -> State:
        """How far it is: "waiting" for its turn, "reading" the file, "encoding", "prefilling" into the KV
        cache, "ready" for a question that computes nothing of it; or "failed", "cancelled"."""
        return self._job.state

    @property
    def progress(self) -> Progress | None:
        """(stage, done, total) of what is being done now: "encode" counts tiles, "prefill" tokens."""
        return self._job.progress

    @property
    def plan(self) -> TilePlan | None:
        """How the picture is cut; None until it was read."""
        found = self._job.found
        return found.plan if found is not None else None

    @property
    def n_tokens(self) -> int | None:
        """Tokens of the picture; None until it was read."""
        found = self._job.found
        return found.n_tokens if found is not None else None

    def done(self) -> bool:
        """Whether `result` returns, or raises, at once: the picture is encoded, or never will be."""
        return self._job.is_done

    def cancel(self) -> bool:
        """Stops the work and takes the picture out of the chat; False if the work was over already."""
        return self._work.remove(self._job, unless_over=True)

    def result(self, timeout: float | None = None) -> EncodedImage:
        """Waits until the picture is encoded.

        Args:
            timeout: Seconds; None: as long as it takes.

        Raises:
            TimeoutError: it takes longer; the work goes on.
            Cancelled: the picture was taken out of the chat before it was encoded.
            ImageError, ContextFullError, OutOfMemoryError: what the work ended with.
            KeyboardInterrupt: Ctrl-C; the work goes on.
        """
        self._wait(timeout)
        if self._job.encoded is not None:
            return self._job.encoded
        assert self._job.error is not None
        raise self._job.error

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Waits as `result` does; returns the error, or None if the picture was encoded."""
        self._wait(timeout)
        return None if self._job.encoded is not None else self._job.error

    def _wait(self, timeout: float | None) -> None:
        if not self.done() and not self._work.wait_until(self.done, timeout):
            raise TimeoutError(f"{self.name}: not encoded after {timeout} s")

    def add_done_callback(self, function: Callable[[ImageHandle], object]) -> None:
        """Calls `function(handle)` once the handle is done: in the thread that finds so, or now if it is."""

        def call() -> None:
            # As concurrent.futures does: what a callback raises is logged and hurts nobody else.
            try:
                function(self)
            except Exception:
                logging.getLogger(__name__).exception("a done callback of %r failed", self)

        with self._work.changing():
            if not self.done():
                self._job.callbacks.append(call)
                return
        call()

    def __await__(self) -> Generator[Any, None, EncodedImage]:
        import asyncio

        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            if not future.done():
                future.set_result(None)

        def tell(_: ImageHandle) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(wake)

        self.add_done_callback(tell)
        yield from future
        return self.result()

    def __repr__(self) -> str:
        return f"<ImageHandle {self.name!r} {self.state}>"


def call_all(functions: Iterable[Callable[[], object]]) -> None:
    """Calls what `PictureJob.take_callbacks` returned; the condition must not be held."""
    for function in functions:
        function()
