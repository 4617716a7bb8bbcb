"""Reads a Hugging Face checkpoint directory: JSON files, and weights one tensor at a time.

Weights are safetensors (safetensors.py) or PyTorch's pickles (pickled.py).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError, TensorError, UnsupportedModelError
from . import pickled, safetensors
from .stored import DTYPES, StoredTensor
from .stored import Array as Array
from .stored import Float32 as Float32

PARTS = ("llm", "mm_projector", "vision_tower")  # folders of VILA's layout


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        CheckpointError: missing, not JSON, or not an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing; give the directory that `save_pretrained` wrote") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON ({error}); fetch the file again") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds no JSON object; fetch the file again")
    return value


def read_json_if_there(path: Path) -> dict[str, Any]:
    """Reads a JSON object; {} where there is no such file."""
    return read_json(path) if path.exists() else {}


def _indexed_files(index_path: Path) -> tuple[list[Path], dict[str, str]]:
    """The files that an index names, all of them there, and its weight map."""
    weight_map = read_json(index_path).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(v, str) for v in weight_map.values()):
        raise CheckpointError(f"{index_path} has no weight_map; fetch the file again")
    files = sorted(set(weight_map.values()))
    for file in files:
        if Path(file).name != file:
            raise CheckpointError(f"{index_path} names {file!r}, which lies outside the directory; refused")
    missing = [file for file in files if not (index_path.parent / file).exists()]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise CheckpointError(
            f"{index_path}: {len(missing)} of {len(files)} files that it names are not there: "
            f"{', '.join(missing)} {verb} missing; fetch every file that the index names"
        )
    return [index_path.parent / file for file in files], weight_map


def _weight_files(directory: Path) -> tuple[list[Path], dict[str, str], str]:
    """The weight files to read, the index's weight map and the index's name (empty if there is none)."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        index = directory / f"{name}.index.json"
        if index.exists():
            return *_indexed_files(index), index.name
        if (directory / name).exists():
            return [directory / name], {}, ""
    others = sorted(directory.glob("*.safetensors"))
    if len(others) == 1:
        return others, {}, ""
    if others:
        raise CheckpointError(
            f"{directory} holds {len(others)} safetensors files but no model.safetensors.index.json; "
            "fetch the index"
        )
    pickles = sorted([*directory.glob("*.bin"), *directory.glob("*.pt"), *directory.glob("*.pth")])
    if pickles:
        raise CheckpointError(
            f"{directory} holds {', '.join(p.name for p in pickles[:4])}, but neither model.safetensors nor "
            "pytorch_model.bin nor an index of either; fetch the index"
        )
    if any(directory.glob("*.gguf")):
        raise CheckpointError(
            f"{directory} holds GGUF files, which need no conversion; give them to `run` directly"
        )
    raise CheckpointError(
        f"{directory} holds no *.safetensors and no pytorch_model.bin; give the directory that "
        "`save_pretrained` wrote"
    )


