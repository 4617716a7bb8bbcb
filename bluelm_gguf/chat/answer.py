"""One answer: encode the pictures, prefill the prompt, decode token by token, with the clock running."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import Cancelled, ContextFullError, InvalidArgumentError
from ..llm.context_full import shortened
from ..llm.ledger import Prefilled
from ..llm.prompt import ImageSegment, Segment, Turn, n_tokens
from ..llm.sampling import Sampler, Sampling
from ..llm.text import TextStream
from ..native.interrupt import DeferredInterrupt
from ..pictures.vision import EncodedImage, TilerOverrides
from ..progress import ProgressFn
from .lock import CancelFlag
from .results import FinishReason, Reply, Timings

if TYPE_CHECKING:
    from ..model import Model


class Question:
    """What is asked, and what happens around the answer; `Chat` overrides it.

    Args:
        turns: The conversation; the last turn is the question. Its pictures are encoded.
        images: Further pictures of the last turn, encoded or not.
    """

    def __init__(self, turns: Sequence[Turn], images: Sequence[Any] = ()) -> None:
        self._turns = list(turns)
        self._images = list(images)
        self.n_encoded = self.n_cached = 0
        """Pictures of this question that were encoded, or found in the cache, before it was asked."""
        self.n_newly_dropped = 0

    def begin(self, is_cancelled: Callable[[], bool], on_progress: ProgressFn | None) -> None:
        """Called before the model is taken; may wait. Raises Cancelled when asked to."""

    def compose(self) -> tuple[list[Turn], list[Any]]:
        """Turns and pictures as of now; called once the model is held."""
        return self._turns, self._images

    def fit(self, count: Callable[[int], int], *, n_ctx: int, max_tokens: int | None) -> int:
        """How many of the oldest turns must be left out.

        Args:
            count: Tokens of the prompt without the n oldest turns.

        Raises:
            ContextFullError: the prompt does not fit.
        """
        n_prompt = count(0)
        if n_prompt + 1 > n_ctx:
            raise ContextFullError(
                f"the prompt has {n_prompt} tokens and the answer needs at least one more, but the context "
                f"holds {n_ctx}: shorten it, use fewer or smaller pictures, or a larger context"
            )
        return 0

    def finish(self, asked: Turn, reply: Reply) -> None:
        """Called when the answer is over, with the question's turn; the model is still held."""


@dataclass
class Request:
    """What one answer is asked with; see `Model.stream_turns`."""

    question: Question
    sampling: Sampling
    max_tokens: int | None
    stop: tuple[str, ...]
    tiler: TilerOverrides
    on_progress: ProgressFn | None
    reuse: bool


