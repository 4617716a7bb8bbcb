"""A conversation: turns with pictures, and a KV cache that is not computed twice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from .answer import ReplyStream
from .errors import InvalidArgumentError
from .llm import ProgressFn
from .prompt import Turn
from .results import Reply
from .sampling import Sampling
from .vision import EncodedImage, TilerOverrides

if TYPE_CHECKING:
    from .model import Model


class Chat:
    """A conversation with one model; made by `Model.chat`.

        chat = model.chat()
        chat.add_image("menu.jpg")
        print(chat.ask("What costs less than 5?").text)
        print(chat.ask("And what is the dearest?").text)    # computes the question only

    The turns are kept here; the KV cache is the model's. When several chats (or `generate`) take turns on one
    model, answers stay right and the cache is computed again. One thread at a time may use a chat.

    Args:
        model: Stays the caller's.
        system: System prompt.
    """

    def __init__(self, model: Model, *, system: str | None = None) -> None:
        self._model = model
        self._system = system
        self._turns: list[Turn] = []
        self._pending: list[EncodedImage] = []

    @property
    def turns(self) -> tuple[Turn, ...]:
        """Questions and answers so far."""
        return tuple(self._turns)

    @property
    def pending_images(self) -> tuple[EncodedImage, ...]:
        """Pictures that will go with the next question."""
        return tuple(self._pending)

    def add_image(
        self,
        image: Any,
        *,
        tiler: TilerOverrides = None,
        on_progress: ProgressFn | None = None,
    ) -> EncodedImage:
        """Encodes a picture now; it goes with the next question.

        Args and errors: as for `Model.encode`.
        """
        encoded = self._model.encode(image, tiler=tiler, on_progress=on_progress)
        self._pending.append(encoded)
        return encoded

    def ask(self, question: str, **options: Any) -> Reply:
        """Answers the next question; takes what `stream` takes."""
        with self.stream(question, **options) as stream:
            for _ in stream:
                pass
        if stream.reply is None:
            raise InvalidArgumentError("the answer was closed before it began")
        return stream.reply

    def stream(
        self,
        question: str,
        *,
        images: Iterable[Any] = (),
        max_tokens: int | None = 256,
        stop: Sequence[str] = (),
        tiler: TilerOverrides = None,
        on_progress: ProgressFn | None = None,
        **sampling: Any,
    ) -> ReplyStream:
        """Answers the next question piece by piece; arguments as for `Model.stream`.

        A cancelled answer stays in the conversation as far as it came. If nothing of it came, or an error
        ended it, the conversation is as before the question, and its pictures wait for the next one.
        """
        from .model import as_list

        pending = list(self._pending)
        turns = [Turn("system", self._system)] if self._system else []
        turns += self._turns
        turns.append(Turn("user", question))

        def remember(asked: Turn, reply: Reply) -> None:
            if reply.finish_reason == "cancelled" and not reply.tokens:
                return
            self._pending = [image for image in self._pending if image not in pending]
            # The tokens themselves, unless a stop string cut text from their end.
            tokens = None if reply.finish_reason == "stop" and stop else reply.tokens
            self._turns += [asked, Turn("assistant", reply.text, tokens=tokens)]

        return self._model.stream_turns(
            turns,
            images=[*pending, *as_list(images)],
            sampling=Sampling(**sampling),
            max_tokens=max_tokens,
            stop=stop,
            tiler=tiler,
            on_progress=on_progress,
            reuse=True,
            on_finish=remember,
        )

    def clear(self) -> None:
        """Forgets all turns and waiting pictures; the system prompt stays."""
        self._turns.clear()
        self._pending.clear()
