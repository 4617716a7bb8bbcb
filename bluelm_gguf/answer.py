"""One answer: encode the pictures, prefill the prompt, decode token by token, with the clock running."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .errors import Cancelled, ContextFullError, InvalidArgumentError
from .interrupt import DeferredInterrupt
from .llm import PartlyDone, ProgressFn
from .prompt import ImageSegment, Segment, TextSegment, Turn, n_tokens
from .results import FinishReason, Reply, Timings
from .sampling import Sampler, Sampling
from .text import TextStream
from .vision import EncodedImage, TilerOverrides

if TYPE_CHECKING:
    from .model import Model

Cell = int | tuple[str, int]
"""What a position of the KV cache holds: a token, or row i of a picture."""


@dataclass
class Request:
    """What one answer is asked with; see `Model.stream_turns`."""

    turns: list[Turn]
    images: list[Any]
    sampling: Sampling
    max_tokens: int | None
    stop: tuple[str, ...]
    tiler: TilerOverrides
    on_progress: ProgressFn | None
    reuse: bool
    on_finish: Callable[[Turn, Reply], None] | None


class _Run:
    """The work behind one answer: encode, prefill, decode, with the clock running."""

    def __init__(self, model: Model, request: Request, cancel: threading.Event) -> None:
        self.model = model
        self.llm = model.llm
        self.request = request
        self.cancel = cancel
        self.started = time.perf_counter()
        self.finish_reason: FinishReason = "stop"
        self.text: list[str] = []
        self.tokens: list[int] = []
        self.plans: list[Any] = []
        self.encode_s = self.prefill_s = self.decode_s = self.ttft_s = 0.0
        self.n_image = self.n_image_prefilled = self.n_text = self.n_text_prefilled = self.n_steps = 0
        self.n_encoded = self.n_cached = 0
        self.sampler: Sampler | None = None

    def pieces(self) -> Iterator[str]:
        segments = self._prepare()
        self._prefill(segments)
        yield from self._decode()

    # ----------------------------------------------------------------------------------------------- encode

    def _prepare(self) -> list[Segment]:
        """Encodes the pictures and builds the prompt; refuses what cannot fit before any of the long work."""
        request, model = self.request, self.model
        prepared: list[Any] = []
        for image in request.images:
            if isinstance(image, EncodedImage):
                prepared.append(model._check_encoded(image))
            else:
                prepared.append(model._need_vision().prepare(image, tiler=request.tiler))
        # A prepared picture already knows how many tokens it will have: that is all the length check needs.
        last = request.turns[-1]
        draft = Turn(last.role, last.text, (*last.images, *prepared), last.tokens)
        self._check_length(n_tokens(model._prompts.build([*request.turns[:-1], draft])))
        total = sum(0 if isinstance(p, EncodedImage) else p.plan.n_tiles for p in prepared)
        done = 0
        encoded: list[EncodedImage] = []
        for picture in prepared:
            if not isinstance(picture, EncodedImage):
                start = time.perf_counter()
                picture = model._need_vision().encode_prepared(
                    picture, on_progress=self._progress("encode", done, total)
                )
                self.encode_s += time.perf_counter() - start
                self.n_cached += picture.is_cached
                self.n_encoded += not picture.is_cached
                done += picture.plan.n_tiles
            encoded.append(picture)
            self.plans.append(picture.plan)
        request.turns[-1] = Turn(last.role, last.text, (*last.images, *encoded), last.tokens)
        return model._prompts.build(request.turns)

    def _check_length(self, n_prompt: int) -> None:
        if n_prompt == 0:
            raise InvalidArgumentError("the prompt is empty: there is nothing to answer")
        if n_prompt + 1 > self.llm.n_ctx:
            raise ContextFullError(
                f"the prompt has {n_prompt} tokens and the answer needs at least one more, but the context "
                f"holds {self.llm.n_ctx}: shorten it, use fewer or smaller pictures, or a larger context"
            )

    def _progress(self, stage: str, base: int, total: int) -> ProgressFn:
        """on_progress with counts over all pictures, or all of the prompt; cancels when asked to."""

        def report(_stage: str, done: int, _total: int) -> bool:
            if self.cancel.is_set():
                return False
            callback = self.request.on_progress
            return callback is None or callback(stage, base + done, total) is not False

        return report

    # ---------------------------------------------------------------------------------------------- prefill

    def _prefill(self, segments: list[Segment]) -> None:
        model, llm = self.model, self.llm
        wanted = _cells(segments)
        self.n_image = n_tokens(segments, kind=ImageSegment)
        self.n_text = len(wanted) - self.n_image
        # The last token is always computed: its logits are what the answer starts from.
        n_kept = _common(model._cells, wanted[:-1]) if self.request.reuse else 0
        n_kept = llm.keep(n_kept)
        del model._cells[n_kept:]
        start, end = time.perf_counter(), 0
        for segment in segments:
            begin, end = max(end, n_kept), end + len(segment)
            if begin < end:
                report = self._progress("prefill", begin - n_kept, len(wanted) - n_kept)
                self._prefill_part(segment, begin, end, wanted, report)
        self.prefill_s = time.perf_counter() - start
        history = [cell for cell in wanted if isinstance(cell, int)]
        self.sampler = Sampler(self.request.sampling, llm, history)

    def _prefill_part(
        self, segment: Segment, begin: int, end: int, wanted: list[Cell], report: ProgressFn
    ) -> None:
        """Brings positions begin..end-1, the last ones of a segment, into the cache."""
        model, llm = self.model, self.llm
        skip, logits = len(segment) - (end - begin), end == len(wanted)
        try:
            if isinstance(segment, TextSegment):
                tokens = segment.tokens[skip:]
                llm.prefill_tokens(tokens, begin, chunk=model.chunk, logits=logits, on_progress=report)
                self.n_text_prefilled += len(tokens)
            else:
                rows = segment.image.embeddings[skip:]
                llm.prefill_embd(rows, begin, chunk=model.chunk, logits=logits, on_progress=report)
                self.n_image_prefilled += len(rows)
        except PartlyDone as partly:
            # The cache and our list of what is in it must agree again.
            model._cells[:] = wanted[: llm.keep(begin + partly.n_done)]
            raise (partly.__cause__ or partly) from None
        model._cells[begin:] = wanted[begin:end]

    # ----------------------------------------------------------------------------------------------- decode

    def _decode(self) -> Iterator[str]:
        llm, model, request = self.llm, self.model, self.request
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
            if self.cancel.is_set():
                self.finish_reason = "cancelled"
                break
            n_cells = len(model._cells)
            if len(self.tokens) == request.max_tokens or n_cells >= llm.n_ctx:
                self.finish_reason = "length"
                break
            start = time.perf_counter()
            try:
                llm.prefill_tokens((token,), n_cells, chunk=1, logits=True)
            except PartlyDone as partly:
                del model._cells[llm.keep(0) :]
                raise (partly.__cause__ or partly) from None
            model._cells.append(token)
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
        n_prefilled = self.n_image_prefilled + self.n_text_prefilled
        timings = Timings(
            encode_ms=self.encode_s * 1e3,
            prefill_ms=self.prefill_s * 1e3,
            prefill_tps=n_prefilled / self.prefill_s if self.prefill_s else 0.0,
            decode_ms=self.decode_s * 1e3,
            decode_tps=self.n_steps / self.decode_s if self.decode_s else 0.0,
            ttft_ms=self.ttft_s * 1e3,
            total_ms=(time.perf_counter() - self.started) * 1e3,
            image_tokens=self.n_image,
            image_tokens_prefilled=self.n_image_prefilled,
            text_tokens=self.n_text,
            text_tokens_prefilled=self.n_text_prefilled,
            generated_tokens=len(self.tokens),
            images_encoded=self.n_encoded,
            images_cached=self.n_cached,
        )
        return Reply(
            text="".join(self.text),
            finish_reason=reason or self.finish_reason,
            timings=timings,
            plans=tuple(self.plans),
            tokens=tuple(self.tokens),
        )


class ReplyStream(Iterator[str]):
    """Pieces of an answer as they are computed.

    The model is busy with it from the first piece until it is exhausted or closed; a `for` loop that is left
    early closes it when nothing refers to it any more, `with` does so at once. Ctrl-C raises
    KeyboardInterrupt between two steps; after `close()`, `reply` then holds what was answered so far.

    Attributes:
        reply: The Reply when the answer is over (also a cancelled one), else None.
    """

    def __init__(self, model: Model, request: Request) -> None:
        self._model = model
        self._request = request
        self._cancel = threading.Event()
        self._step = threading.RLock()  # held while computing
        self._is_computing = False
        self._holds_model = False
        self._run: _Run | None = None
        self._pieces: Iterator[str] | None = None
        self._over = False
        self.reply: Reply | None = None

    def __iter__(self) -> ReplyStream:
        return self

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
            self._run = _Run(self._model, self._request, self._cancel)
            self._model._lock.acquire(self._cancel)
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
        self._let_go()
        if self._request.on_finish is not None:
            self._request.on_finish(self._request.turns[-1], self.reply)

    def _let_go(self) -> None:
        self._over = True
        if self._run is not None:
            self._run.close()
        if self._holds_model:
            self._holds_model = False
            self._model._active = None
            self._model._lock.release()

    def cancel(self) -> None:
        """Ends the answer after the current step; may be called from any thread."""
        self._cancel.set()

    def close(self) -> None:
        """Ends the answer and lets the model go; `reply` holds what there is."""
        self._cancel.set()
        with self._step:
            # From within on_progress this is the computing thread itself: the flag is enough then.
            if not self._is_computing:
                self._finish("cancelled")

    def __enter__(self) -> ReplyStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


class OwnedLock:
    """A lock that says so instead of hanging when its own thread asks for it twice."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner: int | None = None

    def acquire(self, cancel: threading.Event | None = None) -> None:
        """Waits for other threads.

        Raises:
            InvalidArgumentError: this thread has it already.
            Cancelled: `cancel` was set meanwhile.
        """
        if self._owner == threading.get_ident():
            raise InvalidArgumentError(
                "the model is still answering: finish or close that stream before asking something else"
            )
        while not self._lock.acquire(timeout=0.1):
            if cancel is not None and cancel.is_set():
                raise Cancelled("cancelled while another thread had the model")
        self._owner = threading.get_ident()

    def release(self) -> None:
        """Lets it go; any thread may."""
        self._owner = None
        self._lock.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


def _cells(segments: Sequence[Segment]) -> list[Cell]:
    """What each position of the KV cache will hold."""
    cells: list[Cell] = []
    for segment in segments:
        if isinstance(segment, TextSegment):
            cells += segment.tokens
        else:
            cells += [(segment.image.key, i) for i in range(len(segment))]
    return cells


def _common(a: Sequence[object], b: Sequence[object]) -> int:
    """Length of the common beginning."""
    n = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        n += 1
    return n
