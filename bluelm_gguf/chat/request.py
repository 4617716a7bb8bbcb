"""What one answer is asked with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ContextFullError, check_range
from ..llm.prompt import Turn
from ..llm.sampling import Sampling, SamplingOptions
from ..pictures.encoded import EncodedImage
from ..pictures.planner import TilerOverrides
from ..progress import ProgressFn
from .results import Reply

if TYPE_CHECKING:
    from typing_extensions import Unpack


class AnswerOptions(SamplingOptions, total=False):
    """How to answer; what every call takes that asks something."""

    max_tokens: int | None
    """Most tokens of the answer (256); None: until the context is full."""
    stop: str | Sequence[str]
    """Texts that end the answer and are not part of it."""
    tiler: TilerOverrides
    """Departures from the mmproj's tiler for the pictures of this call."""
    on_progress: ProgressFn | None
    """See `ProgressFn`."""


class Question:
    """What is asked, and what happens around the answer; `ChatQuestion` overrides it.

    Args:
        turns: The conversation; the last turn is the question. Its pictures are encoded.
        images: Further pictures of the last turn, encoded or not.
        owner: Whose question it is.
    """

    def __init__(
        self, turns: Sequence[Turn], images: Sequence[Any] = (), owner: object | None = None
    ) -> None:
        self._turns = list(turns)
        self._images = list(images)
        self.owner = owner
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


@dataclass(frozen=True)
class Request:
    """A question, and how to answer it; checked."""

    question: Question
    reuse: bool
    """Whether what the KV cache already holds of the prompt is kept."""
    sampling: Sampling
    max_tokens: int | None
    stop: tuple[str, ...]
    tiler: TilerOverrides
    on_progress: ProgressFn | None

    @classmethod
    def of(cls, question: Question, *, reuse: bool, **options: Unpack[AnswerOptions]) -> Request:
        """Makes one of a call's options.

        Raises:
            InvalidArgumentError: a value out of range.
            TypeError: an option that there is not.
        """
        rest = dict(options)
        max_tokens = options.get("max_tokens", 256)
        stop = options.get("stop", ())
        for name in ("max_tokens", "stop", "tiler", "on_progress"):
            rest.pop(name, None)
        check_range("max_tokens", max_tokens, 1, 2**31 - 1)
        sampling = Sampling(**rest)  # type: ignore[arg-type]  # what is left are its fields, or a TypeError
        sampling.validate()
        return cls(
            question=question,
            reuse=reuse,
            sampling=sampling,
            max_tokens=max_tokens,
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
            tiler=options.get("tiler"),
            on_progress=options.get("on_progress"),
        )


def as_list(images: Any) -> list[Any]:
    """The pictures of a call; one picture given without a list is meant as one."""
    if images is None:
        return []
    single = (str, bytes, bytearray, memoryview, Path, EncodedImage)
    if isinstance(images, single) or hasattr(images, "size") or hasattr(images, "read"):
        return [images]
    return list(images)
