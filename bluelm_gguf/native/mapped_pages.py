"""Pages of a mapped file that were read and are not needed any more.

llama.cpp maps a model's file, and copies weights that have faster kernels into buffers in those kernels' own
order. The file's pages have been read then and stay part of the process's resident memory: the weights are
there twice. Told that it may, the system takes the pages back at once. What is still used (embeddings, types
without such kernels) comes back from the page cache when it is touched.

Linux and Android only; elsewhere the system takes the pages when memory runs short.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from . import library as _native

STEP_BYTES = 64 << 20

mapping = threading.RLock()
"""Held while models are mapped and unmapped: between looking up a mapping and giving its pages back, nothing
else may take its place."""


def drop_mapped_pages(path: str | os.PathLike[str]) -> int:
    """Gives back the pages of a file's read-only mappings; call it with `mapping` held.

    Returns:
        How many bytes are mapped; 0 where there is nothing to do, or no way to do it.
    """
    n_bytes = _native.c_int64()
    _native.check(_native.load().bluelm_drop_mapped_pages(os.fsencode(path), _native.byref(n_bytes)))
    return n_bytes.value


def dropping(path: str | os.PathLike[str]) -> Callable[[float], None]:
    """A function to be told how far loading a file is, 0 to 1: it drops what was read every now and then."""
    n_bytes = os.stat(path).st_size
    dropped_at = -1.0

    def report(done: float) -> None:
        nonlocal dropped_at
        if done == 1 or (done - dropped_at) * n_bytes >= STEP_BYTES:
            dropped_at = done
            drop_mapped_pages(path)

    return report
