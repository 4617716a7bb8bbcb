"""Encoded pictures on disk, so that a picture seen before needs no encoder run.

    cache = EmbeddingCache()                    # the platform's place, 1 GiB
    cache.put(key, embeddings)
    embeddings = cache.get(key)                 # bit for bit what was put, or None

One file for each picture, `embeddings/KEY.emb`: a header (magic, version, key, shape, SHA-256 of the rest of
the header and of the rows), then float32 rows, little-endian. An entry that is not exactly what its name
promises is removed and counts as not there. The time of last use is the file's mtime, set at every hit,
since many file systems do not keep atime. Any number of processes may share a directory: entries appear by
renaming, and an entry that goes while it is being read is still read to its end.

A cache never makes an answer fail: without room, or without the right to write, it warns once and is off.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import struct
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InvalidArgumentError
from ..files import PART_SUFFIX, STALE_S, one_line, write_atomically
from .identity import RememberedDigests

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DEFAULT_MAX_BYTES = 1 << 30

_MAGIC = b"BLUELMEM"
_VERSION = 1
_HEADER = struct.Struct("<8sII32sQQ")  # magic, version, bytes before the rows, key, rows, columns
_DIGEST_BYTES = 32
_DATA_AT = 128  # the header, its digest, and zeros up to here
_MAX_SIDE = 1 << 24  # rows, columns
_SUFFIX = ".emb"


@dataclass(frozen=True)
class CacheEntry:
    """One picture in the cache."""

    key: str
    path: Path
    n_bytes: int
    """Of the file."""
    used: float
    """When it was written or read last, in seconds since 1970."""
    n_tokens: int
    """Rows; 0 where the header cannot be read."""
    n_embd: int


def default_directory() -> Path:
    """Where the platform keeps caches: $BLUELM_CACHE_DIR if set; $XDG_CACHE_HOME or ~/.cache, on macOS
    ~/Library/Caches, and `bluelm-gguf` in it."""
    chosen = os.environ.get("BLUELM_CACHE_DIR")
    if chosen:
        return Path(chosen).expanduser()
    if sys.platform == "darwin":
        return _home() / "Library" / "Caches" / "bluelm-gguf"
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification: a path that is not absolute is to be ignored.
    return (Path(xdg) if os.path.isabs(xdg) else _home() / ".cache") / "bluelm-gguf"


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:  # a user without a home directory: fails as unwritable, with its one warning
        return Path(os.devnull)


def open_cache(cache: Any) -> EmbeddingCache | None:
    """What `Model(cache=...)` takes: None, False (off), True (the platform's place), a directory, a cache.

    Raises:
        InvalidArgumentError: something else.
    """
    if cache is None or cache is False:
        return None
    if cache is True:
        return EmbeddingCache()
    if isinstance(cache, EmbeddingCache):
        return cache
    if isinstance(cache, (str, os.PathLike)):
        return EmbeddingCache(cache)
    raise InvalidArgumentError(
        f"cache: True, False, a directory or an EmbeddingCache is needed, not {type(cache).__name__}"
    )


class EmbeddingCache:
    """Embeddings by key, in a directory of bounded size. Threads and processes may share it.

    Args:
        directory: Where; None: `default_directory()`. Nothing is made there before the first `put`.
        max_bytes: Most bytes of all entries together; what was used longest ago goes first.
    """

    def __init__(
        self, directory: str | os.PathLike[str] | None = None, *, max_bytes: int = DEFAULT_MAX_BYTES
    ) -> None:
        if max_bytes < 0:
            raise InvalidArgumentError(f"max_bytes is {max_bytes}; it must be at least 0")
        if directory is not None and not os.fspath(directory):
            raise InvalidArgumentError("cache: the directory's name is empty")
        self.directory = default_directory() if directory is None else Path(directory)
        self.max_bytes = max_bytes
        self.digests = RememberedDigests(self.directory / "files")
        """Of the model files that keys were made with."""
        self._entries = self.directory / "embeddings"
        self._is_warned = False

    def __repr__(self) -> str:
        return f"EmbeddingCache({str(self.directory)!r}, max_bytes={self.max_bytes})"

    # ------------------------------------------------------------------------------------------------ entries

    def get(self, key: str, *, shape: tuple[int, int] | None = None) -> NDArray[np.float32] | None:
        """The embeddings, or None.

        Args:
            key: 64 hexadecimal digits.
            shape: What the caller expects; an entry of another shape counts as damaged.

        Returns:
            float32 [n_tokens, n_embd], the caller's own.
        """
        path = self._path(key)
        try:
            if not self._is_ours():
                return None
            with path.open("rb") as file:
                rows = _read(file, key, shape)
        except FileNotFoundError:
            return None
        except OSError as error:
            self.warn(f"{path}: {one_line(error)}")
            return None
        if rows is None:
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        with contextlib.suppress(OSError):  # a directory that may only be read serves all the same
            os.utime(path)
        return rows

    def put(self, key: str, embeddings: NDArray[np.float32]) -> bool:
        """Keeps embeddings, and removes what was used longest ago to make room.

        Args:
            key: 64 hexadecimal digits.
            embeddings: [n_tokens, n_embd].

        Returns:
            Whether they were kept: not if they alone are larger than `max_bytes`, nor if the disk refuses.
        """
        import numpy as np

        path = self._path(key)
        rows = np.ascontiguousarray(embeddings, dtype="<f4")
        n_bytes = _DATA_AT + rows.nbytes
        if rows.ndim != 2 or not rows.size or n_bytes > self.max_bytes:
            return False
        header = _HEADER.pack(_MAGIC, _VERSION, _DATA_AT, bytes.fromhex(key), *rows.shape)
        try:
            self._entries.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not self._is_ours():
                return False
            self._make_room(n_bytes)
            # Not durable: an entry that lost its end with the power is found out and removed.
            with write_atomically(path, durable=False) as file:
                file.write((header + _digest(header, rows)).ljust(_DATA_AT, b"\0"))
                file.write(rows.data.cast("B"))
            self._make_room(0)  # what other processes wrote meanwhile
        except OSError as error:
            self.warn(f"{self.directory}: {one_line(error)}")
            return False
        return True

    def entries(self) -> list[CacheEntry]:
        """All entries, the last used first."""
        found = [self._entry(path, stat) for path, stat in self._files() if path.suffix == _SUFFIX]
        return sorted(found, key=lambda entry: entry.used, reverse=True)

    def clear(self) -> int:
        """Removes all entries and what is remembered of model files; returns how many entries.

        Files that are not the cache's own stay.

        Raises:
            OSError: one cannot be removed.
        """
        n = 0
        for path, _stat in list(self._files()):
            path.unlink(missing_ok=True)
            n += path.suffix == _SUFFIX
        self.digests.clear()
        return n

    # ------------------------------------------------------------------------------------------------ innards

    def warn(self, reason: str) -> None:
        """Says once that pictures are not kept."""
        if not self._is_warned:
            self._is_warned = True
            warnings.warn(f"the cache of encoded pictures is off: {reason}", stacklevel=2)

    def _path(self, key: str) -> Path:
        if not re.fullmatch("[0-9a-f]{64}", key):
            raise InvalidArgumentError(f"cache: {key!r} is no key; it has 64 hexadecimal digits")
        return self._entries / (key + _SUFFIX)

    def _is_ours(self) -> bool:
        """Whether nobody else can have put entries there: they would decide what a picture shows."""
        found = self._entries.stat()
        if found.st_uid != os.geteuid():
            self.warn(f"{self._entries} belongs to another user; choose another place (BLUELM_CACHE_DIR)")
            return False
        if found.st_mode & 0o077:
            os.chmod(self._entries, 0o700)
        return True

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        """Entries and temporary files."""
        pattern = re.compile(rf"[0-9a-f]{{64}}\{_SUFFIX}|\.[0-9a-f]{{64}}\{_SUFFIX}\..*\{PART_SUFFIX}")
        try:
            names = [name for name in os.listdir(self._entries) if pattern.fullmatch(name)]
        except OSError:
            return
        for name in names:
            path = self._entries / name
            with contextlib.suppress(OSError):
                stat = path.lstat()
                yield path, stat

    def _entry(self, path: Path, stat: os.stat_result) -> CacheEntry:
        shape = 0, 0
        with contextlib.suppress(OSError, struct.error), path.open("rb") as file:
            magic, version, _, _, *sides = _HEADER.unpack(file.read(_HEADER.size))
            if (magic, version) == (_MAGIC, _VERSION):
                shape = sides[0], sides[1]
        return CacheEntry(path.stem, path, stat.st_size, stat.st_mtime, *shape)

    def _make_room(self, n_bytes: int) -> None:
        """Removes the entries used longest ago until n_bytes more fit, and what dead processes left."""
        total, entries = n_bytes, []
        for path, stat in self._files():
            if path.suffix == _SUFFIX:
                entries.append((stat.st_mtime_ns, path, stat.st_size))
                total += stat.st_size
            elif time.time() - stat.st_mtime > STALE_S:
                path.unlink(missing_ok=True)
        for _, path, size in sorted(entries):
            if total <= self.max_bytes:
                break
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
                total -= size


def _digest(header: bytes, rows: NDArray[np.float32]) -> bytes:
    digest = hashlib.sha256(header)
    digest.update(rows.data.cast("B"))
    return digest.digest()


def _read(file: Any, key: str, shape: tuple[int, int] | None) -> NDArray[np.float32] | None:
    """An entry's rows, or None where anything is wrong; sizes are checked before memory is asked for."""
    import numpy as np

    start = file.read(_DATA_AT)
    if len(start) != _DATA_AT:
        return None
    header = start[: _HEADER.size]
    magic, version, data_at, stored_key, n_rows, n_columns = _HEADER.unpack(header)
    if (magic, version, data_at, stored_key.hex()) != (_MAGIC, _VERSION, _DATA_AT, key):
        return None
    if not (0 < n_rows <= _MAX_SIDE and 0 < n_columns <= _MAX_SIDE):
        return None
    if shape is not None and shape != (n_rows, n_columns):
        return None
    if os.fstat(file.fileno()).st_size != _DATA_AT + 4 * n_rows * n_columns:
        return None
    rows = np.empty((n_rows, n_columns), dtype="<f4")
    if file.readinto(rows.data.cast("B")) != rows.nbytes:
        return None
    if _digest(header, rows) != start[_HEADER.size : _HEADER.size + _DIGEST_BYTES]:
        return None
    return rows.astype(np.float32, copy=False)