class _Run:
    """The work behind one answer: encode, prefill, decode, with the clock running."""

    def __init__(self, model: Model, request: Request, is_cancelled: Callable[[], bool]) -> None:
        self.model = model
        self.llm = model.llm
        self.request = request
        self.is_cancelled = is_cancelled
        self.started = time.perf_counter()
        self.finish_reason: FinishReason = "stop"
        self.asked: Turn | None = None
        self.text: list[str] = []
        self.tokens: list[int] = []
        self.plans: list[Any] = []
        self.wait_s = self.encode_s = self.prefill_s = self.decode_s = self.ttft_s = 0.0
        self.n_encoded = self.n_cached = self.n_image = self.n_text = self.n_steps = 0
        self.prefilled = Prefilled()
        self.sampler: Sampler | None = None

    def pieces(self) -> Iterator[str]:
        self.wait_s = time.perf_counter() - self.started
        segments = self._prepare()
        self._prefill(segments)
        yield from self._decode()

    # ----------------------------------------------------------------------------------------------- encode

    def _prepare(self) -> list[Segment]:
        """Encodes the pictures and builds the prompt; refuses what cannot fit before any of the long work."""
        request, model = self.request, self.model
        turns, images = request.question.compose()
        prepared: list[Any] = []
        for image in images:
            if isinstance(image, EncodedImage):
                prepared.append(model._check_encoded(image))
            else:
                prepared.append(model._need_vision().prepare(image, tiler=request.tiler))
        last = turns[-1]

        def with_images(images: list[Any]) -> list[Turn]:
            return [*turns[:-1], Turn(last.role, last.text, (*last.images, *images), last.tokens)]

        # A prepared picture already knows how many tokens it will have: that is all the length check needs.
        draft = with_images(prepared)
        n_dropped = request.question.fit(
            lambda n: n_tokens(model._prompts.build(shortened(draft, n))),
            n_ctx=self.llm.n_ctx,
            max_tokens=request.max_tokens,
        )
        total = sum(0 if isinstance(p, EncodedImage) else p.plan.n_tiles for p in prepared)
        done = 0
        encoded: list[EncodedImage] = []
        for picture in prepared:
            if not isinstance(picture, EncodedImage):
                start = time.perf_counter()
                picture = model._embed(picture, self._progress("encode", done, total))
                self.encode_s += time.perf_counter() - start
                self.n_cached += picture.is_cached
                self.n_encoded += not picture.is_cached
                done += picture.plan.n_tiles
            encoded.append(picture)
            self.plans.append(picture.plan)
        turns = with_images(encoded)
        self.asked = turns[-1]
        segments = model._prompts.build(shortened(turns, n_dropped))
        if not segments:
            raise InvalidArgumentError("the prompt is empty: there is nothing to answer")
        return segments

    def _progress(self, stage: str, base: int, total: int) -> ProgressFn:
        """on_progress with counts over all pictures; cancels when asked to."""

        def report(_stage: str, done: int, _total: int) -> bool:
            return self._report(stage, base + done, total)

        return report

    def _report(self, stage: str, done: int, total: int) -> bool:
        if self.is_cancelled():
            return False
        callback = self.request.on_progress
        if callback is not None and callback(stage, done, total) is False:
            return False
        return not self.is_cancelled()  # it may have been the callback

    # ---------------------------------------------------------------------------------------------- prefill

    def _prefill(self, segments: list[Segment]) -> None:
        self.n_image = n_tokens(segments, kind=ImageSegment)
        self.n_text = n_tokens(segments) - self.n_image
        start = time.perf_counter()
        ledger = self.model._ledger
        try:
            ledger.bring(segments, reuse=self.request.reuse, on_progress=self._report, done=self.prefilled)
        finally:
            self.prefill_s = time.perf_counter() - start
        history = [cell for cell in ledger.cells if isinstance(cell, int)]
        self.sampler = Sampler(self.request.sampling, self.llm, history)

    # ----------------------------------------------------------------------------------------------- decode

    def _decode(self) -> Iterator[str]:
        llm, ledger, request = self.llm, self.model._ledger, self.request
        assert self.sampler is not None
        out = TextStream(request.stop)
        token = llm.sample(self.sampler)
        self.ttft_s = time.perf_counter() - self.started
        while True:
            if llm.is_end(token):
                self.finish_reason = "stop"
                break
            self.tokens.append(token)
            piece = out.push(llm.piece(token))
            if piece:
                self.text.append(piece)
                yield piece
            if out.stopped:
                self.finish_reason = "stop"
                break
            if self.is_cancelled():
                self.finish_reason = "cancelled"
                break
            if len(self.tokens) == request.max_tokens or len(ledger.cells) >= llm.n_ctx:
                self.finish_reason = "length"
                break
            start = time.perf_counter()
            try:
                ledger.append(token, on_progress=lambda *_: not self.is_cancelled())
            except Cancelled:
                self.finish_reason = "cancelled"
                break
            token = llm.sample(self.sampler)
            self.n_steps += 1
            self.decode_s += time.perf_counter() - start
        rest = out.finish()
        if rest:
            self.text.append(rest)
            yield rest

    def close(self) -> None:
        if self.sampler is not None:
            self.sampler.close()
            self.sampler = None

    def reply(self, reason: FinishReason | None = None) -> Reply:
        """The answer so far."""
        n_prefilled = self.prefilled.n_image + self.prefilled.n_text
        timings = Timings(
            wait_ms=self.wait_s * 1e3,
            encode_ms=self.encode_s * 1e3,
            prefill_ms=self.prefill_s * 1e3,
            prefill_tps=n_prefilled / self.prefill_s if self.prefill_s else 0.0,
            decode_ms=self.decode_s * 1e3,
            decode_tps=self.n_steps / self.decode_s if self.decode_s else 0.0,
            ttft_ms=self.ttft_s * 1e3,
            total_ms=(time.perf_counter() - self.started) * 1e3,
            image_tokens=self.n_image,
            image_tokens_prefilled=self.prefilled.n_image,
            text_tokens=self.n_text,
            text_tokens_prefilled=self.prefilled.n_text,
            generated_tokens=len(self.tokens),
            images_encoded=self.n_encoded + self.request.question.n_encoded,
            images_cached=self.n_cached + self.request.question.n_cached,
        )
        return Reply(
            text="".join(self.text),
            finish_reason=reason or self.finish_reason,
            timings=timings,
            plans=tuple(self.plans),
            tokens=tuple(self.tokens),
            dropped_turns=self.request.question.n_newly_dropped,
        )


