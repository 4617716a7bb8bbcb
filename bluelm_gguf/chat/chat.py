"""A conversation: turns with pictures, background work, and a KV cache that is not computed twice.

Threads and locks. Any thread may call any method of a Chat or an ImageHandle. There are two locks:

- The model's lock (`Model._lock`) is held while anything is computed with the model's weights or its KV
  cache: by an answer from its first piece to its last, by the background thread for one picture's encoding
  or prefill. What the KV cache holds (`Model._ledger`) is read and changed only with it.
- The chat's condition (`Chat._changed`) guards turns, pending pictures and their states. It is held for
  moments, never while computing, waiting for the model's lock or calling back; whoever holds the model's
  lock may take it, never the other way round.

In the main thread both are taken with Ctrl-C deferred (interrupt.py). Whoever waits looks every 50 ms whether
to give up, so that Ctrl-C and cancelling work while waiting, too.
"""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import Cancelled, InvalidArgumentError
from ..llm.context_full import Policy, n_to_drop
from ..llm.prompt import Turn
from ..pictures.vision import EncodedImage, TilerOverrides
from ..progress import ProgressFn
from .answer import Question, ReplyStream
from .background import Background, ImageHandle
from .results import Reply

if TYPE_CHECKING:
    from ..model import Model


class Chat:
    """A conversation with one model; made by `Model.chat`.

        chat = model.chat()
        chat.add_image("menu.jpg")                          # returns at once
        print(chat.ask("What costs less than 5?").text)
        print(chat.ask("And what is the dearest?").text)    # computes the question only

    The turns are kept here; the KV cache is the model's. When several chats (or `generate`) take turns on one
    model, answers stay right and the cache is computed again.

    Args:
        model: Stays the caller's.
        system: System prompt.
        context_full: What happens when a question no longer fits: "drop" leaves out the oldest turns, never
            the system prompt or a picture; "stop" raises ContextFullError.
    """

    def __init__(self, model: Model, *, system: str | None = None, context_full: Policy = "drop") -> None:
        if context_full not in ("drop", "stop"):
            raise InvalidArgumentError(f"context_full is {context_full!r}; it must be 'drop' or 'stop'")
        self._model = model
        self._system = system
        self._context_full: Policy = context_full
        self._changed = threading.Condition()
        self._turns: list[Turn] = []
        self._n_dropped = 0  # of the oldest turns, that are no longer sent
        self._dropped_before: dict[int, int] = {}  # the same before the question at this index
        self._version = 0  # counts what takes turns back: an answer begun before does not belong here
        self._last_options: dict[str, Any] = {}
        self._background = Background(model, self._changed, self._compose, context_full)
        self._is_closed = False
        model._chats.add(self)

    # ------------------------------------------------------------------------------------------------- state

    @property
    def system(self) -> str | None:
        """The system prompt."""
        return self._system

    @property
    def turns(self) -> tuple[Turn, ...]:
        """Questions and answers so far, also those that are no longer sent."""
        return tuple(self._turns)

    @property
    def dropped_turns(self) -> int:
        """How many of the oldest turns the model no longer sees, since the context is full."""
        return self._n_dropped

    @property
    def pending_images(self) -> tuple[ImageHandle, ...]:
        """Pictures that will go with the next question."""
        return tuple(self._background.pending)

    def _compose(self, question: str, images: Sequence[Any]) -> tuple[list[Turn], int]:
        """The conversation with this question, and how many turns were dropped before."""
        return [*self._front(), *self._turns, Turn("user", question, tuple(images))], self._n_dropped

    def _front(self) -> list[Turn]:
        return [Turn("system", self._system)] if self._system else []

    def _last_question(self) -> int | None:
        return next((i for i in reversed(range(len(self._turns))) if self._turns[i].role == "user"), None)

    # ---------------------------------------------------------------------------------------------- pictures

    def add_image(
        self,
        image: Any,
        *,
        tiler: TilerOverrides = None,
        on_progress: ProgressFn | None = None,
    ) -> ImageHandle:
        """Takes a picture for the next question and returns at once.

        In the background it is read, encoded and prefilled into the KV cache. A question waits for that.

        Args:
            image: Path, bytes, file object, PIL image, uint8 array [H, W, 3], or what `Model.encode`
                returned. A file object is read in this thread, so it may be a pipe; all else in the
                background, so an array must be left alone until `handle.plan` is there.
            tiler: Departures from the tiler that the mmproj asks for, see `VisionEncoder.encode`.
            on_progress: Called in the background thread with ("encode", tiles done, tiles in all) and
                ("prefill", tokens done, tokens to do); returning False cancels the picture.

        Returns:
            A handle with state, progress, cancel and result. What is wrong with the picture is raised by its
            `result`, and by the next question, which takes the picture out of the chat.

        Raises:
            InvalidArgumentError: the model has no mmproj or is closed; an encoded image of another width.
            ImageError: a file object cannot be read.
        """
        self._check_open()
        self._model._need_vision()
        if isinstance(image, EncodedImage):
            self._model._check_encoded(image)
        name = None
        if hasattr(image, "read"):
            # A thread that waits for stdin cannot be stopped, and would crash the interpreter when it ends.
            from ..pictures.images import describe, read_file

            name = describe(image)
            image = read_file(image, name)
        handle = ImageHandle(self._background, image, tiler, on_progress, name)
        self._background.add(handle)
        return handle

    def remove_image(self, handle: ImageHandle) -> None:
        """Takes a pending picture out of the chat, whatever its state; others are left alone."""
        self._background.remove(handle)

    def pause(self) -> None:
        """Stops the background work until something waits for a picture, or another one is added."""
        self._background.pause()

    def wait(self, timeout: float | None = None, on_progress: ProgressFn | None = None) -> bool:
        """Waits until the background work is done, successfully or not.

        Args:
            timeout: Seconds; None: as long as it takes.
            on_progress: As for `add_image`, but called in this thread; returning False ends the waiting.

        Returns:
            Whether it is done.
        """

        def is_over() -> bool:
            return self._background.is_idle()

        return self._background.wait_until(is_over, timeout, on_progress)

    # ------------------------------------------------------------------------------------------------- asking

    def ask(self, question: str, **options: Any) -> Reply:
        """Answers the next question; takes what `stream` takes."""
        return _whole(self.stream(question, **options))

    def stream(self, question: str, *, images: Iterable[Any] = (), **options: Any) -> ReplyStream:
        """Answers the next question piece by piece.

        Its pictures are those pending now, and then `images`; the other arguments are those of
        `Model.stream`. If pictures are still being worked on, the first piece waits for that; `on_progress`
        then tells about them.

        A cancelled answer stays in the conversation as far as it came. If nothing of it came, or an error
        ended it, the conversation is as before the question, and its pictures wait for the next one. Where
        the question was withdrawn while it waited for pictures, work on them stops until it is needed.

        Raises (while iterating):
            ContextFullError: no room, see `context_full`.
            What `Model.stream` raises, and what a picture has failed with.
        """
        from ..model import as_list

        self._check_open()
        asked = _ChatQuestion(self, question, self.pending_images, as_list(images), options)
        return self._model._stream(asked, reuse=True, **options)

    def retry(self, **options: Any) -> ReplyStream:
        """Answers the last question again; the new answer takes the place of the old one.

        Args:
            options: As for `stream`; those not given are as they were for the question, but `on_progress`.

        Raises:
            InvalidArgumentError: there is no question yet.
        """
        self._check_open()
        if self._last_question() is None:
            raise InvalidArgumentError("there is no question to ask again")
        options = {**self._last_options, **options}
        asked = _ChatQuestion(self, None, (), [], options)
        return self._model._stream(asked, reuse=True, **options)

    async def ask_async(self, question: str, **options: Any) -> Reply:
        """As `ask`, for asyncio: the loop goes on. Cancelling the task cancels the answer."""
        stream = self.stream(question, **options)
        async for _ in stream:
            pass
        assert stream.reply is not None
        return stream.reply

    def stream_async(self, question: str, **options: Any) -> AsyncGenerator[str, None]:
        """As `stream`, for asyncio: `async for piece in chat.stream_async(...)`."""
        return self.stream(question, **options).__aiter__()

    # --------------------------------------------------------------------------------------------- going back

    def undo(self) -> str | None:
        """Takes back the last question and its answer; an answer that is being made ends first.

        Returns:
            The question's text, whose pictures wait for the next question now; None if there was none.
        """
        self._end_answer()
        with self._background.changing():
            start = self._last_question()
            if start is None:
                return None
            asked = self._turns[start]
            del self._turns[start:]
            self._n_dropped = self._dropped_before.pop(start, min(self._n_dropped, start))
            self._version += 1
            handles = [ImageHandle(self._background, image) for image in asked.images]
            self._background.pending[:0] = handles
            self._background.refresh()
            return asked.text

    def clear(self) -> None:
        """Forgets turns and pending pictures, not the system prompt. An answer being made ends first."""
        self._end_answer()
        with self._background.changing():
            self._turns.clear()
            self._dropped_before.clear()
            self._n_dropped = 0
            self._version += 1
            self._last_options = {}
        for handle in self.pending_images:
            self._background.remove(handle)

    def save(self, path: str | os.PathLike[str], *, kv: bool = False) -> None:
        """Writes the conversation with its pictures' embeddings to one file (docs/cache.md).

        `Model.load_chat` continues it, on any machine that has the same model files. Pictures that are
        still being worked on are waited for; those that failed stay out.

        Args:
            path: An older conversation there is replaced; any other file is not.
            kv: Also store what the KV cache holds of the conversation, so that going on computes the next
                question only. It takes as much room as the cache itself.

        Raises:
            ConversationError: the file cannot be written.
            MismatchError: a model file was changed since it was loaded.
            InvalidArgumentError: the chat is closed, or (with kv) this thread has not finished an answer.
        """
        from .saved_chat import save

        save(self, path, kv=kv)

    def close(self) -> None:
        """Ends the background work and an answer being made; later calls raise InvalidArgumentError."""
        self._is_closed = True
        self._background.shut_down()
        self._end_answer()

    def _end_answer(self) -> None:
        active = self._model._active
        stream = active() if active is not None else None
        if stream is not None and getattr(stream._request.question, "chat", None) is self:
            stream.close()

    def _check_open(self) -> None:
        if self._is_closed:
            raise InvalidArgumentError("the chat is closed")
        self._model.llm  # noqa: B018  (raises if closed)


