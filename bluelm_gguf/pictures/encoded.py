"""A picture on its way: read and planned, then encoded."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..pieces import Piece, one_view

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .tiling import TilePlan


@dataclass(frozen=True)
class EncodeTimings:
    """Milliseconds of one encode; the parts overlap where the pipeline runs, so they may exceed the total."""

    decode_ms: float
    """Reading the picture file."""
    resize_ms: float
    """Resize, pad, cut."""
    patch_embd_ms: float
    vit_ms: float
    """Transformer blocks, downsampler and projector."""
    total_ms: float
    """Wall time in the encoder."""
    n_batches: int
    profile: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Where the time in the encoder went: milliseconds by stage, in the order of the network, `total_ms`, and
    `gops`: the whole arithmetic (2 operations for a multiply-add) over the total, in 1e9 per second. What a
    thread waits for at the end of a stage counts as part of it. Empty for a picture from the cache, and for
    libmtmd's encoders."""


@dataclass(frozen=True, eq=False)
class EncodedImage:
    """A picture as the LLM takes it; may be used in any number of questions."""

    embeddings: NDArray[np.float32]
    """[n_tokens, n_embd], views in the plan's order, or put together as the file asks."""
    plan: TilePlan
    timings: EncodeTimings
    key: str
    """Tells pictures apart within this process: the same pixels, cut in the same way and encoded by the same
    file, have the same."""
    digest: str
    """Of the pixels and the tiler's settings, see `identity.picture_digest`; the same on every machine."""
    is_cached: bool = False
    """Whether the embeddings were read from the cache on disk."""
    pieces: tuple[Piece, ...] = ()
    """Views and the tokens around them; (): one view of all rows."""

    @property
    def n_tokens(self) -> int:
        """Rows of the embeddings."""
        return int(self.embeddings.shape[0])

    @property
    def layout(self) -> tuple[Piece, ...]:
        """The pieces in order."""
        return self.pieces or one_view(self.n_tokens)


@dataclass(frozen=True, eq=False)
class PreparedImage:
    """A picture that was read and planned, and is not encoded yet."""

    rgb: NDArray[np.uint8]
    plan: TilePlan
    n_tokens: int
    decode_ms: float
    digest: str
    key: str
    """As the encoded picture will have them."""
    pieces: tuple[Piece, ...] = ()
    native: Any = None
    """What the encoder keeps for itself."""

    @property
    def layout(self) -> tuple[Piece, ...]:
        """The pieces in order."""
        return self.pieces or one_view(self.n_tokens)
