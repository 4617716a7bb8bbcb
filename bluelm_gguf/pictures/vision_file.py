"""What every encoder of pictures has: its file's identity, keys of pictures, and the cache on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import BluelmError, Cancelled
from ..file_stamp import FileStamp, combine
from ..native.interrupt import DeferredInterrupt
from ..progress import ProgressFn
from .encoded import EncodedImage, EncodeTimings, PreparedImage
from .identity import file_sha256

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .cache import EmbeddingCache


class VisionFile:
    """An mmproj file that pictures are encoded with.

    Args:
        path: The file.
        cache: Where encoded pictures are looked for, and kept.
    """

    def __init__(self, path: Path, cache: EmbeddingCache | None) -> None:
        self.path = path
        self.stamp = FileStamp.of(path)
        """Tells whether another file has taken its place since."""
        self._cache = cache
        self._sha256: str | None = None
        self._arithmetic = ""  # what decides the embeddings' bits beside picture and file

    def identity(self, *, go_on: Callable[[], object] | None = None) -> str:
        """SHA-256 of the file. It is computed when first asked for; with a cache, once for all processes.

        Args:
            go_on: Called every few milliseconds; what it raises ends the work.

        Raises:
            ModelFileError: the file is gone.
            MismatchError: it is another one than was loaded.
        """
        if self._sha256 is None:
            remembered = self._cache.digests if self._cache is not None else None
            self._sha256 = file_sha256(self.stamp, remembered=remembered, go_on=go_on)
        return self._sha256

    def key_of(self, digest: str) -> str:
        """`EncodedImage.key` of a picture with this digest."""
        return combine(digest, self.stamp.local_id, self._arithmetic)

    def _cache_key(self, picture: PreparedImage, on_progress: ProgressFn | None) -> str | None:
        """The picture's place in the cache; None without a cache."""
        if self._cache is None:
            return None

        def go_on() -> None:
            is_stopped = on_progress is not None and on_progress("encode", 0, picture.plan.n_tiles) is False
            if is_stopped or interrupt.pending:
                raise Cancelled("encoding was cancelled")

        try:
            with DeferredInterrupt() as interrupt:
                identity = self.identity(go_on=go_on)
            return combine("bluelm embeddings", picture.digest, identity, self._arithmetic)
        except Cancelled:
            raise
        except BluelmError as error:
            self._cache.warn(str(error))
            return None

    def _cached(
        self, picture: PreparedImage, key: str | None, n_embd: int, on_progress: ProgressFn | None
    ) -> EncodedImage | None:
        """The picture from the cache, or None."""
        if self._cache is None or key is None:
            return None
        kept = self._cache.get(key, shape=(picture.n_tokens, n_embd))
        if kept is None:
            return None
        n_tiles = picture.plan.n_tiles
        if on_progress is not None and on_progress("encode", n_tiles, n_tiles) is False:
            raise Cancelled("encoding was cancelled")
        timings = EncodeTimings(picture.decode_ms, 0.0, 0.0, 0.0, 0.0, 0)
        return EncodedImage(
            kept, picture.plan, timings, picture.key, picture.digest, is_cached=True, pieces=picture.pieces
        )

    def _keep(self, key: str | None, embeddings: NDArray[np.float32]) -> None:
        """Puts embeddings into the cache, if there is one."""
        if self._cache is not None and key is not None:
            self._cache.put(key, embeddings)