class _ChatQuestion(Question):
    """A question of a chat, or (text None) its last one again."""

    def __init__(
        self,
        chat: Chat,
        text: str | None,
        handles: Sequence[ImageHandle],
        images: Sequence[Any],
        options: dict[str, Any],
    ) -> None:
        super().__init__((), images)
        self.chat = chat
        self._text = text
        self._handles = handles
        self._options = {name: value for name, value in options.items() if name != "on_progress"}
        self._start = 0  # index of the question among the chat's turns
        self._version = 0
        self._dropped = 0

    def begin(self, is_cancelled: Callable[[], bool], on_progress: ProgressFn | None) -> None:
        self.chat._background.wait_for_question(self._handles, is_cancelled, on_progress)

    def compose(self) -> tuple[list[Turn], list[Any]]:
        chat = self.chat
        with chat._changed:
            chat._check_open()
            self._version = chat._version
            if self._text is None:
                start = chat._last_question()
                if start is None:
                    raise Cancelled("the question was taken back")
                self._start = start
                self._dropped = chat._dropped_before.get(start, 0)
                asked = chat._turns[start]
            else:
                self._start = len(chat._turns)
                self._dropped = chat._n_dropped
                asked = Turn("user", self._text)
            # Another thread's question may have taken pictures meanwhile, or somebody removed them.
            self._handles = [h for h in self._handles if h in chat._background.pending and h._encoded]
            self.n_encoded = sum(handle._origin == "encoded" for handle in self._handles)
            self.n_cached = sum(handle._origin == "cached" for handle in self._handles)
            self._turns = [*chat._front(), *chat._turns[: self._start], asked]
            return self._turns, [*(handle._encoded for handle in self._handles), *self._images]

    def fit(self, count: Callable[[int], int], *, n_ctx: int, max_tokens: int | None) -> int:
        before = self._dropped
        self._dropped = n_to_drop(
            self._turns, before, count, n_ctx=n_ctx, max_tokens=max_tokens, policy=self.chat._context_full
        )
        self.n_newly_dropped = self._dropped - before
        return self._dropped

    def finish(self, asked: Turn, reply: Reply) -> None:
        if reply.finish_reason == "cancelled" and not reply.tokens:
            return
        # The tokens themselves, unless a stop string cut text from their end.
        is_cut = reply.finish_reason == "stop" and self._options.get("stop")
        answer = Turn("assistant", reply.text, tokens=None if is_cut else reply.tokens)
        chat = self.chat
        with chat._changed:
            if chat._version != self._version or chat._is_closed:
                return
            chat._dropped_before[self._start] = self._dropped - self.n_newly_dropped
            chat._n_dropped = self._dropped
            chat._turns[self._start :] = [asked, answer]
            chat._last_options = self._options
            pending = chat._background.pending
            pending[:] = [handle for handle in pending if handle not in self._handles]
            chat._background.refresh()


def _whole(stream: ReplyStream) -> Reply:
    with stream:
        for _ in stream:
            pass
    if stream.reply is None:
        raise InvalidArgumentError("the answer was closed before it began")
    return stream.reply
