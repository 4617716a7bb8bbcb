"""What the KV cache holds, position by position.

The ledger is the only code that changes the cache. A prompt is compared with it cell by cell, and only what
comes after the common beginning is computed: of a second question about a picture, the question.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..pieces import View, views_of
from ..progress import ProgressFn
from .language_model import LanguageModel, PartlyDone
from .prompt import ImageSegment, Picture, Segment, TextSegment

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Cell = int | tuple[str, int]
"""What a position of the KV cache holds: a token, or row i of the picture with that key."""


_MAX_COPIES = 2  # states behind pictures, of models that cannot go back


@dataclass(frozen=True)
class _Copy:
    """What the cache held of the first n cells."""

    n: int
    state: NDArray[np.uint8]


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
        self._after: list[int] = []  # the position that follows each cell; with M-RoPE not its index + 1
        self._copies: list[_Copy] = []

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
        wanted = cells_of(segments)
        after = _positions(wanted, _views_in(segments))
        wanted = wanted[: _whole(segments, len(wanted) if n is None else n)]
        done = done if done is not None else Prefilled()
        n_kept = common(self.cells, wanted[:-1] if logits else wanted) if reuse else 0
        n_kept = self._roll_back(_whole(segments, n_kept))
        last_view = max((i for i, one in enumerate(segments) if isinstance(one, ImageSegment)), default=-1)
        offset = 0
        for i, segment in enumerate(segments):
            begin, end = max(offset, n_kept), min(offset + len(segment), len(wanted))
            if begin < end:
                base, total = begin - n_kept, len(wanted) - n_kept

                def report(stage: str, now: int, _: int, base: int = base, total: int = total) -> bool:
                    return on_progress is None or on_progress(stage, base + now, total) is not False

                want_logits = logits and end == len(wanted)
                self._bring_part(segment, offset, begin, end, after, want_logits, report)
                if i == last_view and end == offset + len(segment):
                    self._copy_state()
                if isinstance(segment, TextSegment):
                    done.n_text += end - begin
                else:
                    done.n_image += end - begin
            offset += len(segment)

    def _bring_part(
        self,
        segment: Segment,
        offset: int,
        begin: int,
        end: int,
        after: Sequence[int],
        logits: bool,
        report: ProgressFn,
    ) -> None:
        """Brings cells begin..end-1, all in one segment that starts at cell `offset`, into the cache."""
        cells = cells_of([segment])[begin - offset : end - offset]
        llm, chunk = self._llm, self._chunk
        pos = self._position(begin)
        try:
            if isinstance(segment, TextSegment):
                tokens = segment.tokens[begin - offset : end - offset]
                llm.prefill_tokens(tokens, pos, chunk=chunk, logits=logits, on_progress=report)
            else:
                view = segment.view
                rows = segment.image.embeddings[view.first + begin - offset : view.first + end - offset]
                llm.prefill_view(
                    rows, pos, chunk=chunk, logits=logits, positions=view.positions_at(pos),
                    non_causal=view.non_causal, on_progress=report,
                )  # fmt: skip
        except PartlyDone as partly:
            self._hold(cells[: partly.n_done], after[begin : begin + partly.n_done])
            self._roll_back(len(self.cells))
            raise (partly.__cause__ or partly) from None
        self._hold(cells, after[begin:end])

    def _hold(self, cells: Sequence[Cell], after: Sequence[int]) -> None:
        self.cells += cells
        self._after += after

    def _position(self, n: int) -> int:
        """The position that follows the first n cells."""
        return self._after[n - 1] if n else 0

    def append(self, token: int, *, is_cancelled: Callable[[], bool] | None = None) -> None:
        """Decodes one token of an answer; see `LanguageModel.decode`.

        Raises:
            Cancelled, DecodeError: the cache is as before.
        """
        n = len(self.cells)
        pos = self._position(n)
        try:
            self._llm.decode(token, pos, is_cancelled=is_cancelled)
        except BaseException:
            self._roll_back(n)
            raise
        self._hold([token], [pos + 1])

    def keep(self, n: int) -> int:
        """Drops what is behind the first n cells.

        Returns:
            How many are left: n, or fewer where the model cannot go back by a part.
        """
        return n if n == len(self.cells) else self._roll_back(n)

    def restore(
        self, cells: Sequence[Cell], state: NDArray[np.uint8], images: Iterable[Picture] = ()
    ) -> bool:
        """Makes the cache hold what `LanguageModel.read_state` wrote when it held these cells.

        Args:
            cells: What the cache held.
            state: The bytes.
            images: The pictures that cells are of.

        Returns:
            Whether llama.cpp took it; if not, the cache is empty.
        """
        self.forget()
        after = _positions(cells, {image.key: views_of(image.layout) for image in images})
        if not cells or not self._llm.restore_state(state, after[-1]):
            return False
        self.cells, self._after = list(cells), after
        return True

    def forget(self) -> None:
        """Empties the cache."""
        self._copies.clear()
        self._roll_back(0)

    def _roll_back(self, n: int) -> int:
        """Keeps the first n cells; where the model cannot go back by a part, those of the latest copy behind
        a picture that fits, or none. Returns how many."""
        if self._llm.keep(self._position(n)) == 0:
            n = self._go_to_copy(n)
        del self.cells[n:], self._after[n:]
        self._copies = [copy for copy in self._copies if copy.n <= n]
        return n

    def _go_to_copy(self, n: int) -> int:
        """Fills the empty cache with the longest state of at most n cells; returns how many it holds."""
        for copy in sorted(self._copies, key=lambda one: -one.n):
            if copy.n <= n and self._llm.restore_state(copy.state, self._position(copy.n)):
                return copy.n
        return 0

    def _copy_state(self) -> None:
        """Keeps a copy of the state for models that cannot go back: a picture is not computed twice."""
        if self._llm.can_go_back or any(copy.n == len(self.cells) for copy in self._copies):
            return
        import numpy as np

        state = np.empty(self._llm.state_bytes(), dtype=np.uint8)
        state = state[: self._llm.read_state(state)]
        self._copies = [*self._copies[-_MAX_COPIES + 1 :], _Copy(len(self.cells), state)]


def cells_of(segments: Sequence[Segment]) -> list[Cell]:
    """What each position of the KV cache will hold."""
    cells: list[Cell] = []
    for segment in segments:
        if isinstance(segment, TextSegment):
            cells += segment.tokens
        else:
            first = segment.view.first
            cells += [(segment.image.key, first + i) for i in range(len(segment))]
    return cells


def _views_in(segments: Sequence[Segment]) -> dict[str, list[View]]:
    """The views of each picture in a prompt, by the picture's key."""
    views: dict[str, list[View]] = {}
    for segment in segments:
        if isinstance(segment, ImageSegment):
            views.setdefault(segment.image.key, []).append(segment.view)
    return views


def _positions(cells: Sequence[Cell], views: Mapping[str, Sequence[View]]) -> list[int]:
    """The position that follows each cell."""
    view_of = {
        (key, view.first + i): (view, i) for key, some in views.items() for view in some
        for i in range(view.n_tokens)
    }  # fmt: skip
    after: list[int] = []
    pos = start = 0
    for cell in cells:
        if isinstance(cell, int):
            pos += 1
        else:
            view, row = view_of[cell]
            if row == 0:
                start = pos
            pos = start + view.pos_after(row)
        after.append(pos)
    return after


def _whole(segments: Sequence[Segment], n: int) -> int:
    """At most n cells that do not end within a view of which a part means nothing."""
    offset = 0
    for segment in segments:
        is_within = offset < n < offset + len(segment)
        if is_within and isinstance(segment, ImageSegment) and segment.view.is_whole:
            return offset
        offset += len(segment)
    return n


def common(a: Sequence[object], b: Sequence[object]) -> int:
    """Length of the common beginning."""
    n = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        n += 1
    return n
