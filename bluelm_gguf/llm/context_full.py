"""Which turns a conversation leaves out when the context is full.

The system prompt, every picture and the last question always stay. What goes are the oldest questions with
their answers; the pictures of what goes move to the front of the oldest turn that is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from ..errors import ContextFullError
from .prompt import Turn

Policy = Literal["drop", "stop"]

ANSWER_TOKENS = 256
"""Room that is kept for an answer of unknown length."""


def shortened(turns: Sequence[Turn], n: int) -> list[Turn]:
    """A conversation without its n oldest turns; the turn after them must be a question.

    Args:
        turns: The conversation, with or without a system turn in front, which does not count.
    """
    if n == 0:
        return list(turns)
    system = [turn for turn in turns[:1] if turn.role == "system"]
    rest = turns[len(system) :]
    pictures = tuple(image for turn in rest[:n] for image in turn.images)
    first = rest[n]
    moved = Turn(first.role, first.text, (*pictures, *first.images), first.tokens)
    return [*system, moved, *rest[n + 1 :]]


def n_to_drop(
    turns: Sequence[Turn],
    n_dropped: int,
    count: Callable[[int], int],
    *,
    n_ctx: int,
    max_tokens: int | None,
    policy: Policy,
) -> int:
    """How many of the oldest turns must go, so that the last question and its answer have room.

    The answer's room is max_tokens (256 if that is None), but at most a quarter of the context and at most
    half of what the system prompt, the pictures and the question leave. Where turns must go, so many go that
    another eighth of what is left stays free: else every further question would drop a turn, and all after it
    would have to be computed again each time.

    Args:
        turns: As for `shortened`; the last one is the question.
        n_dropped: How many were dropped before.
        count: Tokens of the prompt without the n oldest turns.

    Raises:
        ContextFullError: there is no room: policy "stop" forbids dropping, or nothing is left to drop.
    """
    rest = [turn for turn in turns if turn.role != "system"]
    wanted = min(max_tokens or ANSWER_TOKENS, n_ctx // 4)
    n_now = count(n_dropped)
    if n_now + wanted <= n_ctx:
        return n_dropped
    # Where the turns that are kept may begin: at a question. The last of these is the question itself.
    starts = [i for i, turn in enumerate(rest) if turn.role == "user" and i > n_dropped]
    n_least = count(starts[-1]) if starts else n_now
    if n_least + 1 > n_ctx:
        raise ContextFullError(
            f"the prompt has {n_least} tokens and the answer needs at least one more, but the context holds "
            f"{n_ctx}: shorten it, use fewer or smaller pictures, or a larger context"
        )
    room = n_ctx - max(1, min(wanted, (n_ctx - n_least) // 2))
    if n_now <= room:
        return n_dropped
    if policy == "stop":
        raise ContextFullError(
            f"the conversation has {n_now} tokens, which leaves no room for an answer in a context of "
            f"{n_ctx}: take the question back, start anew, or let the oldest turns be dropped"
        )
    slack = (n_ctx - n_least) // 8
    fitting = [i for i in starts if count(i) <= room]
    return next((i for i in fitting if count(i) <= room - slack), fitting[0])
