"""What the KV cache holds, position by position.

The ledger is the only code that changes the cache. A prompt is compared with it cell by cell, and only what
comes after the common beginning is computed: of a second question about a picture, the question.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..progress import ProgressFn
from .language_model import LanguageModel, PartlyDone
from .prompt import Segment, TextSegment

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Cell = int | tuple[str, int]
"""What a position of the KV cache holds: a token, or row i of the picture with that key."""


@dataclass
class Prefilled:
    """Tokens that had to be computed, so far."""

    n_image: int = 0
    n_text: int = 0


class Ledger:
    """The KV cache of one model.

    Not thread-safe: whoever holds the model's lock may use it.

    Args:
        llm: Whose cache it is.
        chunk: Tokens per step of the prefill.

    Attributes:
        cells: What the cache holds.
    """

    def __init__(self, llm: LanguageModel, chunk: int) -> None:
        self._llm = llm
        self._chunk = chunk
        self.cells: list[Cell] = []

    def bring(
        self,
        segments: Sequence[Segment],
        *,
        n: int | None = None,
        reuse: bool = True,
        logits: bool = True,
        on_progress: ProgressFn | None = None,
        done: Prefilled | None = None,
    ) -> None:
        """Makes the cache hold a prompt, and nothing after it.

        Args:
            segments: The prompt.
            n: Only its first n cells; None: all.
            reuse: Keep what the cache already holds of it.
            logits: Whether an answer starts here: the last cell is computed in any case then.
            on_progress: Called with ("prefill", tokens done, tokens to do); returning False cancels, within
                a chunk too.
            done: Counts what was computed, also when it ends early.

        Raises:
            Cancelled, DecodeError, and what on_progress raises. The cache holds a beginning of the prompt
            then, and the ledger knows which.
        """
        wanted = cells_of(segments)[:n]
        done = done if done is not None else Prefilled()
        n_kept = common(self.cells, wanted[:-1] if logits else wanted) if reuse else 0
        n_kept = self._roll_back(n_kept)
        offset = 0
        for segment in segments:
            begin, end = max(offset, n_kept), min(offset + len(segment), len(wanted))
            if begin < end:
                base, total = begin - n_kept, len(wanted) - n_kept

                def report(stage: str, now: int, _: int, base: int = base, total: int = total) -> bool:
                    return on_progress is None or on_progress(stage, base + now, total) is not False

                want_logits = logits and end == len(wanted)
                self._bring_part(segment, offset, begin, end, want_logits, report)
                if isinstance(segment, TextSegment):
                    done.n_text += end - begin
                else:
                    done.n_image += end - begin
            offset += len(segment)

    def _bring_part(
        self, segment: Segment, offset: int, begin: int, end: int, logits: bool, report: ProgressFn
    ) -> None:
        """Brings positions begin..end-1, all in one segment that starts at `offset`, into the cache."""
        cells = cells_of([segment])[begin - offset : end - offset]
        llm, chunk = self._llm, self._chunk
        try:
            if isinstance(segment, TextSegment):
                tokens = segment.tokens[begin - offset : end - offset]
                llm.prefill_tokens(tokens, begin, chunk=chunk, logits=logits, on_progress=report)
            else:
                rows = segment.image.embeddings[begin - offset : end - offset]
                llm.prefill_embd(rows, begin, chunk=chunk, logits=logits, on_progress=report)
        except PartlyDone as partly:
            self.cells += cells[: partly.n_done]
            self._roll_back(len(self.cells))
            raise (partly.__cause__ or partly) from None
        self.cells += cells

    def append(self, token: int, *, is_cancelled: Callable[[], bool] | None = None) -> None:
        """Decodes one token of an answer; see `LanguageModel.decode`.

        Raises:
            Cancelled, DecodeError: the cache is as before.
        """
        cells = self.cells
        try:
            self._llm.decode(token, len(cells), is_cancelled=is_cancelled)
        except BaseException:
            self._roll_back(len(cells))
            raise
        cells.append(token)

    def keep(self, n: int) -> int:
        """Drops what is behind the first n cells.

        Returns:
            How many are left: n, or 0 where the model cannot go back by a part.
        """
        return n if n == len(self.cells) else self._roll_back(n)

    def restore(self, cells: Sequence[Cell], state: NDArray[np.uint8]) -> bool:
        """Makes the cache hold what `LanguageModel.read_state` wrote when it held these cells.

        Returns:
            Whether llama.cpp took it; if not, the cache is empty.
        """
        self._roll_back(0)
        if not self._llm.restore_state(state, len(cells)):
            return False
        self.cells = list(cells)
        return True

    def forget(self) -> None:
        """Empties the cache."""
        self._roll_back(0)

    def _roll_back(self, n: int) -> int:
        """Keeps the first n cells, or none where the model cannot go back by a part; returns how many."""
        n = self._llm.keep(n)
        del self.cells[n:]
        return n


def cells_of(segments: Sequence[Segment]) -> list[Cell]:
    """What each position of the KV cache will hold."""
    cells: list[Cell] = []
    for segment in segments:
        if isinstance(segment, TextSegment):
            cells += segment.tokens
        else:
            cells += [(segment.image.key, i) for i in range(len(segment))]
    return cells


def common(a: Sequence[object], b: Sequence[object]) -> int:
    """Length of the common beginning."""
    n = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        n += 1
    return n
