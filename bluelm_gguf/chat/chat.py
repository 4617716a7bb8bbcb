"""A conversation: turns with pictures, background work, and a KV cache that is not computed twice.

Threads and locks. Any thread may call any method of a Chat or an ImageHandle. There are two locks:

- The model's lock (`Engine.lock`) is held while anything is computed with the model's weights or its KV
  cache: by an answer from its first piece to its last, by the background thread for one picture's encoding
  or prefill. What the KV cache holds (`Engine.ledger`) is read and changed only with it.
- The chat's condition (`Chat._changed`) guards turns, pending pictures and their states. It is held for
  moments, never while computing, waiting for the model's lock or calling back; whoever holds the model's
  lock may take it, never the other way round.

In the main thread both are taken with Ctrl-C deferred (interrupt.py). Whoever waits looks every 50 ms whether
to give up, so that Ctrl-C and cancelling work while waiting, too.
"""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncGenerator, Iterable
from typing import TYPE_CHECKING, Any

from ..errors import InvalidArgumentError
from ..llm.prompt import Turn
from ..pictures.encoded import EncodedImage
from ..pictures.planner import TilerOverrides
from ..progress import ProgressFn
from .answer import ReplyStream
from .background import Background
from .chat_question import ChatQuestion
from .engine import Engine
from .history import ChatState, History
from .image_handle import ImageHandle
from .request import AnswerOptions, Request, as_list
from .results import Reply

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Chat:
    """A conversation with one model; made by `Model.chat`.

        chat = model.chat()
        chat.add_image("menu.jpg")                          # returns at once
        print(chat.ask("What costs less than 5?").text)
        print(chat.ask("And what is the dearest?").text)    # computes the question only

    The turns are kept here; the KV cache is the model's. When several chats (or `generate`) take turns on one
    model, answers stay right and the cache is computed again.

    Args:
        engine: Of the model, which stays the caller's.
        state: What it goes on with.
    """

    def __init__(self, engine: Engine, state: ChatState) -> None:
        if state.context_full not in ("drop", "stop"):
            raise InvalidArgumentError(f"context_full is {state.context_full!r}; it must be 'drop' or 'stop'")
        engine.check_open()
        self._engine = engine
        self._history = History(state)
        self._changed = threading.Condition()
        self._background = Background(engine, self._changed, self._history.compose, state.context_full)
        engine.add_user(self)
        for image in state.pending:
            self.add_image(image)

    # ------------------------------------------------------------------------------------------------- state

    @property
    def system(self) -> str | None:
        """The system prompt."""
        return self._history.system

    @property
    def turns(self) -> tuple[Turn, ...]:
        """Questions and answers so far, also those that are no longer sent."""
        return tuple(self._history.turns)

    @property
    def dropped_turns(self) -> int:
        """How many of the oldest turns the model no longer sees, since the context is full."""
        return self._history.n_dropped

    @property
    def pending_images(self) -> tuple[ImageHandle, ...]:
        """Pictures that will go with the next question."""
        return self._background.handles

    def state(self) -> ChatState:
        """The chat as it is now; pictures that are not encoded are left out."""
        with self._background.changing():
            pending = [job.encoded for job in self._background.jobs if job.encoded is not None]
            return self._history.state(pending)

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
        self._engine.need_vision()
        if isinstance(image, EncodedImage):
            self._engine.check_encoded(image)
        name = None
        if hasattr(image, "read"):
            # A thread that waits for stdin cannot be stopped, and would crash the interpreter when it ends.
            from ..pictures.images import describe, read_file

            name = describe(image)
            image = read_file(image, name)
        return self._background.add(image, tiler, on_progress, name)

    def remove_image(self, handle: ImageHandle) -> None:
        """Takes a pending picture out of the chat, whatever its state; others are left alone."""
        self._background.remove_handle(handle)

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

    def ask(self, question: str, *, images: Iterable[Any] = (), **options: Unpack[AnswerOptions]) -> Reply:
        """Answers the next question; takes what `stream` takes."""
        with self.stream(question, images=images, **options) as stream:
            return stream.complete()

    def stream(
        self, question: str, *, images: Iterable[Any] = (), **options: Unpack[AnswerOptions]
    ) -> ReplyStream:
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
        self._check_open()
        return self._stream(question, as_list(images), options)

    def _stream(self, question: str | None, images: list[Any], options: AnswerOptions) -> ReplyStream:
        jobs = self._background.jobs if question is not None else ()
        asked = ChatQuestion(
            self, self._history, self._background, self._changed, question, jobs, images, options
        )
        return ReplyStream(self._engine, Request.of(asked, reuse=True, **options))

    def retry(self, **options: Unpack[AnswerOptions]) -> ReplyStream:
        """Answers the last question again; the new answer takes the place of the old one.

        Args:
            options: As for `stream`; those not given are as they were for the question, but `on_progress`.

        Raises:
            InvalidArgumentError: there is no question yet.
        """
        self._check_open()
        if self._history.last_question() is None:
            raise InvalidArgumentError("there is no question to ask again")
        merged = self._history.options.copy()
        merged.update(options)
        return self._stream(None, [], merged)

    async def ask_async(
        self, question: str, *, images: Iterable[Any] = (), **options: Unpack[AnswerOptions]
    ) -> Reply:
        """As `ask`, for asyncio: the loop goes on. Cancelling the task cancels the answer."""
        stream = self.stream(question, images=images, **options)
        async for _ in stream:
            pass
        assert stream.reply is not None
        return stream.reply

    def stream_async(
        self, question: str, *, images: Iterable[Any] = (), **options: Unpack[AnswerOptions]
    ) -> AsyncGenerator[str, None]:
        """As `stream`, for asyncio: `async for piece in chat.stream_async(...)`."""
        return self.stream(question, images=images, **options).__aiter__()

    # --------------------------------------------------------------------------------------------- going back

    def undo(self) -> str | None:
        """Takes back the last question and its answer; an answer that is being made ends first.

        Returns:
            The question's text, whose pictures wait for the next question now; None if there was none.
        """
        self._end_answer()
        with self._background.changing():
            asked = self._history.take_back()
            if asked is None:
                return None
            self._background.put_back(asked.images)
            return asked.text

    def clear(self) -> None:
        """Forgets turns and pending pictures, not the system prompt. An answer being made ends first."""
        self._end_answer()
        with self._background.changing():
            self._history.clear()
        for handle in self.pending_images:
            self._background.remove_handle(handle)

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

        self._check_open()
        if kv:
            self.wait()
        for handle in self.pending_images:
            handle.exception()  # waits; a picture that failed stays out
        save(self._engine, self.state, path, kv=kv)

    def close(self) -> None:
        """Ends the background work and an answer being made; later calls raise InvalidArgumentError."""
        self._history.is_closed = True
        self._background.shut_down()
        self._end_answer()

    def _end_answer(self) -> None:
        answer = self._engine.answering
        if answer is not None and answer.owner is self:
            answer.close()

    def _check_open(self) -> None:
        if self._history.is_closed:
            raise InvalidArgumentError("the chat is closed")
        self._engine.check_open()
