"""Pictures that are read, encoded and prefilled while the user types; see chat.py for the locks."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import threading
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from ..errors import Cancelled, ContextFullError, InvalidArgumentError
from ..llm.context_full import n_to_drop, shortened
from ..llm.ledger import cells_of, common
from ..llm.prompt import Segment, Turn, n_tokens
from ..native.interrupt import DeferredInterrupt
from ..pictures.vision import EncodedImage, PreparedImage, TilerOverrides
from ..progress import ProgressFn
from .lock import POLL_S

if TYPE_CHECKING:
    from ..model import Model
    from ..pictures.tiling import TilePlan

State = Literal["waiting", "reading", "encoding", "prefilling", "ready", "failed", "cancelled"]
Progress = tuple[str, int, int]

_PROBES = "a", "0"
"""Two questions that begin with different tokens: what their prompts have in common, every question has."""


class ImageHandle:
    """A picture of a chat, on its way from a file to the KV cache; made by `Chat.add_image`.

    Any thread may use it. In asyncio, `await handle` gives the EncodedImage without blocking the loop.
    """

    def __init__(
        self,
        background: Background,
        image: Any,
        tiler: TilerOverrides = None,
        on_progress: ProgressFn | None = None,
        name: str | None = None,
    ) -> None:
        self._background = background
        self._image = image
        self._tiler = tiler
        self._on_progress = on_progress
        self._state: State = "waiting"
        self._progress: Progress | None = None
        self._prepared: PreparedImage | None = None
        self._encoded: EncodedImage | None = image if isinstance(image, EncodedImage) else None
        self._label = name  # for messages
        self._origin: Literal["given", "encoded", "cached"] = "given"
        self._is_refused = False  # on_progress wants no more of it
        self._error: BaseException | None = None
        self._callbacks: list[Callable[[ImageHandle], object]] = []
        kind = os.fspath(image) if isinstance(image, str | os.PathLike) else type(image).__name__
        self.name: str = name or os.fsdecode(kind)
        """The path as it was given, or the kind of object."""

    @property
    def state(self) -> State:
        """How far it is: "waiting" for its turn, "reading" the file, "encoding", "prefilling" into the KV
        cache, "ready" for a question that computes nothing of it; or "failed", "cancelled"."""
        return self._state

    @property
    def progress(self) -> Progress | None:
        """(stage, done, total) of what is being done now: "encode" counts tiles, "prefill" tokens."""
        return self._progress

    @property
    def plan(self) -> TilePlan | None:
        """How the picture is cut; None until it was read."""
        found = self._encoded or self._prepared
        return found.plan if found is not None else None

    @property
    def n_tokens(self) -> int | None:
        """Tokens of the picture; None until it was read."""
        found = self._encoded or self._prepared
        return found.n_tokens if found is not None else None

    def done(self) -> bool:
        """Whether `result` returns, or raises, at once: the picture is encoded, or never will be."""
        return self._encoded is not None or self._error is not None

    def cancel(self) -> bool:
        """Stops the work and takes the picture out of the chat; False if the work was over already."""
        return self._background.remove(self, unless_over=True)

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
        if self._encoded is not None:
            return self._encoded
        assert self._error is not None
        raise self._error

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Waits as `result` does; returns the error, or None if the picture was encoded."""
        self._wait(timeout)
        return None if self._encoded is not None else self._error

    def _wait(self, timeout: float | None) -> None:
        if not self.done() and not self._background.wait_until(self.done, timeout):
            raise TimeoutError(f"{self.name}: not encoded after {timeout} s")

    def add_done_callback(self, function: Callable[[ImageHandle], object]) -> None:
        """Calls `function(handle)` once the handle is done: in the thread that finds so, or now if it is."""
        with self._background.changing():
            if not self.done():
                self._callbacks.append(function)
                return
        _call(function, self)

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

    def _is_settled(self) -> bool:
        return self._state in ("ready", "failed", "cancelled")

    def __repr__(self) -> str:
        return f"<ImageHandle {self.name!r} {self._state}>"