class ReplyStream(Iterator[str]):
    """Pieces of an answer as they are computed.

    The model is busy with it from the first piece until it is exhausted or closed; a `for` loop that is left
    early closes it when nothing refers to it any more, `with` does so at once. Ctrl-C stops the step that is
    being computed and raises KeyboardInterrupt; after `close()`, `reply` then holds what was answered so far.
    `async for` works too: the answer is then computed in a thread of its own.

    Attributes:
        reply: The Reply when the answer is over (also a cancelled one), else None.
    """

    def __init__(self, model: Model, request: Request) -> None:
        self._model = model
        self._request = request
        self._cancel = CancelFlag()
        self._step = threading.RLock()  # held while computing
        self._is_computing = False
        self._holds_model = False
        self._run: _Run | None = None
        self._pieces: Iterator[str] | None = None
        self._over = False
        self.reply: Reply | None = None

    def __iter__(self) -> ReplyStream:
        return self

    def __aiter__(self) -> AsyncGenerator[str, None]:
        from .asynchronous import pieces

        return pieces(self)

    def __next__(self) -> str:
        with DeferredInterrupt(self._cancel.set), self._step:
            if self._over:
                raise StopIteration
            self._is_computing = True
            try:
                return self._compute()
            except Cancelled:
                if not self._cancel.is_set():
                    self._let_go()
                    raise
                self._finish("cancelled")
            except BaseException:
                self._let_go()
                raise
            finally:
                self._is_computing = False
        raise StopIteration

    def _compute(self) -> str:
        """The next piece; StopIteration at the end of the answer, Cancelled where it was cancelled."""
        if self._pieces is None:
            self._run = _Run(self._model, self._request, self._cancel.is_set)
            self._model._lock.check_not_mine()
            self._request.question.begin(self._cancel.is_set, self._request.on_progress)
            self._model._lock.acquire(self._cancel.is_set)
            self._holds_model = True
            self._model._active = weakref.ref(self)
            self._pieces = self._run.pieces()
        piece = next(self._pieces, None)
        if piece is None:
            self._finish()
            raise StopIteration
        return piece

    def _finish(self, reason: FinishReason | None = None) -> None:
        """The answer is over, regularly or cancelled: keep it and let the model go."""
        if self._over or self._run is None:
            self._over = True
            return
        self.reply = self._run.reply(reason)
        try:
            # Before the model is let go, so that whoever asks next finds this answer in the conversation.
            if self._run.asked is not None:
                self._request.question.finish(self._run.asked, self.reply)
        finally:
            self._let_go()

    def _let_go(self) -> None:
        self._over = True
        if self._run is not None:
            self._run.close()
        if self._holds_model:
            self._holds_model = False
            self._model._active = None
            self._model._lock.release()

    def cancel(self) -> None:
        """Ends the answer within the current step; may be called from any thread."""
        self._cancel.set()

    def close(self) -> None:
        """Ends the answer and lets the model go; `reply` holds what there is."""
        self._cancel.set()
        if self._over:
            return
        with DeferredInterrupt(), self._step:
            # From within on_progress this is the computing thread itself: the flag is enough then.
            if not self._is_computing:
                self._finish("cancelled")

    def __enter__(self) -> ReplyStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()
