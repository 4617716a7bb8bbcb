"""Reads the head of a GGUF file: metadata and the table of tensors, never the weights.

Used before a file is handed to native code, so that a wrong, broken or truncated file gets one sentence
instead of an abort, and by `bluelm-gguf info`. Long arrays (a vocabulary has 150,000 strings) are stepped
over: only their type and length are kept.

The format is described in ggml's docs/gguf.md; versions 2 and 3 are read.
"""

from __future__ import annotations

import mmap
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import BluelmError, ModelFileError, ModelFormatError

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")

# Value types of the metadata: id -> (struct code, bytes)
_SCALARS: dict[int, tuple[str, int]] = {
    0: ("B", 1),
    1: ("b", 1),
    2: ("H", 2),
    3: ("h", 2),
    4: ("I", 4),
    5: ("i", 4),
    6: ("f", 4),
    7: ("?", 1),
    10: ("Q", 8),
    11: ("q", 8),
    12: ("d", 8),
}
_STRING, _ARRAY = 8, 9

# ggml tensor types: id -> (name, elements per block, bytes per block)
GGML_TYPES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
}

# Arrays up to this many elements are kept as lists.
_MAX_KEPT = 1024


@dataclass(frozen=True)
class LongArray:
    """Stands in the metadata for an array that was stepped over."""

    length: int


@dataclass(frozen=True)
class TensorEntry:
    """One row of the table of tensors; `shape` is in numpy's order, rows first."""

    name: str
    shape: tuple[int, ...]
    type: str
    offset: int
    n_bytes: int

    @property
    def n_elements(self) -> int:
        """Number of weights."""
        n = 1
        for size in self.shape:
            n *= size
        return n


@dataclass(frozen=True)
class GgufHead:
    """The head of one GGUF file."""

    path: Path
    version: int
    file_bytes: int
    metadata: dict[str, Any]
    tensors: tuple[TensorEntry, ...]

    @property
    def architecture(self) -> str:
        """`general.architecture`, or "" where there is none."""
        return str(self.metadata.get("general.architecture", ""))

    @property
    def is_mmproj(self) -> bool:
        """Whether this is a vision file and no language model."""
        return self.architecture == "clip" or self.metadata.get("general.type") == "mmproj"

    def of_architecture(self, key: str, default: Any = None) -> Any:
        """`<architecture>.<key>`, for example `llama.embedding_length`."""
        return self.metadata.get(f"{self.architecture}.{key}", default)


class _Cursor:
    """Walks the mapped file; every step is checked against its end."""

    def __init__(self, data: mmap.mmap, path: Path, version: int) -> None:
        self.data = data
        self.size = len(data)
        self.path = path
        self.version = version
        self.pos = 8

    def _advance(self, n: int) -> int:
        start = self.pos
        if n > self.size - start:
            raise ModelFormatError(f"{self.path}: the GGUF file is truncated (its header ends early)")
        self.pos = start + n
        return start

    def u32(self) -> int:
        return int(_U32.unpack_from(self.data, self._advance(4))[0])

    def u64(self) -> int:
        return int(_U64.unpack_from(self.data, self._advance(8))[0])

    def string(self) -> str:
        n = self.u64()
        start = self._advance(n)
        return self.data[start : start + n].decode("utf-8", errors="replace")

    def value(self, kind: int, depth: int = 0) -> Any:
        if kind in _SCALARS:
            code, n = _SCALARS[kind]
            return struct.unpack_from("<" + code, self.data, self._advance(n))[0]
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY and depth < 4:
            return self._array(depth)
        raise ModelFormatError(f"{self.path}: not a sound GGUF file (metadata value of unknown type {kind})")

    def _array(self, depth: int) -> Any:
        kind, length = self.u32(), self.u64()
        if kind in _SCALARS:
            code, n = _SCALARS[kind]
            start = self._advance(n * length)
            if length > _MAX_KEPT:
                return LongArray(length)
            return list(struct.unpack_from(f"<{length}{code}", self.data, start))
        if length <= _MAX_KEPT:
            return [self.value(kind, depth + 1) for _ in range(length)]
        if kind == _STRING:
            # The long way of a vocabulary: locals keep 150,000 steps at some 30 ms.
            data, pos, unpack, last = self.data, self.pos, _U64.unpack_from, self.size - 8
            for _ in range(length):
                if pos > last:
                    break
                pos += 8 + unpack(data, pos)[0]
            self.pos = 0 if pos > self.size or pos < 0 else pos
            if self.pos == 0:
                raise ModelFormatError(f"{self.path}: the GGUF file is truncated (its header ends early)")
        else:
            for _ in range(length):
                self.value(kind, depth + 1)
        return LongArray(length)


