"""Reads the head of a GGUF file: scalar values, the number of tokens, and the tensors' types and shapes.

gguf.GGUFReader takes seconds for a vocabulary of 150,000 tokens; here arrays are skipped, not decoded.
Format: docs/gguf.md of ggml, versions 2 and 3.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import gguf

from .tensor_types import n_bytes

# GGUF value type -> struct's format; 8 is a string and 9 an array.
SCALARS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
STRING, ARRAY = 8, 9
LONGEST_STRING = 1 << 24  # a chat template is the longest, some 10 kB
TOKENS = "tokenizer.ggml.tokens"


@dataclass(frozen=True)
class GgufHead:
    """What stands before the tensors' data.

    Attributes:
        values: every value that is no array.
        n_tokens: length of the token list; 0 without one.
        tensors: (type, shape rows first) of every tensor.
    """

    values: dict[str, Any]
    n_tokens: int
    tensors: list[tuple[gguf.GGMLQuantizationType, tuple[int, ...]]]


def read_head(path: Path) -> GgufHead:
    """Reads the head of a file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no GGUF file, cut off or damaged.
    """
    try:
        with path.open("rb") as file:
            return _Reader(file).head()
    except (struct.error, KeyError, OverflowError, RecursionError) as error:
        raise ValueError(f"no GGUF file, or a damaged one ({error})") from None


def tensor_table(path: Path) -> list[tuple[str, int, int]]:
    """(type, tensors, bytes) of a file, largest first."""
    return count_types(read_head(path).tensors)


def count_types(
    tensors: list[tuple[gguf.GGMLQuantizationType, tuple[int, ...]]],
) -> list[tuple[str, int, int]]:
    """(type, tensors, bytes) of tensors, largest first."""
    counts: dict[str, tuple[int, int]] = {}
    for kind, shape in tensors:
        count, size = counts.get(kind.name, (0, 0))
        counts[kind.name] = (count + 1, size + n_bytes(shape, kind))
    return sorted(((kind, *numbers) for kind, numbers in counts.items()), key=lambda row: -row[2])


class _Reader:
    def __init__(self, file: BinaryIO) -> None:
        self.file = file

    def head(self) -> GgufHead:
        magic, version, n_tensors, n_values = struct.unpack("<4sIQQ", self.file.read(24))
        if magic != b"GGUF" or version not in (2, 3):
            raise ValueError("no GGUF file of version 2 or 3")
        values: dict[str, Any] = {}
        n_tokens = 0
        for _ in range(n_values):
            key, kind = self.text(), self.number("<I")
            if kind == STRING:
                values[key] = self.text()
            elif kind == ARRAY:
                n = self.skip_array()
                n_tokens = n if key == TOKENS else n_tokens
            else:
                values[key] = self.number(SCALARS[kind])
        tensors = []
        for _ in range(n_tensors):
            self.skip_text()
            shape = tuple(self.number("<Q") for _ in range(self.number("<I")))
            tensors.append((gguf.GGMLQuantizationType(self.number("<I")), shape[::-1]))
            self.number("<Q")
        return GgufHead(values, n_tokens, tensors)

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.file.read(struct.calcsize(form)))[0]

    def text(self) -> str:
        length = self.number("<Q")
        data = self.file.read(length) if length <= LONGEST_STRING else b""
        if len(data) != length:
            raise ValueError("cut off or damaged")
        return data.decode("utf-8", "replace")

    def skip_text(self) -> None:
        self.file.seek(self.number("<Q"), 1)

    def skip_array(self) -> int:
        """Moves behind an array; returns its length."""
        inner, count = self.number("<I"), self.number("<Q")
        assert isinstance(count, int)
        if inner in SCALARS:
            self.file.seek(count * struct.calcsize(SCALARS[inner]), 1)
            return count
        for _ in range(count):
            if inner == STRING:
                self.skip_text()
            else:
                self.skip_array()
        return count
