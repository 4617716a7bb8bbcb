"""A question of a chat: it waits for the pictures, fits into the context, and leaves its answer behind."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import Cancelled, InvalidArgumentError
from ..llm.context_full import n_to_drop
from ..llm.prompt import Turn
from ..progress import ProgressFn
from .background import Background
from .history import History
from .image_handle import PictureJob
from .request import AnswerOptions, Question
from .results import Reply


class ChatQuestion(Question):
    """A question of a chat, or (text None) its last one again.

    Args:
        owner: The chat.
        history: Its turns.
        background: The work on its pictures.
        changed: Its condition.
        text: The question.
        jobs: Its pictures that are being worked on.
        images: Its other pictures.
        options: How it is asked; kept for the case that it is asked again.
    """

    def __init__(
        self,
        owner: object,
        history: History,
        background: Background,
        changed: threading.Condition,
        text: str | None,
        jobs: Sequence[PictureJob],
        images: Sequence[Any],
        options: AnswerOptions,
    ) -> None:
        super().__init__((), images, owner)
        self._history = history
        self._background = background
        self._changed = changed
        self._text = text
        self._jobs = jobs
        self._options = options.copy()
        self._options.pop("on_progress", None)
        self._start = 0  # index of the question among the chat's turns
        self._version = 0
        self._dropped = 0

    def begin(self, is_cancelled: Callable[[], bool], on_progress: ProgressFn | None) -> None:
        self._background.wait_for_question(self._jobs, is_cancelled, on_progress)

    def compose(self) -> tuple[list[Turn], list[Any]]:
        history = self._history
        with self._changed:
            if history.is_closed:
                raise InvalidArgumentError("the chat is closed")
            self._version = history.version
            if self._text is None:
                start = history.last_question()
                if start is None:
                    raise Cancelled("the question was taken back")
                self._start = start
                self._dropped = history.dropped_before(start)
                asked = history.turns[start]
            else:
                self._start = len(history.turns)
                self._dropped = history.n_dropped
                asked = Turn("user", self._text)
            # Another thread's question may have taken pictures meanwhile, or somebody removed them.
            pending = self._background.jobs
            self._jobs = [job for job in self._jobs if job in pending and job.encoded]
            self.n_encoded = sum(job.origin == "encoded" for job in self._jobs)
            self.n_cached = sum(job.origin == "cached" for job in self._jobs)
            self._turns = history.before(self._start, asked)
            return self._turns, [*(job.encoded for job in self._jobs), *self._images]

    def fit(self, count: Callable[[int], int], *, n_ctx: int, max_tokens: int | None) -> int:
        before = self._dropped
        self._dropped = n_to_drop(
            self._turns, before, count, n_ctx=n_ctx, max_tokens=max_tokens, policy=self._history.context_full
        )
        self.n_newly_dropped = self._dropped - before
        return self._dropped

    def finish(self, asked: Turn, reply: Reply) -> None:
        if reply.finish_reason == "cancelled" and not reply.tokens:
            return
        # The tokens themselves, unless a stop string cut text from their end.
        is_cut = reply.finish_reason == "stop" and self._options.get("stop")
        answer = Turn("assistant", reply.text, tokens=None if is_cut else reply.tokens)
        history = self._history
        with self._changed:
            if history.version != self._version or history.is_closed:
                return
            history.record(
                self._start,
                [asked, answer],
                n_dropped=self._dropped,
                n_before=self._dropped - self.n_newly_dropped,
            )
            history.options = self._options
            self._background.hand_over(self._jobs)
