"""A picture as a language model takes it: pieces in order, tokens and views.

A view is a block of embeddings; tokens stand before, between and behind views (begin and end markers, rows
and columns). A picture of our own encoder is the simplest case, one view without tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Marker:
    """Tokens of a picture."""

    tokens: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class View:
    """Rows of a picture's embeddings that are computed together."""

    first: int
    """Index of its first row."""
    n_tokens: int
    n_pos: int
    """Positions it takes in the language model: n_tokens, or fewer with M-RoPE."""
    positions: NDArray[np.int32] | None = None
    """int32 [2, 4, n_tokens] for M-RoPE: each row's position (time, y, x, a spare one) in a view that begins
    at position 0, and how much of the view's own position is added to it (0 or 1)."""
    non_causal: bool = False
    """Whether its tokens attend to each other in both directions."""

    @property
    def is_whole(self) -> bool:
        """Whether a part of it means nothing in a KV cache."""
        return self.non_causal or self.positions is not None

    def positions_at(self, pos: int) -> NDArray[np.int32] | None:
        """int32 [4, n_tokens] for a view at this position."""
        if self.positions is None:
            return None
        at_0, step = self.positions
        found: NDArray[np.int32] = at_0 + step * pos
        return found

    def pos_after(self, row: int) -> int:
        """Positions taken behind row `row` of the view; of a part of a whole view: none."""
        if not self.is_whole:
            return row + 1
        return self.n_pos if row == self.n_tokens - 1 else 0


Piece = Marker | View


def one_view(n_tokens: int) -> tuple[Piece, ...]:
    """A picture of one view without tokens around it."""
    return (View(0, n_tokens, n_tokens),)


def views_of(pieces: Iterable[Piece]) -> list[View]:
    """The views among some pieces."""
    return [piece for piece in pieces if isinstance(piece, View)]
