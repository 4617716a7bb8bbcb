"""What a chat remembers: its turns, and how many of the oldest are no longer sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..llm.context_full import Policy
from ..llm.prompt import Turn
from ..pictures.encoded import EncodedImage

if TYPE_CHECKING:
    from .request import AnswerOptions


@dataclass(frozen=True)
class ChatState:
    """A chat as a value: what is saved of it, and what it goes on with."""

    system: str | None = None
    turns: tuple[Turn, ...] = ()
    n_dropped: int = 0
    """How many of the oldest turns are no longer sent, since the context was full."""
    dropped_before: tuple[tuple[int, int], ...] = ()
    """The same before questions: (index of the turn, how many)."""
    pending: tuple[EncodedImage, ...] = ()
    """Pictures for the next question."""
    context_full: Policy = "drop"

    @property
    def images(self) -> list[EncodedImage]:
        """All pictures, also those that are pending."""
        return [*(image for turn in self.turns for image in turn.images), *self.pending]

    @property
    def asked(self) -> list[Turn]:
        """The conversation with a question that is not known yet, "a"."""
        return [*_front(self.system), *self.turns, Turn("user", "a", self.pending)]


class History:
    """The turns of one chat; guarded by the chat's condition (see chat.py).

    Args:
        state: What it goes on with; the pending pictures are the chat's.

    Attributes:
        system: The system prompt.
        turns: Questions and answers, in turn.
        n_dropped: How many of the oldest are no longer sent.
        version: Counts what takes turns back: an answer begun before does not belong here.
        options: What the last question was asked with.
        is_closed: Whether the chat is; nothing is added then.
    """

    def __init__(self, state: ChatState) -> None:
        self.system = state.system
        self.context_full = state.context_full
        self.turns = list(state.turns)
        self.n_dropped = state.n_dropped
        self.version = 0
        self.options: AnswerOptions = {}
        self.is_closed = False
        self._dropped_before = dict(state.dropped_before)  # by the question's index

    def state(self, pending: Sequence[EncodedImage]) -> ChatState:
        """This, with the pictures that wait for the next question."""
        return ChatState(
            system=self.system,
            turns=tuple(self.turns),
            n_dropped=self.n_dropped,
            dropped_before=tuple(sorted(self._dropped_before.items())),
            pending=tuple(pending),
            context_full=self.context_full,
        )

    def compose(self, question: str, images: Sequence[Any]) -> tuple[list[Turn], int]:
        """The conversation with this question, and how many turns were dropped before."""
        return self.before(len(self.turns), Turn("user", question, tuple(images))), self.n_dropped

    def before(self, start: int, question: Turn) -> list[Turn]:
        """The first turns, and a question after them."""
        return [*_front(self.system), *self.turns[:start], question]

    def last_question(self) -> int | None:
        """Its index; None if there was none."""
        return next((i for i in reversed(range(len(self.turns))) if self.turns[i].role == "user"), None)

    def dropped_before(self, start: int) -> int:
        """How many turns were left out before the question at this index was asked."""
        return self._dropped_before.get(start, 0)

    def record(self, start: int, turns: Sequence[Turn], *, n_dropped: int, n_before: int) -> None:
        """Puts a question and its answer at this index, in the place of what was there.

        Args:
            n_dropped: How many turns were left out for it.
            n_before: How many were before it came.
        """
        self._dropped_before[start] = n_before
        self.n_dropped = n_dropped
        self.turns[start:] = turns

    def take_back(self) -> Turn | None:
        """Takes out the last question and its answer; returns the question."""
        start = self.last_question()
        if start is None:
            return None
        asked = self.turns[start]
        del self.turns[start:]
        self.n_dropped = self._dropped_before.pop(start, min(self.n_dropped, start))
        self.version += 1
        return asked

    def clear(self) -> None:
        """Forgets the turns, not the system prompt."""
        self.turns.clear()
        self._dropped_before.clear()
        self.n_dropped = 0
        self.version += 1
        self.options = {}


def _front(system: str | None) -> list[Turn]:
    return [Turn("system", system)] if system else []