def read_head(path: str | os.PathLike[str], *, check_complete: bool = True) -> GgufHead:
    """Reads metadata and tensor table of a GGUF file.

    Args:
        path: The file.
        check_complete: Also make sure that the file is long enough to hold every tensor.

    Raises:
        ModelFileError: The file is missing or cannot be read.
        ModelFormatError: It is no GGUF file, is damaged, or ends early.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(8)
            _check_start(path, start, size)
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _parse(path, data, check_complete)
    except BluelmError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise ModelFileError(f"{path}: {reason[:1].lower()}{reason[1:]}") from None


def _check_start(path: Path, start: bytes, size: int) -> None:
    if size == 0:
        raise ModelFormatError(f"{path}: the file is empty")
    if start[:4] != b"GGUF":
        raise ModelFormatError(f"{path}: not a GGUF file")
    if size < 24:
        raise ModelFormatError(f"{path}: the GGUF file is truncated ({size} bytes)")
    version = _U32.unpack_from(start, 4)[0]
    if version not in (2, 3):
        if version & 0xFFFF == 0:
            raise ModelFormatError(f"{path}: a big-endian GGUF file, which this build does not read")
        raise ModelFormatError(f"{path}: GGUF version {version}; versions 2 and 3 are read")


def _parse(path: Path, data: mmap.mmap, check_complete: bool) -> GgufHead:
    cursor = _Cursor(data, path, _U32.unpack_from(data, 4)[0])
    n_tensors, n_values = cursor.u64(), cursor.u64()
    # Each takes at least 12 bytes: a damaged count must not become a long loop.
    if n_tensors > cursor.size // 12 or n_values > cursor.size // 12:
        raise ModelFormatError(f"{path}: not a sound GGUF file (more entries than bytes)")
    metadata: dict[str, Any] = {}
    for _ in range(n_values):
        key = cursor.string()
        metadata[key] = cursor.value(cursor.u32())
    rows: list[tuple[str, tuple[int, ...], int, int]] = []
    for _ in range(n_tensors):
        name = cursor.string()
        n_dims = cursor.u32()
        if n_dims > 4:
            raise ModelFormatError(f"{path}: not a sound GGUF file (tensor {name!r} has {n_dims} dimensions)")
        dims = [cursor.u64() for _ in range(n_dims)]
        rows.append((name, tuple(reversed(dims)), cursor.u32(), cursor.u64()))
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
        raise ModelFormatError(f"{path}: not a sound GGUF file (alignment {alignment})")
    start = (cursor.pos + alignment - 1) // alignment * alignment
    tensors = tuple(_entry(path, start, *row) for row in rows)
    end = max((tensor.offset + tensor.n_bytes for tensor in tensors), default=0)
    if check_complete and end > cursor.size:
        raise ModelFormatError(
            f"{path}: the GGUF file is truncated ({cursor.size} bytes; its tensors need {end})"
        )
    return GgufHead(path, cursor.version, cursor.size, metadata, tensors)


def _entry(path: Path, start: int, name: str, shape: tuple[int, ...], kind: int, offset: int) -> TensorEntry:
    if kind not in GGML_TYPES:
        # Newer than this table: the runtime may know it. Its size is left open.
        return TensorEntry(name, shape, f"type {kind}", start + offset, 0)
    label, block, block_bytes = GGML_TYPES[kind]
    n = 1
    for size in shape:
        n *= size
    if shape and shape[-1] % block:
        raise ModelFormatError(
            f"{path}: not a sound GGUF file (tensor {name!r}: rows of {shape[-1]} in blocks of {block})"
        )
    return TensorEntry(name, shape, label, start + offset, n // block * block_bytes)
