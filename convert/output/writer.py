"""Writes GGUF files so that a name only ever stands for a complete file."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

from ..checkpoint.directory import Array, Checkpoint
from ..errors import OutputError
from ..tensors import TensorSpec
from .tensor_types import encode, n_bytes

SLAB = 8 << 20  # elements that are in memory as float32 at once
Progress = Callable[[int, int], object]  # (bytes done, bytes in all)


class Staging:
    """Files under temporary names, renamed together when all are complete, removed on any failure.

    A temporary name is `.NAME.<pid>.part`, in the same directory, so that renaming is atomic. Use as a
    context:

        with Staging(out_dir) as staging:
            write(staging.path("a.gguf"))
            staging.commit()
    """

    def __init__(self, directory: Path) -> None:
        """Creates the directory if need be.

        Raises:
            OutputError: it cannot be created.
        """
        self.directory = directory
        self._parts: dict[str, Path] = {}
        self._scratch: list[Path] = []
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"{directory} cannot be created: {error.strerror}; choose another directory"
            ) from None

    def path(self, name: str, *, scratch: bool = False) -> Path:
        """The temporary path of a file; scratch files are removed at the end in any case."""
        for stale in self.directory.glob(f".{glob.escape(name)}.*.part"):
            if not _is_running(stale.name.rsplit(".", 2)[-2]):
                stale.unlink(missing_ok=True)
        part = self.directory / f".{name}.{os.getpid()}.part"
        if scratch:
            self._scratch.append(part)
        else:
            self._parts[name] = part
        return part

    def need(self, n_bytes: int) -> None:
        """Checks that the disk has room.

        Raises:
            OutputError: it has not.
        """
        free = shutil.disk_usage(self.directory).free
        if n_bytes > free:
            raise OutputError(
                f"{self.directory} has {free / 1e6:.0f} MB free and {n_bytes / 1e6:.0f} MB are needed; "
                "make room there"
            )

    def commit(self) -> None:
        """Flushes all files to disk and gives them their names."""
        try:
            for part in self._parts.values():
                with part.open("rb") as file:
                    os.fsync(file.fileno())
            for name, part in self._parts.items():
                os.replace(part, self.directory / name)
        except OSError as error:
            raise OutputError(f"{self.directory} cannot be written: {error.strerror}") from None
        self._parts.clear()

    def __enter__(self) -> Staging:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for part in [*self._parts.values(), *self._scratch]:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)


def _is_running(pid: str) -> bool:
    if not pid.isdigit() or int(pid) == os.getpid():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


@contextlib.contextmanager
def _output_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{path.parent} cannot be written: {error.strerror or error}; make room or choose another"
        ) from None


def write(
    path: Path,
    writer: gguf.GGUFWriter,
    tensors: Sequence[tuple[TensorSpec, Type]],
    checkpoint: Checkpoint,
    on_progress: Progress,
) -> None:
    """Streams tensors into a GGUF file; only one is in memory at a time, and that only as it is stored.

    Args:
        path: written as it is; see Staging.
        writer: with the metadata.
        tensors: with the type of each.
        checkpoint: where they are read.
        on_progress: called after every tensor, with bytes of the output.

    Raises:
        OutputError: the disk is full or the like.
        TensorError: NaN, infinite, or beyond F16.
    """
    add_tensor_infos(writer, tensors)
    total = sum(n_bytes(spec.stored_shape, kind) for spec, kind in tensors)
    done = 0
    try:
        with _output_errors(path):
            writer.write_header_to_file(path)
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
        for spec, kind in tensors:
            data = load_encoded(spec, kind, checkpoint)
            with _output_errors(path):
                writer.write_tensor_data(data)
            done += data.nbytes
            on_progress(done, total)
    finally:
        with _output_errors(path):
            writer.close()


def add_tensor_infos(writer: gguf.GGUFWriter, tensors: Sequence[tuple[TensorSpec, Type]]) -> None:
    """Adds the table of tensors."""
    for spec, kind in tensors:
        shape = spec.stored_shape
        size = n_bytes(shape, kind)
        if kind in (Type.F32, Type.F16):
            writer.add_tensor_info(spec.name, shape, encode_dtype(kind), size)
        else:
            byte_shape = gguf.quant_shape_to_byte_shape(shape, kind)
            writer.add_tensor_info(spec.name, byte_shape, encode_dtype(kind), size, raw_dtype=kind)


def load_encoded(spec: TensorSpec, kind: Type, checkpoint: Checkpoint) -> Array:
    """A tensor as it is stored. A large one is read and encoded in slabs of rows.

    Raises:
        TensorError: NaN, infinite, or beyond F16.
    """
    name = spec.source or spec.name
    count = int(np.prod(spec.stored_shape))
    whole = spec.transform is not None and not spec.row_wise
    if whole or not spec.source or count <= SLAB or len(spec.shape) < 2:
        return encode(spec.load(checkpoint), kind, name)
    if kind in (Type.F32, Type.F16):
        out = np.empty(spec.shape, encode_dtype(kind))
    else:
        out = np.empty(gguf.quant_shape_to_byte_shape(spec.shape, kind), np.uint8)
    step = max(1, SLAB // (count // spec.shape[0]))
    also = [checkpoint.read(source) for source, _ in spec.also]
    for first in range(0, spec.shape[0], step):
        rows = slice(first, first + step)
        values = checkpoint.read(spec.source, rows)
        if spec.transform is not None:
            values = spec.transform(values, *also)
        out[rows] = encode(values, kind, name)
    return out


def encode_dtype(kind: Type) -> np.dtype[Any]:
    """numpy's dtype of `encode`'s result."""
    return np.dtype({Type.F32: np.float32, Type.F16: np.float16}.get(kind, np.uint8))
