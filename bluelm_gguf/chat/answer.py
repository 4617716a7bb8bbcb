"""One answer: encode the pictures, prefill the prompt, decode token by token, with the clock running."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from typing import Any

from ..errors import Cancelled, ContextFullError, InvalidArgumentError
from ..llm.draft import Drafts
from ..llm.ledger import Prefilled
from ..llm.prompt import ImageSegment, Segment, Turn, n_tokens, with_images
from ..llm.sampling import Sampler
from ..llm.text import TextStream
from ..native.interrupt import DeferredInterrupt
from ..pictures.encoded import EncodedImage
from ..progress import ProgressFn
from .engine import Engine
from .lock import CancelFlag
from .request import Request
from .results import FinishReason, Reply, Timings


class _Run:
    """The work behind one answer."""

    def __init__(self, engine: Engine, request: Request, is_cancelled: Callable[[], bool]) -> None:
        self.engine = engine
        self.llm = engine.llm
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
        request, engine = self.request, self.engine
        turns, images = request.question.compose()
        prepared: list[Any] = []
        for image in images:
            if isinstance(image, EncodedImage):
                prepared.append(engine.check_encoded(image))
            else:
                prepared.append(engine.prepare(image, tiler=request.tiler))
        last = turns[-1]

        def with_pictures(pictures: list[Any]) -> list[Turn]:
            return [*turns[:-1], Turn(last.role, last.text, (*last.images, *pictures), last.tokens)]

        # A prepared picture already knows how many tokens it will have: that is all a prompt needs of it.
        drafts = Drafts(engine.prompts, with_pictures(prepared))
        try:
            n_dropped = request.question.fit(
                drafts.count, n_ctx=self.llm.n_ctx, max_tokens=request.max_tokens
            )
        except ContextFullError as error:
            raise ContextFullError(f"{error}{self._picture_tokens(prepared)}") from None
        (segments,) = drafts.variants(n_dropped)
        total = sum(0 if isinstance(p, EncodedImage) else p.plan.n_tiles for p in prepared)
        done = 0
        encoded: list[EncodedImage] = []
        for picture in prepared:
            if not isinstance(picture, EncodedImage):
                start = time.perf_counter()
                picture = engine.embed(picture, self._progress("encode", done, total))
                self.encode_s += time.perf_counter() - start
                self.n_cached += picture.is_cached
                self.n_encoded += not picture.is_cached
                done += picture.plan.n_tiles
            encoded.append(picture)
            self.plans.append(picture.plan)
        self.asked = with_pictures(encoded)[-1]
        if not segments:
            raise InvalidArgumentError("the prompt is empty: there is nothing to answer")
        return with_images(segments, encoded)

    def _picture_tokens(self, pictures: Sequence[Any]) -> str:
        """How much of a prompt that is too long its pictures are, and what would make them smaller."""
        if not pictures:
            return ""
        total = sum(picture.n_tokens for picture in pictures)
        least = sum(self.engine.need_vision().overview_tokens(picture) for picture in pictures)
        hint = (
            f", {least} with one view of each (--overview-only; tiler max_tiles 1)" if least < total else ""
        )
        return f"; pictures are {total} of them{hint}"

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
        ledger = self.engine.ledger
        try:
            ledger.bring(segments, reuse=self.request.reuse, on_progress=self._report, done=self.prefilled)
        finally:
            self.prefill_s = time.perf_counter() - start
        history = [cell for cell in ledger.cells if isinstance(cell, int)]
        self.sampler = Sampler(self.request.sampling, self.llm, history)

    # ----------------------------------------------------------------------------------------------- decode

    def _decode(self) -> Iterator[str]:
        llm, ledger, request, is_cancelled = self.llm, self.engine.ledger, self.request, self.is_cancelled
        sampler, tokens, clock = self.sampler, self.tokens, time.perf_counter
        assert sampler is not None
        out = TextStream((*request.stop, *self.engine.prompts.stop))
        n_most = min(request.max_tokens or llm.n_ctx, llm.n_ctx - len(ledger.cells) + 1)
        token = llm.sample(sampler)
        self.ttft_s = clock() - self.started
        while True:
            if llm.is_end(token):
                break
            tokens.append(token)
            piece = out.push(llm.piece(token))
            if piece:
                self.text.append(piece)
                yield piece
            if out.stopped:
                break
            if is_cancelled():
                self.finish_reason = "cancelled"
                break
            if len(tokens) == n_most:
                self.finish_reason = "length"
                break
            start = clock()
            try:
                ledger.append(token, is_cancelled=is_cancelled)
            except Cancelled:
                self.finish_reason = "cancelled"
                break
            if is_cancelled():
                self.finish_reason = "cancelled"
                break
            token = llm.sample(sampler)
            self.n_steps += 1
            self.decode_s += clock() - start
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

    def __init__(self, engine: Engine, request: Request) -> None:
        self._engine = engine
        self._request = request
        self._cancel = CancelFlag()
        self._step = threading.RLock()  # held while computing
        self._is_computing = False
        self._has_model = False
        self._run: _Run | None = None
        self._pieces: Iterator[str] | None = None
        self._over = False
        self.reply: Reply | None = None

    @property
    def owner(self) -> object | None:
        """The chat whose question is answered; None for one without a chat."""
        return self._request.question.owner

    def __iter__(self) -> ReplyStream:
        return self

    def __aiter__(self) -> AsyncGenerator[str, None]:
        from .asynchronous import pieces

        return pieces(self)

    def __next__(self) -> str:
        with DeferredInterrupt(self._cancel.set), self._step:
            piece = self._next()
        if piece is None:
            raise StopIteration
        return piece

    def complete(self) -> Reply:
        """Computes what is left of the answer, without stopping at every piece.

        Raises:
            InvalidArgumentError: it was closed before it began.
            What iterating raises.
        """
        with DeferredInterrupt(self._cancel.set), self._step:
            while self._next() is not None:
                pass
        if self.reply is None:
            raise InvalidArgumentError("the answer was closed before it began")
        return self.reply

    def _next(self) -> str | None:
        """The next piece; None when the answer is over. `_step` is held."""
        if self._over:
            return None
        self._is_computing = True
        try:
            return self._compute()
        except Cancelled:
            if not self._cancel.is_set():
                self._let_go()
                raise
            self._finish("cancelled")
            return None
        except BaseException:
            self._let_go()
            raise
        finally:
            self._is_computing = False

    def _compute(self) -> str | None:
        """As `_next`; Cancelled where it was cancelled."""
        if self._pieces is None:
            engine = self._engine
            self._run = _Run(engine, self._request, self._cancel.is_set)
            engine.lock.check_not_mine()
            self._request.question.begin(self._cancel.is_set, self._request.on_progress)
            engine.take(self, self._cancel.is_set)
            self._has_model = True
            self._pieces = self._run.pieces()
        piece = next(self._pieces, None)
        if piece is None:
            self._finish()
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
        if self._has_model:
            self._has_model = False
            self._engine.let_go()

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
