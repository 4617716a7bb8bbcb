"""Whether a file is still the one that was opened."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from dataclasses import dataclass

from .errors import ModelFileError
from .files import one_line


def combine(*parts: str) -> str:
    """One identity from several: SHA-256 in hexadecimal digits."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


@dataclass(frozen=True)
class FileStamp:
    """What changes about a file when its contents do."""

    path: str
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> FileStamp:
        """Of the file as it is now.

        Raises:
            ModelFileError: it is missing.
        """
        try:
            found = os.stat(path)
        except OSError as error:
            raise ModelFileError(f"{path}: {one_line(error)}") from None
        return cls.of_stat(path, found)

    @classmethod
    def of_stat(cls, path: str | os.PathLike[str], found: os.stat_result) -> FileStamp:
        """From what os.stat() or os.fstat() returned."""
        return cls(os.path.abspath(path), found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)

    @property
    def local_id(self) -> str:
        """Tells files apart as long as this process lives, without reading them."""
        return combine(*(str(value) for value in dataclasses.astuple(self)))
