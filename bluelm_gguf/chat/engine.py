"""What everybody who asks one model shares: its parts, its KV cache, and the lock around them.

Answers, background work, chats and saved chats know this and nothing above it; `Model` makes one and is the
face of it. chat.py says who may hold which lock when.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Protocol

from ..errors import InvalidArgumentError
from ..llm.language_model import LanguageModel
from ..llm.ledger import Ledger
from ..llm.prompt import PromptBuilder
from ..pictures.encoded import EncodedImage, PreparedImage
from ..pictures.encoders import Vision
from ..pictures.planner import TilerOverrides
from ..progress import ProgressFn
from .lock import OwnedLock


class Answering(Protocol):
    """An answer that is being made: `ReplyStream`."""

    @property
    def owner(self) -> object | None:
        """Whose question it answers."""

    def close(self) -> None:
        """Ends it."""


class Closable(Protocol):
    """What has to be closed before the model is: `Chat`."""

    def close(self) -> None:
        """Ends its work."""


class Engine:
    """One language model with its KV cache, and a vision encoder if there is one.

    Args:
        llm: The language model; the engine closes it.
        vision: The vision encoder, or None; the engine closes it.
        prompts: Builds the prompts of this language model.
        chunk: Tokens per step of the prefill.

    Attributes:
        lock: Held while anything is computed with the weights or the KV cache.
        ledger: What the KV cache holds; read and changed only with the lock.
        prompts: See above.
    """

    def __init__(
        self, llm: LanguageModel, vision: Vision | None, prompts: PromptBuilder, *, chunk: int
    ) -> None:
        self._llm: LanguageModel | None = llm
        self._vision = vision
        self._answering: weakref.ref[Answering] | None = None
        self._users: weakref.WeakSet[Closable] = weakref.WeakSet()
        self.lock = OwnedLock()
        self.ledger = Ledger(llm, chunk)
        self.prompts = prompts

    # ------------------------------------------------------------------------------------------------- parts

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._llm is None

    def check_open(self) -> None:
        """Raises InvalidArgumentError after close()."""
        if self._llm is None:
            raise InvalidArgumentError("the model is closed")

    @property
    def llm(self) -> LanguageModel:
        """The language model; raises InvalidArgumentError after close()."""
        self.check_open()
        assert self._llm is not None
        return self._llm

    @property
    def vision(self) -> Vision | None:
        """The vision encoder, or None for a model that takes text only."""
        self.check_open()
        return self._vision

    @property
    def n_ctx(self) -> int:
        """Tokens the KV cache holds."""
        return self.llm.n_ctx

    @property
    def n_embd(self) -> int:
        """Width of the LLM's embeddings."""
        return self.llm.n_embd

    # ---------------------------------------------------------------------------------------------- pictures

    def need_vision(self) -> Vision:
        """The vision encoder; raises InvalidArgumentError where there is none."""
        vision = self.vision
        if vision is None:
            raise InvalidArgumentError(
                f"{self.llm.path} was loaded without a vision file: pictures need an mmproj"
            )
        return vision

    def prepare(self, image: Any, *, tiler: TilerOverrides = None) -> PreparedImage:
        """Reads a picture and plans its tiles; the lock is held."""
        return self.need_vision().prepare(image, tiler=tiler)

    def embed(self, picture: PreparedImage, on_progress: ProgressFn | None) -> EncodedImage:
        """The one way from a picture to its embeddings; the lock is held."""
        return self.need_vision().encode_prepared(picture, on_progress=on_progress)

    def check_encoded(self, image: EncodedImage) -> EncodedImage:
        """The picture; raises InvalidArgumentError if its width is another model's."""
        if image.embeddings.shape[1] != self.n_embd:
            raise InvalidArgumentError(
                f"the image was encoded to width {image.embeddings.shape[1]}, but {self.llm.path} needs "
                f"{self.n_embd}"
            )
        return image

    # --------------------------------------------------------------------------------------- who answers now

    @property
    def answering(self) -> Answering | None:
        """The answer that has the model, if one has."""
        return self._answering() if self._answering is not None else None

    def take(self, answer: Answering, is_cancelled: Callable[[], bool]) -> None:
        """Waits for the lock and gives the model to an answer, which keeps it until `let_go`.

        Raises: as `OwnedLock.acquire`.
        """
        self.lock.acquire(is_cancelled)
        self._answering = weakref.ref(answer)

    def let_go(self) -> None:
        """The answer is over."""
        self._answering = None
        self.lock.release()

    # --------------------------------------------------------------------------------------------------- end

    def add_user(self, user: Closable) -> None:
        """Takes note of what is to be closed before the model is; it is not kept alive."""
        self._users.add(user)

    def close(self) -> None:
        """Frees all memory; what is being computed is cancelled, later calls raise InvalidArgumentError."""
        for user in list(self._users):
            user.close()
        answer = self.answering
        if answer is not None:
            answer.close()
        with self.lock.held():
            if self._vision is not None:
                self._vision.close()
                self._vision = None
            if self._llm is not None:
                self._llm.close()
                self._llm = None
