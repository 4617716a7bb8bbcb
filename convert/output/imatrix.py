"""Importance matrices: how much each input column of a weight matrix matters.

Two formats of llama.cpp's imatrix tool are read, as its common/imatrix-loader.cpp does. GGUF: tensors
`NAME.in_sum2` [columns] and `NAME.counts` [1], general.type "imatrix". The older one: i32 entries; for each
i32 length, name, i32 calls, i32 values, f32 values; behind them, optionally, i32 chunks, i32 length and the
data set's name. An entry becomes the mean square of each column's activations.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

from ..checkpoint.directory import Float32
from ..errors import ImportanceError, OutputError
from ..tensors import MATRIX, TensorSpec

MAX_ENTRIES = 100_000
MAX_NAME = 1024


@dataclass(frozen=True)
class ImportanceMatrix:
    """Mean square activations by tensor name.

    Attributes:
        path: where it was read.
        entries: GGUF tensor name -> float32 [columns].
        n_chunks: texts that it was measured over; 0 for unknown.
        dataset: their file's name; "" for unknown.
    """

    path: Path
    entries: dict[str, Float32]
    n_chunks: int = 0
    dataset: str = ""

    def check(self, specs: Iterable[TensorSpec]) -> list[str]:
        """Makes sure that the matrix was measured on a model of this shape.

        Returns:
            Notes: matrices without an entry.

        Raises:
            ImportanceError: entries of other tensors or widths, all in one message; or none that fits.
        """
        widths = {spec.name: spec.stored_shape[-1] for spec in specs if spec.kind == MATRIX}
        problems = []
        for name, values in self.entries.items():
            if name not in widths:
                problems.append(f"not in the model: {name}")
            elif values.size != widths[name]:
                problems.append(f"wrong width: {name} has {values.size} values, the model {widths[name]}")
            elif not np.isfinite(values).all() or values.min() < 0:
                problems.append(f"not finite or negative: {name}")
        if problems:
            raise ImportanceError(
                f"{self.path}: {len(problems)} of {len(self.entries)} entries do not fit the model; "
                "measure the importance matrix on this model:\n  " + "\n  ".join(problems)
            )
        # Embeddings are looked up, not multiplied: nothing is ever measured for them, unless they are tied.
        lacking = [name for name in widths if name not in self.entries and name != "token_embd.weight"]
        if "output.weight" in lacking:  # llama.cpp leaves it out by default
            lacking.remove("output.weight")
        if not lacking:
            return []
        return [f"{self.path} has no entry for {len(lacking)} matrices, the first is {lacking[0]}"]

    def add_metadata(self, writer: gguf.GGUFWriter) -> None:
        """Adds llama.cpp's keys of where the importance matrix came from."""
        writer.add_string("quantize.imatrix.file", self.path.name)
        if self.dataset:
            writer.add_string("quantize.imatrix.dataset", self.dataset)
        writer.add_uint32("quantize.imatrix.entries_count", len(self.entries))
        if self.n_chunks:
            writer.add_uint32("quantize.imatrix.chunks_count", self.n_chunks)

    def save(self, path: Path) -> None:
        """Writes the older format with one call per entry, for llama_quantize.py.

        Raises:
            OutputError: the disk is full or the like.
        """
        try:
            with path.open("wb") as file:
                file.write(struct.pack("<i", len(self.entries)))
                for name, values in self.entries.items():
                    text = name.encode()
                    file.write(struct.pack("<i", len(text)) + text + struct.pack("<ii", 1, values.size))
                    file.write(values.astype("<f4").tobytes())
        except OSError as error:
            raise OutputError(f"{path.parent} cannot be written: {error.strerror}") from None


def read_imatrix(path: str | Path) -> ImportanceMatrix:
    """Reads an importance matrix of either format.

    Raises:
        ImportanceError: missing, cut off, or something else.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            start = file.read(4)
        found = _read_gguf(path) if start == b"GGUF" else _read_legacy(path)
    except OSError as error:
        raise ImportanceError(f"{path} cannot be read: {error.strerror}") from None
    if not found.entries:
        raise ImportanceError(f"{path} holds no importance matrix; give a file of llama.cpp's imatrix tool")
    return found


def _read_gguf(path: Path) -> ImportanceMatrix:
    wrong = f"{path} is no importance matrix or is damaged"
    again = "give a file of llama.cpp's imatrix tool"
    try:
        reader = gguf.GGUFReader(path)
        tensors = {t.name: t for t in reader.tensors}
        fields = reader.fields
        kind = fields["general.type"].contents() if "general.type" in fields else "imatrix"
        chunks = fields["imatrix.chunk_count"].contents() if "imatrix.chunk_count" in fields else 0
        datasets = fields["imatrix.datasets"].contents() if "imatrix.datasets" in fields else []
    except (ValueError, KeyError, IndexError, TypeError, AssertionError, OverflowError, MemoryError) as error:
        raise ImportanceError(f"{wrong} ({error}); {again}") from None
    if kind != "imatrix":
        raise ImportanceError(f"{path} is a GGUF file of type {kind!r}, no importance matrix; {again}")
    entries: dict[str, Float32] = {}
    for name, tensor in tensors.items():
        if not name.endswith(".in_sum2"):
            continue
        base = name.removesuffix(".in_sum2")
        counts = tensors.get(f"{base}.counts")
        f32 = gguf.GGMLQuantizationType.F32
        if counts is None or counts.tensor_type != f32 or tensor.tensor_type != f32:
            raise ImportanceError(f"{wrong}: {base} lacks its sums or counts as F32; {again}")
        sums = np.array(tensor.data, np.float32).reshape(-1)
        number = np.array(counts.data, np.float32).reshape(-1)
        if number.size == 0 or sums.size % number.size:
            raise ImportanceError(f"{wrong}: {base} has {sums.size} sums and {number.size} counts; {again}")
        rows = sums.reshape(number.size, -1)
        # What was never reached counts like everything else.
        means = np.where(number[:, None] > 0, rows / np.maximum(number, 1)[:, None], 1.0)
        entries[base] = means.astype(np.float32).reshape(-1)
    names = datasets if isinstance(datasets, list) else []
    dataset = names[0] if names and isinstance(names[0], str) else ""
    return ImportanceMatrix(path, entries, chunks if isinstance(chunks, int) else 0, dataset)


def _read_legacy(path: Path) -> ImportanceMatrix:
    data = path.read_bytes()
    position = 0

    def take(n: int) -> bytes:
        nonlocal position
        if not 0 <= n <= len(data) - position:
            raise ImportanceError(
                f"{path} is no importance matrix or is cut off; give a file of llama.cpp's imatrix tool"
            )
        position += n
        return data[position - n : position]

    def number(most: int) -> int:
        value = int.from_bytes(take(4), "little", signed=True)
        if not 0 <= value <= most:
            take(-1)
        return value

    entries: dict[str, Float32] = {}
    for _ in range(number(MAX_ENTRIES)):
        name = take(number(MAX_NAME)).decode("utf-8", "replace").rstrip("\0")
        calls, count = number(2**31 - 1), number(2**31 - 1)
        values = np.frombuffer(take(4 * count), "<f4").astype(np.float32)
        entries[name] = values / np.float32(calls or 1)
    if len(data) - position < 8:
        return ImportanceMatrix(path, entries)
    chunks, dataset = number(2**31 - 1), take(number(2**20)).decode("utf-8", "replace").rstrip("\0")
    return ImportanceMatrix(path, entries, chunks, dataset)
