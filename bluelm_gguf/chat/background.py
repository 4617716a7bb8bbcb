"""Pictures that are read, encoded and prefilled while the user types; see chat.py for the locks."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ..errors import Cancelled, ContextFullError, InvalidArgumentError
from ..llm.context_full import Policy, n_to_drop
from ..llm.draft import Drafts
from ..llm.ledger import cells_of, common
from ..llm.prompt import Segment, Turn, with_images
from ..native.interrupt import DeferredInterrupt
from ..pictures.encoded import EncodedImage, PreparedImage
from ..pictures.planner import TilerOverrides
from ..progress import ProgressFn
from .engine import Engine
from .image_handle import ImageHandle, PictureJob, Progress, State, call_all
from .lock import POLL_S

_PROBES = "a", "0"
"""Two questions that begin with different tokens: what their prompts have in common, every question has."""

Found = EncodedImage | PreparedImage


@dataclasses.dataclass(frozen=True)
class _Beginning:
    """What every next question's prompt begins with: the first n cells of these segments."""

    version: int
    """Of the conversation it was built of."""
    keys: tuple[str, ...]
    """Of the pictures in it that wait for the question."""
    segments: Sequence[Segment]
    n: int


class Background:
    """The background work of one chat.

    One thread works through the pictures in order; it is started when there is work and ends with it.

    Args:
        engine: The chat's.
        changed: The chat's condition (see chat.py); notified whenever a picture's state changes.
        compose: The chat's turns as they would be sent with this question and these pictures; how many of
            them were dropped before. Called with `changed` held.
        policy: What happens when the context is full.
    """

    def __init__(
        self,
        engine: Engine,
        changed: threading.Condition,
        compose: Callable[[str, Sequence[Found]], tuple[list[Turn], int]],
        policy: Policy,
    ) -> None:
        self._engine = engine
        self._changed = changed
        self._compose = compose
        self._policy = policy
        self._thread: threading.Thread | None = None
        self._n_waiting = 0  # questions that wait for the work
        self._is_paused = False
        self._is_closed = False
        self._version = 0  # of the conversation before the pictures
        self._beginning: _Beginning | None = None  # the background thread's
        self._pending: dict[PictureJob, ImageHandle] = {}  # for the next question, in order

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Holds the chat's condition for a moment in which Ctrl-C must not strike."""
        with DeferredInterrupt(), self._changed:
            yield

    # ---------------------------------------------------------------------------------------------- the list

    @property
    def handles(self) -> tuple[ImageHandle, ...]:
        """Pictures for the next question."""
        return tuple(self._pending.values())

    @property
    def jobs(self) -> tuple[PictureJob, ...]:
        """The work behind them."""
        return tuple(self._pending)

    def add(
        self,
        image: Any,
        tiler: TilerOverrides = None,
        on_progress: ProgressFn | None = None,
        label: str | None = None,
    ) -> ImageHandle:
        """Puts a picture at the end and starts working on it."""
        job = PictureJob.of(image, tiler, on_progress, label)
        handle = ImageHandle(self, job)
        with self.changing():
            self._pending[job] = handle
            self._resume()
        return handle

    def put_back(self, images: Iterable[EncodedImage]) -> None:
        """Puts pictures of a question that was taken back in front; `changed` is held."""
        jobs = [PictureJob.of(image) for image in images]
        self._pending = {job: ImageHandle(self, job) for job in jobs} | self._pending
        self.refresh()

    def hand_over(self, jobs: Iterable[PictureJob]) -> None:
        """Takes out what a question took into the conversation; `changed` is held."""
        for job in jobs:
            self._pending.pop(job, None)
        self.refresh()

    def remove_handle(self, handle: ImageHandle) -> None:
        """Takes a picture out and stops its work; another chat's is left alone."""
        job = next((job for job, mine in list(self._pending.items()) if mine is handle), None)
        if job is not None:
            self.remove(job)

    def remove(self, job: PictureJob, *, unless_over: bool = False) -> bool:
        """Takes a picture out and stops its work.

        Args:
            unless_over: Leave it where its work is over.

        Returns:
            Whether it was there and was taken out.
        """
        callbacks: list[Callable[[], object]] = []
        with self.changing():
            is_over = job.state in ("ready", "failed")
            if job not in self._pending or (unless_over and is_over):
                return False
            del self._pending[job]
            if not is_over:
                callbacks = self._end(job, "cancelled", Cancelled(f"{job.name}: taken out of the chat"))
            self.refresh()
        call_all(callbacks)
        return True

    def refresh(self) -> None:
        """The conversation before the pictures has changed: they are prefilled again. `changed` is held."""
        self._version += 1
        for job in self._pending:
            if job.state == "ready":
                job.state = "waiting"
        self._resume()

    def pause(self) -> None:
        """Stops the work; the next question, or picture, goes on with it."""
        with self.changing():
            self._is_paused = True

    def shut_down(self) -> None:
        """Stops the work for good; what was not encoded is cancelled. Does not wait for the thread."""
        callbacks: list[Callable[[], object]] = []
        with self.changing():
            self._is_closed = True
            for job in self._pending:
                if job.state not in ("ready", "failed"):
                    callbacks += self._end(job, "cancelled", Cancelled("the chat was closed"))
            self._pending.clear()
        call_all(callbacks)

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
                progress = self._news(self._pending)
            if on_progress is not None and progress is not None and on_progress(*progress) is False:
                return False

    def wait_for_question(
        self, jobs: Sequence[PictureJob], is_cancelled: Callable[[], bool], on_progress: ProgressFn | None
    ) -> None:
        """Waits until these pictures are ready for a question.

        If the question is withdrawn meanwhile, the work stops until something asks for it again.

        Raises:
            Cancelled: is_cancelled, or on_progress returned False.
            BluelmError: a picture has failed; it is taken out of the chat.
        """
        if any(not job.is_settled for job in jobs):
            self._check_may_wait()
            self._wait_for_question(jobs, is_cancelled, on_progress)
        for job in jobs:
            if job.state == "failed" and job in self._pending:
                self.remove(job)
                assert job.error is not None
                raise job.error

    def _wait_for_question(
        self, jobs: Sequence[PictureJob], is_cancelled: Callable[[], bool], on_progress: ProgressFn | None
    ) -> None:
        is_ready = False
        with self._changed:
            self._n_waiting += 1
            self._resume()
        try:
            while True:
                with self._changed:
                    is_ready = all(job.is_settled for job in jobs)
                    if is_ready:
                        return
                    self._changed.wait(POLL_S)
                    progress = self._news(jobs)
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
        self._engine.lock.check_not_mine()
        if threading.current_thread() is self._thread:
            raise InvalidArgumentError("a callback of the background thread cannot wait for that thread")

    @staticmethod
    def _news(jobs: Iterable[PictureJob]) -> Progress | None:
        """How far the picture is that is worked on."""
        return next((job.progress for job in jobs if job.progress is not None), None)

    def is_idle(self) -> bool:
        """Whether nothing is left to do."""
        return all(job.is_settled for job in self.jobs)

    # ------------------------------------------------------------------------------------------------- thread

    def _resume(self) -> None:
        """Sees to it that a thread works, if there is work; `changed` is held."""
        self._is_paused = False
        if self._thread is None and self._next() is not None:
            self._thread = threading.Thread(target=self._work, name="bluelm-pictures", daemon=True)
            self._thread.start()

    def _next(self) -> PictureJob | None:
        if self._is_paused or self._is_closed:
            return None
        return next((job for job in self._pending if job.state == "waiting"), None)

    def _work(self) -> None:
        while True:
            with self._changed:
                job = self._next()
                if job is None:
                    self._thread = None
                    self._changed.notify_all()
                    return
            self._bring(job)
            self._engine.lock.let_others()

    def _bring(self, job: PictureJob) -> None:
        """Everything for one picture."""
        error: BaseException | None = None
        version = -1
        try:
            if job.encoded is None:
                self._encode(job)
            self._enter(job, "prefilling")
            with self._engine.lock.held(lambda: self._must_stop(job)):
                version = self._version
                self._prefill(job)
        except BaseException as caught:
            error = caught
        callbacks: list[Callable[[], object]] = []
        with self._changed:
            job.progress = None
            if job.state == "cancelled":
                pass  # whoever cancelled it has seen to it
            elif error is None:
                is_pending = job in self._pending
                job.state = "ready" if version == self._version or not is_pending else "waiting"
            elif isinstance(error, Cancelled) and not job.is_refused:
                job.state = "waiting"  # stopped, and perhaps wanted again already
            elif isinstance(error, Cancelled):
                self._pending.pop(job, None)
                callbacks = self._end(job, "cancelled", error)
            else:
                callbacks = self._end(job, "failed", error)
            if job.is_settled:
                self._beginning = None
            self._changed.notify_all()
        call_all(callbacks)

    def _encode(self, job: PictureJob) -> None:
        from ..pictures.images import load_image

        rgb, read_ms = None, 0.0
        if job.prepared is None:  # else it was stopped after this
            self._enter(job, "reading")
            start = time.perf_counter()
            rgb = load_image(job.image, name=job.label)
            read_ms = (time.perf_counter() - start) * 1e3
        with self._engine.lock.held(lambda: self._must_stop(job)):
            if job.prepared is None:
                prepared = self._engine.prepare(rgb, tiler=job.tiler)
                job.prepared = dataclasses.replace(prepared, decode_ms=read_ms)
                job.image = None
            # Refuses a picture for which no question can have room, before the long work.
            self._find_beginning(job)
            self._enter(job, "encoding")
            encoded = self._engine.embed(job.prepared, self._reporter(job))
        self._engine.lock.let_others()
        with self._changed:
            if job.state == "cancelled":
                return
            job.encoded = encoded
            job.origin = "cached" if encoded.is_cached else "encoded"
            job.prepared = None
            callbacks = job.take_callbacks()
            self._changed.notify_all()
        call_all(callbacks)

    def _prefill(self, job: PictureJob) -> None:
        """Brings into the KV cache what every next question's prompt begins with."""
        try:
            beginning, images = self._find_beginning(job)
        except ContextFullError:
            return  # the question will say so, unless the conversation has changed by then
        encoded = [image for image in images if isinstance(image, EncodedImage)]
        segments = with_images(beginning.segments, encoded)
        self._engine.ledger.bring(segments, n=beginning.n, logits=False, on_progress=self._reporter(job))

    def _find_beginning(self, job: PictureJob) -> tuple[_Beginning, list[Found]]:
        """Of the conversation with the pictures up to this one; and these.

        Raises:
            ContextFullError: no question can have room.
        """
        with self._changed:
            images: list[Found] = []
            for one in self._pending:
                if one.found is not None:
                    images.append(one.found)
                if one is job:
                    break
            turns, n_dropped = self._compose(_PROBES[0], images)
            version = self._version
        keys = tuple(image.key for image in images)
        known = self._beginning
        if known is None or (known.version, known.keys) != (version, keys):
            drafts = Drafts(self._engine.prompts, turns, _PROBES)
            n = n_to_drop(
                turns, n_dropped, drafts.count, n_ctx=self._engine.n_ctx, max_tokens=None, policy=self._policy
            )
            one_prompt, other = drafts.variants(n)
            n_common = common(cells_of(one_prompt), cells_of(other))
            known = self._beginning = _Beginning(version, keys, one_prompt, n_common)
        return known, images

    def _enter(self, job: PictureJob, state: State) -> None:
        """Marks the beginning of a step, unless the work must stop."""
        with self._changed:
            if self._must_stop(job):
                raise Cancelled(f"{job.name}: cancelled")
            job.state = state
            job.progress = None
            self._changed.notify_all()

    def _must_stop(self, job: PictureJob) -> bool:
        return self._is_paused or self._is_closed or job.state == "cancelled"

    def _reporter(self, job: PictureJob) -> ProgressFn:
        def report(stage: str, done: int, total: int) -> bool:
            with self._changed:
                if self._must_stop(job):
                    return False
                job.progress = (stage, done, total)
                self._changed.notify_all()
            if job.on_progress is None:
                return True
            job.is_refused = True  # if it raises
            job.is_refused = job.on_progress(stage, done, total) is False
            return not job.is_refused

        return report

    def _end(self, job: PictureJob, state: State, error: BaseException) -> list[Callable[[], object]]:
        """A picture's end without success; returns the callbacks that are due once `changed` is free."""
        job.state = state
        job.error = error
        job.image = job.prepared = None
        self._changed.notify_all()
        return job.take_callbacks()
