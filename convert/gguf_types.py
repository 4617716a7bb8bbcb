"""Types and sizes of the tensors of a GGUF file, read from its head.

gguf.GGUFReader takes seconds for a vocabulary of 150,000 tokens; here values are skipped, not decoded.
Format: docs/gguf.md of ggml, version 3.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

import gguf

from .quantize import n_bytes

# GGUF value type -> bytes; 8 is a string and 9 an array.
VALUE_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
STRING, ARRAY = 8, 9


def _u64(file: BinaryIO) -> int:
    return int.from_bytes(file.read(8), "little")


def _u32(file: BinaryIO) -> int:
    return int.from_bytes(file.read(4), "little")


def skip(file: BinaryIO, kind: int) -> None:
    """Moves behind a value."""
    if kind == STRING:
        file.seek(_u64(file), 1)
    elif kind == ARRAY:
        inner, count = _u32(file), _u64(file)
        if inner in VALUE_BYTES:
            file.seek(count * VALUE_BYTES[inner], 1)
        else:
            for _ in range(count):
                skip(file, inner)
    else:
        file.seek(VALUE_BYTES[kind], 1)


def tensor_table(path: Path) -> list[tuple[str, int, int]]:
    """(type, tensors, bytes) of a file that was just written, largest first."""
    counts: dict[str, tuple[int, int]] = {}
    with path.open("rb") as file:
        magic, version, n_tensors, n_values = struct.unpack("<4sIQQ", file.read(24))
        assert magic == b"GGUF" and version == 3, path
        for _ in range(n_values):
            skip(file, STRING)
            skip(file, _u32(file))
        for _ in range(n_tensors):
            skip(file, STRING)
            shape = tuple(_u64(file) for _ in range(_u32(file)))
            kind = gguf.GGMLQuantizationType(_u32(file))
            file.seek(8, 1)
            count, size = counts.get(kind.name, (0, 0))
            counts[kind.name] = (count + 1, size + n_bytes(shape, kind))
    return sorted(((kind, count, size) for kind, (count, size) in counts.items()), key=lambda row: -row[2])