class Checkpoint:
    """A checkpoint directory: `config`, and tensors read on demand as float32.

    Attributes:
        directory: where it lies.
        config: config.json.
        tensors: every tensor by the name it goes by here; `rename` changes names.
    """

    def __init__(self, directory: str | Path, *, llm_needed: bool = True) -> None:
        """Reads config.json and where every tensor lies, no weights.

        A directory with `llm`, `mm_projector` and `vision_tower` inside (VILA's layout) is read as one
        checkpoint, the names with the folder's in front.

        Args:
            directory: holds config.json.
            llm_needed: false leaves out `llm` of such a directory, which may then have no weights.

        Raises:
            CheckpointError: a file is missing, cut off, damaged or contradicts another.
            UnsupportedModelError: the weights are quantised already.
        """
        self.directory = Path(directory)
        if not self.directory.is_dir():
            what = "is a file" if self.directory.exists() else "does not exist"
            raise CheckpointError(f"{self.directory} {what}; give the directory that holds config.json")
        self.config = read_json(self.directory / "config.json")
        quantisation = self.config.get("quantization_config")
        if quantisation:
            method = (
                quantisation.get("quant_method", "unnamed") if isinstance(quantisation, dict) else "unnamed"
            )
            raise UnsupportedModelError(
                f"{self.directory / 'config.json'} says that the weights are quantised ({method}); "
                "give the f32, f16 or bf16 original"
            )
        self.tensors: dict[str, StoredTensor] = {}
        if all((self.directory / part).is_dir() for part in PARTS):
            for part in PARTS:
                if part != "llm" or llm_needed:
                    self._add(self.directory / part, f"{part}.")
        else:
            self._add(self.directory, "")

    def _add(self, directory: Path, prefix: str) -> None:
        """Reads the heads of a directory's weight files; the tensors' names get a prefix."""
        files, weight_map, index = _weight_files(directory)
        found: dict[str, StoredTensor] = {}
        for path in files:
            read = safetensors.read_header if path.suffix == ".safetensors" else pickled.read_header
            for name, tensor in read(path).items():
                if name in found:
                    raise CheckpointError(f"tensor {name!r} is in {found[name].path} and in {path}; keep one")
                found[name] = tensor
        lacking = [name for name in weight_map if name not in found]
        if lacking:
            raise CheckpointError(
                f"{directory / index} names {len(lacking)} tensors that no file holds, the first is "
                f"{lacking[0]!r}; fetch the files again"
            )
        self.tensors |= {prefix + name: tensor for name, tensor in found.items()}

    def rename(self, mapping: dict[str, str]) -> None:
        """Lets tensors go by other names (old -> new) from here on."""
        self.tensors = {mapping.get(name, name): tensor for name, tensor in self.tensors.items()}

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, rows first."""
        return self.tensors[name].shape

    def fingerprint(self) -> str:
        """32 hex digits from names, types, shapes and the first 4 KiB of every tensor.

        The same for every conversion of the same checkpoint, different for another fine-tune of the same
        model.
        """
        digest = hashlib.sha256()
        for tensor in sorted(self.tensors.values(), key=lambda t: (t.name, str(t.path.name))):
            digest.update(f"{tensor.name} {tensor.dtype} {tensor.shape}\n".encode())
            digest.update(self._bytes(tensor, min(4096, tensor.n_bytes)).tobytes())
        return digest.hexdigest()[:32]

    def _bytes(self, tensor: StoredTensor, n_bytes: int) -> Array:
        if n_bytes == 0:
            return np.zeros(0, np.uint8)
        if tensor.data is not None:
            return tensor.data()[:n_bytes]
        try:
            return np.memmap(tensor.path, np.uint8, "r", tensor.offset, (n_bytes,))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{tensor.path} cannot be read: {error}") from None

    def raw(self, name: str) -> tuple[str, Array]:
        """A tensor as it is stored.

        Returns:
            The safetensors dtype, and the values mapped from the file (bfloat16 as uint16).

        Raises:
            TensorError: the weights are integers or 8-bit floats.
        """
        tensor = self.tensors[name]
        if tensor.dtype not in DTYPES:
            raise TensorError(
                f"{tensor.path}: tensor {tensor.name!r} is stored as {tensor.dtype}; only F64, F32, F16 "
                "and BF16 are read"
            )
        data = self._bytes(tensor, tensor.n_bytes)
        return tensor.dtype, data.view(np.dtype(DTYPES[tensor.dtype]).newbyteorder("<")).reshape(tensor.shape)

    def read(self, name: str, rows: slice | None = None) -> Float32:
        """A tensor, or some of its rows, as float32, checked.

        Raises:
            TensorError: NaN or infinite values (or F64 values beyond float32), or a dtype that is not read.
        """
        dtype, data = self.raw(name)
        if rows is not None:
            data = data[rows]
        values: Float32
        if dtype == "BF16":
            values = (data.astype(np.uint32) << np.uint32(16)).view(np.float32)
        else:
            with np.errstate(over="ignore"):
                values = np.array(data, dtype=np.float32)
        bad = int(values.size - np.count_nonzero(np.isfinite(values)))
        if bad:
            tensor = self.tensors[name]
            raise TensorError(
                f"{tensor.path}: tensor {tensor.name!r} has {bad} NaN or infinite values of {values.size}; "
                "the training diverged or the file is damaged"
            )
        return values

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __contains__(self, name: str) -> bool:
        return name in self.tensors