class Background:
    """The background work of one chat.

    One thread works through the pictures in order; it is started when there is work and ends with it.

    Args:
        model: The chat's.
        changed: The chat's condition (see chat.py); notified whenever a picture's state changes.
        compose: The chat's turns as they would be sent with these pictures and this question; how many of
            them were dropped before. Called with `changed` held.
        policy: What happens when the context is full.
    """

    def __init__(
        self,
        model: Model,
        changed: threading.Condition,
        compose: Callable[[str, Sequence[EncodedImage | PreparedImage]], tuple[list[Turn], int]],
        policy: Any,
    ) -> None:
        self._model = model
        self._changed = changed
        self._compose = compose
        self._policy = policy
        self._thread: threading.Thread | None = None
        self._n_waiting = 0  # questions that wait for the work
        self._is_paused = False
        self._is_closed = False
        self._version = 0  # of the conversation before the pictures
        self.pending: list[ImageHandle] = []
        """Pictures for the next question; guarded by `changed`."""

    def changing(self) -> _Changing:
        """Holds the chat's condition for a moment in which Ctrl-C must not strike."""
        return _Changing(self._changed)

    # ---------------------------------------------------------------------------------------------- the list

    def add(self, handle: ImageHandle) -> None:
        """Puts a picture at the end and starts working on it."""
        with self.changing():
            self.pending.append(handle)
            self._resume()

    def remove(self, handle: ImageHandle, *, unless_over: bool = False) -> bool:
        """Takes a picture out and stops its work.

        Args:
            unless_over: Leave it where its work is over.

        Returns:
            Whether it was there and was taken out.
        """
        callbacks: list[Callable[[ImageHandle], object]] = []
        with self.changing():
            is_over = handle._state in ("ready", "failed")
            if handle not in self.pending or (unless_over and is_over):
                return False
            self.pending.remove(handle)
            if not is_over:
                callbacks = self._end(handle, "cancelled", Cancelled(f"{handle.name}: taken out of the chat"))
            self.refresh()
        _call_all(callbacks, handle)
        return True

    def refresh(self) -> None:
        """The conversation before the pictures has changed: they are prefilled again. `changed` is held."""
        self._version += 1
        for handle in self.pending:
            if handle._state == "ready":
                handle._state = "waiting"
        self._resume()

    def pause(self) -> None:
        """Stops the work; the next question, or picture, goes on with it."""
        with self.changing():
            self._is_paused = True

    def shut_down(self) -> None:
        """Stops the work for good; what was not encoded is cancelled. Does not wait for the thread."""
        with self.changing():
            self._is_closed = True
            ended = []
            for handle in self.pending:
                if handle._state not in ("ready", "failed"):
                    ended.append((handle, self._end(handle, "cancelled", Cancelled("the chat was closed"))))
            self.pending.clear()
        for handle, callbacks in ended:
            _call_all(callbacks, handle)

    # ------------------------------------------------------------------------------------------------ waiting

    def wait_until(
        self, is_over: Callable[[], bool], timeout: float | None = None, on_progress: ProgressFn | None = None
    ) -> bool:
        """Waits for the work. Ctrl-C, or on_progress returning False, ends the waiting and nothing else.

        Returns:
            Whether `is_over` became true, within `timeout` seconds.
        """
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            with self.changing():
                if is_over():
                    return True
                self._check_may_wait()
                self._resume()
                left = POLL_S if end is None else min(POLL_S, end - time.monotonic())
                if left <= 0:
                    return False
                self._changed.wait(left)
                progress = self._news(self.pending)
            if on_progress is not None and progress is not None and on_progress(*progress) is False:
                return False

    def wait_for_question(
        self, handles: Sequence[ImageHandle], is_cancelled: Callable[[], bool], on_progress: ProgressFn | None
    ) -> None:
        """Waits until these pictures are ready for a question.

        If the question is withdrawn meanwhile, the work stops until something asks for it again.

        Raises:
            Cancelled: is_cancelled, or on_progress returned False.
            BluelmError: a picture has failed; it is taken out of the chat.
        """
        if any(not handle._is_settled() for handle in handles):
            self._check_may_wait()
            self._wait_for_question(handles, is_cancelled, on_progress)
        for handle in handles:
            if handle._state == "failed" and handle in self.pending:
                self.remove(handle)
                assert handle._error is not None
                raise handle._error

    def _wait_for_question(
        self, handles: Sequence[ImageHandle], is_cancelled: Callable[[], bool], on_progress: ProgressFn | None
    ) -> None:
        is_ready = False
        with self._changed:
            self._n_waiting += 1
            self._resume()
        try:
            while True:
                with self._changed:
                    is_ready = all(handle._is_settled() for handle in handles)
                    if is_ready:
                        return
                    self._changed.wait(POLL_S)
                    progress = self._news(handles)
                if is_cancelled() or (
                    progress is not None and on_progress is not None and on_progress(*progress) is False
                ):
                    raise Cancelled("the question was withdrawn")
        finally:
            with self._changed:
                self._n_waiting -= 1
                if not is_ready and self._n_waiting == 0:
                    self._is_paused = True

    def _check_may_wait(self) -> None:
        self._model._lock.check_not_mine()
        if threading.current_thread() is self._thread:
            raise InvalidArgumentError("a callback of the background thread cannot wait for that thread")

    @staticmethod
    def _news(handles: Iterable[ImageHandle]) -> Progress | None:
        """How far the picture is that is worked on."""
        return next((h._progress for h in handles if h._progress is not None), None)

    def is_idle(self) -> bool:
        """Whether nothing is left to do."""
        return all(handle._is_settled() for handle in self.pending)

    # ------------------------------------------------------------------------------------------------- thread

    def _resume(self) -> None:
        """Sees to it that a thread works, if there is work; `changed` is held."""
        self._is_paused = False
        if self._thread is None and self._next() is not None:
            self._thread = threading.Thread(target=self._work, name="bluelm-pictures", daemon=True)
            self._thread.start()

    def _next(self) -> ImageHandle | None:
        if self._is_paused or self._is_closed:
            return None
        return next((handle for handle in self.pending if handle._state == "waiting"), None)

    def _work(self) -> None:
        while True:
            with self._changed:
                handle = self._next()
                if handle is None:
                    self._thread = None
                    self._changed.notify_all()
                    return
            self._bring(handle)
            self._model._lock.let_others()

    def _bring(self, handle: ImageHandle) -> None:
        """Everything for one picture."""
        error: BaseException | None = None
        version = -1
        try:
            if handle._encoded is None:
                self._encode(handle)
            self._enter(handle, "prefilling")
            with self._model._lock.held(lambda: self._must_stop(handle)):
                version = self._version
                self._prefill(handle)
        except BaseException as caught:
            error = caught
        callbacks: list[Callable[[ImageHandle], object]] = []
        with self._changed:
            handle._progress = None
            if handle._state == "cancelled":
                pass  # whoever cancelled it has seen to it
            elif error is None:
                is_pending = handle in self.pending
                handle._state = "ready" if version == self._version or not is_pending else "waiting"
            elif isinstance(error, Cancelled) and not handle._is_refused:
                handle._state = "waiting"  # stopped, and perhaps wanted again already
            elif isinstance(error, Cancelled):
                if handle in self.pending:
                    self.pending.remove(handle)
                callbacks = self._end(handle, "cancelled", error)
            else:
                callbacks = self._end(handle, "failed", error)
            self._changed.notify_all()
        _call_all(callbacks, handle)

    def _encode(self, handle: ImageHandle) -> None:
        from ..pictures.images import load_image

        rgb, read_ms = None, 0.0
        if handle._prepared is None:  # else it was stopped after this
            self._enter(handle, "reading")
            start = time.perf_counter()
            rgb = load_image(handle._image, name=handle._label)
            read_ms = (time.perf_counter() - start) * 1e3
        with self._model._lock.held(lambda: self._must_stop(handle)):
            if handle._prepared is None:
                prepared = self._model._need_vision().prepare(rgb, tiler=handle._tiler)
                handle._prepared = dataclasses.replace(prepared, decode_ms=read_ms)
                handle._image = None
            self._check_fits(handle)
            self._enter(handle, "encoding")
            encoded = self._model._embed(handle._prepared, self._reporter(handle))
        self._model._lock.let_others()
        with self._changed:
            if handle._state == "cancelled":
                return
            handle._encoded = encoded
            handle._origin = "cached" if encoded.is_cached else "encoded"
            handle._prepared = None
            callbacks, handle._callbacks = handle._callbacks, []
            self._changed.notify_all()
        _call_all(callbacks, handle)

    def _check_fits(self, handle: ImageHandle) -> None:
        """Refuses a picture for which no question can have room, before the long work."""
        self._fit(self._prompt_turns(handle, _PROBES[0]))

    def _prefill(self, handle: ImageHandle) -> None:
        """Brings into the KV cache what every next question's prompt begins with."""
        try:
            segments, n = self._beginning(handle)
        except ContextFullError:
            return  # the question will say so, unless the conversation has changed by then
        self._model._ledger.bring(segments, n=n, logits=False, on_progress=self._reporter(handle))

    def _beginning(self, handle: ImageHandle) -> tuple[list[Segment], int]:
        one, other = (
            self._model._prompts.build(self._fit(self._prompt_turns(handle, probe))) for probe in _PROBES
        )
        return one, common(cells_of(one), cells_of(other))

    def _prompt_turns(self, handle: ImageHandle, question: str) -> tuple[list[Turn], int]:
        """The conversation with the pictures up to this one."""
        with self._changed:
            images: list[EncodedImage | PreparedImage] = []
            for one in self.pending:
                found = one._encoded or one._prepared
                if found is not None:
                    images.append(found)
                if one is handle:
                    break
            return self._compose(question, images)

    def _fit(self, conversation: tuple[list[Turn], int]) -> list[Turn]:
        turns, n_dropped = conversation
        model = self._model
        n = n_to_drop(
            turns,
            n_dropped,
            lambda n: n_tokens(model._prompts.build(shortened(turns, n))),
            n_ctx=model.n_ctx,
            max_tokens=None,
            policy=self._policy,
        )
        return shortened(turns, n)

    def _enter(self, handle: ImageHandle, state: State) -> None:
        """Marks the beginning of a step, unless the work must stop."""
        with self._changed:
            if self._must_stop(handle):
                raise Cancelled(f"{handle.name}: cancelled")
            handle._state = state
            handle._progress = None
            self._changed.notify_all()

    def _must_stop(self, handle: ImageHandle) -> bool:
        return self._is_paused or self._is_closed or handle._state == "cancelled"

    def _reporter(self, handle: ImageHandle) -> ProgressFn:
        def report(stage: str, done: int, total: int) -> bool:
            with self._changed:
                if self._must_stop(handle):
                    return False
                handle._progress = (stage, done, total)
                self._changed.notify_all()
            if handle._on_progress is None:
                return True
            handle._is_refused = True  # if it raises
            handle._is_refused = handle._on_progress(stage, done, total) is False
            return not handle._is_refused

        return report

    def _end(
        self, handle: ImageHandle, state: State, error: BaseException
    ) -> list[Callable[[ImageHandle], object]]:
        """A picture's end without success; returns the callbacks that are due once `changed` is free."""
        handle._state = state
        handle._error = error
        handle._image = handle._prepared = None
        callbacks, handle._callbacks = handle._callbacks, []
        self._changed.notify_all()
        return callbacks


class _Changing:
    """A condition held, with Ctrl-C deferred."""

    def __init__(self, changed: threading.Condition) -> None:
        self._interrupt = DeferredInterrupt()
        self._changed = changed

    def __enter__(self) -> None:
        self._interrupt.__enter__()
        self._changed.acquire()

    def __exit__(self, *error: object) -> None:
        self._changed.release()
        self._interrupt.__exit__(*error)


def _call_all(functions: Iterable[Callable[[ImageHandle], object]], handle: ImageHandle) -> None:
    for function in functions:
        _call(function, handle)


def _call(function: Callable[[ImageHandle], object], handle: ImageHandle) -> None:
    """As concurrent.futures does: what a callback raises is logged and hurts nobody else."""
    try:
        function(handle)
    except Exception:
        logging.getLogger(__name__).exception("a done callback of %r failed", handle)
