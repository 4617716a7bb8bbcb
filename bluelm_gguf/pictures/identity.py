"""What makes two pictures, or two model files, the same.

A picture is its pixels as the encoder gets them and every setting of the tiler: not its file's name, nor how
the file spells the same pixels. A vision file is its bytes. A language model is its head and samples of
every tensor: reading 1.6 GB to the last byte for each saved conversation is not worth what it would find,
since another checkpoint or another quantisation changes every large tensor everywhere.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import MismatchError, ModelFileError
from ..file_stamp import FileStamp, combine
from ..files import one_line, write_atomically

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..gguf.head import GgufHead
    from .tiling import TilerParams

# Counts up when the same pixels and settings no longer give the same embeddings, to the last bit.
ENCODER_VERSION = 2

_BLOCK = 4 << 20  # bytes hashed at once: some 3 ms, between two looks at whether to go on
_SAMPLE = 4096  # bytes of a tensor's beginning, middle and end
_FRESH_NS = 2_000_000_000  # a file changed so lately may change again within the clock's grain
_MAX_REMEMBERED = 64  # files


def picture_digest(rgb: NDArray[np.uint8], tiler: TilerParams) -> str:
    """Identity of a picture and how it is cut, whichever model encodes it.

    Args:
        rgb: uint8 [height, width, 3].
        tiler: All settings.

    Returns:
        SHA-256, 64 hexadecimal digits.
    """
    import numpy as np

    from .tiling import TilerParams

    native = tiler.to_native()
    settings = dataclasses.asdict(TilerParams.from_native(native))  # numbers of whatever kind become plain
    settings["alpha"] = float(native.alpha).hex()  # as libbluelm gets it; from_native() rounds
    text = json.dumps({"encoder": ENCODER_VERSION, "shape": rgb.shape, "tiler": settings}, sort_keys=True)
    digest = hashlib.sha256(b"bluelm picture\0" + text.encode() + b"\0")
    digest.update(np.ascontiguousarray(rgb).data.cast("B"))
    return digest.hexdigest()


def file_sha256(
    stamp: FileStamp,
    *,
    remembered: RememberedDigests | None = None,
    go_on: Callable[[], object] | None = None,
) -> str:
    """SHA-256 of a whole file, which must still be the one that the stamp was taken of.

    Args:
        stamp: From when the file was opened for use.
        remembered: Where the digest is looked up, and kept for the next process.
        go_on: Called every few milliseconds; what it raises ends the work.

    Raises:
        ModelFileError: the file cannot be read.
        MismatchError: it was changed or replaced since.
    """
    if remembered is not None and FileStamp.of(stamp.path) == stamp:
        known = remembered.get(stamp)
        if known is not None:
            return known
    digest, block = hashlib.sha256(), bytearray(_BLOCK)
    try:
        with open(stamp.path, "rb", buffering=0) as file:
            before = FileStamp.of_stat(stamp.path, os.fstat(file.fileno()))
            while before == stamp and (n := file.readinto(block)):
                digest.update(memoryview(block)[:n])
                if go_on is not None:
                    go_on()
            after = FileStamp.of_stat(stamp.path, os.fstat(file.fileno()))
    except OSError as error:
        raise ModelFileError(f"{stamp.path}: {one_line(error)}") from None
    if not before == after == stamp:
        raise MismatchError(f"{stamp.path}: the file was changed while it was in use; load the model again")
    if remembered is not None:
        remembered.put(stamp, digest.hexdigest())
    return digest.hexdigest()


class RememberedDigests:
    """Digests of large files, kept in a directory: one small file for each.

    Another file at the same path, or the same with other contents, has another stamp and is not found. What
    cannot be written or read is not remembered, and that is all.

    Args:
        directory: Made when the first digest is kept.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def _place(self, stamp: FileStamp) -> Path:
        return self.directory / f"{combine(stamp.path)[:32]}.json"

    def get(self, stamp: FileStamp) -> str | None:
        """The digest, or None."""
        try:
            with self._place(stamp).open("rb") as file:
                found = json.loads(file.read(16384))
        except (OSError, ValueError, RecursionError):
            return None
        if not isinstance(found, dict):
            return None
        sha256 = found.pop("sha256", None)
        is_digest = isinstance(sha256, str) and re.fullmatch("[0-9a-f]{64}", sha256)
        return sha256 if is_digest and found == dataclasses.asdict(stamp) else None

    def put(self, stamp: FileStamp, sha256: str) -> None:
        """Keeps a digest, unless the file is so fresh that it might change without looking changed."""
        if time.time_ns() - max(stamp.mtime_ns, stamp.ctime_ns) < _FRESH_NS:
            return
        entry = {**dataclasses.asdict(stamp), "sha256": sha256}
        with contextlib.suppress(OSError):
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            with write_atomically(self._place(stamp), durable=False) as file:
                file.write(json.dumps(entry).encode())
            kept = sorted(self.directory.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
            for path in kept[:-_MAX_REMEMBERED]:
                path.unlink(missing_ok=True)

    def clear(self) -> None:
        """Forgets all of them."""
        with contextlib.suppress(OSError):
            for path in self.directory.glob("*.json"):
                path.unlink(missing_ok=True)


def llm_identity(head: GgufHead) -> str:
    """Identity of a language model: its file's head, its size, and samples of every tensor.

    Raises:
        ModelFileError: the file cannot be read, or is shorter than it was.
    """
    digest = hashlib.sha256(f"bluelm llm\0{head.file_bytes}\0".encode())
    tensors = sorted(head.tensors, key=lambda tensor: tensor.offset)
    try:
        with head.path.open("rb") as file:
            left = tensors[0].offset if tensors else head.file_bytes
            while left and (block := file.read(min(left, _BLOCK))):  # metadata and the table of tensors
                digest.update(block)
                left -= len(block)
            for tensor in tensors:
                n = min(_SAMPLE, tensor.n_bytes)
                for start in sorted({0, (tensor.n_bytes - n) // 2, tensor.n_bytes - n}):
                    file.seek(tensor.offset + start)
                    sample = file.read(n)
                    left += n - len(sample)
                    digest.update(b"%d %d\0" % (tensor.offset, start) + sample)
    except OSError as error:
        raise ModelFileError(f"{head.path}: {one_line(error)}") from None
    if left:
        raise ModelFileError(f"{head.path}: the file became shorter while it was in use")
    return digest.hexdigest()
