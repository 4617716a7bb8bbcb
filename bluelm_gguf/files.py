"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import glob
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

PART_SUFFIX = ".part"
STALE_S = 3600
"""After so many seconds, a temporary file belongs to a process that is no more."""


@contextlib.contextmanager
def write_atomically(path: Path, *, durable: bool) -> Iterator[BinaryIO]:
    """A new file (mode 0600) that takes its name when the block ends, and is removed if the block raises.

    Whoever opens the name meanwhile gets the old file, whole. Several processes may write the same name: the
    last one wins.

    What a killed process left of the same name goes when it is an hour old.

    Args:
        path: The name; its directory is there.
        durable: Whether the contents are on the disk before the name is, so that losing power leaves the old
            file or the new one. What can be told to be damaged, and made again, does without.

    Raises:
        OSError: as open(), write() and rename() do.
    """
    _remove_stale(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}{PART_SUFFIX}")
    flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_BINARY", 0)
    try:
        with os.fdopen(os.open(part, flags, 0o600), "w+b") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise
    if durable:
        _sync_directory(path.parent)


def _remove_stale(path: Path) -> None:
    for old in path.parent.glob(f".{glob.escape(path.name)}.*{PART_SUFFIX}"):
        with contextlib.suppress(OSError):
            if time.time() - old.stat().st_mtime > STALE_S:
                old.unlink()


def _sync_directory(directory: Path) -> None:
    """Makes a rename last, where directories can be synced."""
    with contextlib.suppress(OSError):
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def one_line(error: OSError) -> str:
    """What the system says against a file, for the end of a message."""
    reason = error.strerror or str(error)
    return reason[:1].lower() + reason[1:]
