"""Reads a Hugging Face checkpoint directory: JSON files, and safetensors one tensor at a time.

The safetensors format is 8 bytes of header length (little endian), a JSON header, then raw data
(https://github.com/huggingface/safetensors, "Format"). It is read here with numpy alone, because that also
covers bfloat16 and needs neither torch nor the whole file in memory.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import CheckpointError, TensorError, UnsupportedModelError

Array = npt.NDArray[Any]
Float32 = npt.NDArray[np.float32]

# safetensors dtype -> how its bytes are read; BF16 has no numpy type and is widened by hand.
DTYPES: dict[str, Any] = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16}
ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1,
              "F8_E5M2": 1, "U16": 2, "I16": 2, "U32": 4, "I32": 4, "U64": 8, "I64": 8}  # fmt: skip
MAX_HEADER_BYTES = 100_000_000


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


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies.

    Attributes:
        name: as in the file.
        path: the safetensors file.
        dtype: safetensors' name ("F32", "BF16", ...).
        shape: rows first.
        offset: of the first byte in the file.
        n_bytes: length of the data.
    """

    name: str
    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    n_bytes: int


def _read_header(path: Path) -> dict[str, StoredTensor]:
    """Reads and checks the header of one safetensors file."""
    again = "the download is incomplete or damaged; fetch the file again"
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
                raise CheckpointError(f"{path} is no safetensors file or is cut off ({size} bytes); {again}")
            header = json.loads(file.read(length))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing; fetch every file that the index names") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        raise CheckpointError(f"{path} has a header that is not JSON; {again}") from None
    if not isinstance(header, dict):
        raise CheckpointError(f"{path} has a header that is no JSON object; {again}")
    tensors: dict[str, StoredTensor] = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        try:
            dtype, shape = str(entry["dtype"]), tuple(int(n) for n in entry["shape"])
            begin, end = (int(n) for n in entry["data_offsets"])
        except (KeyError, TypeError, ValueError):
            raise CheckpointError(f"{path} describes tensor {name!r} wrongly; {again}") from None
        count = 1
        for n in shape:
            count *= n
        if not 0 <= begin <= end or min(shape, default=1) < 0:
            raise CheckpointError(f"{path} describes tensor {name!r} wrongly; {again}")
        if 8 + length + end > size:
            raise CheckpointError(
                f"{path} is cut off: tensor {name!r} ends behind the file's {size} bytes; {again}"
            )
        if dtype in ITEM_BYTES and count * ITEM_BYTES[dtype] != end - begin:
            raise CheckpointError(
                f"{path} gives tensor {name!r} {end - begin} bytes for shape {list(shape)}; {again}"
            )
        tensors[name] = StoredTensor(name, path, dtype, shape, 8 + length + begin, end - begin)
    return tensors


def _safetensors_files(directory: Path) -> tuple[list[Path], dict[str, str]]:
    """The safetensors files to read, and the index's weight map (empty if there is none)."""
    single = directory / "model.safetensors"
    index_path = directory / "model.safetensors.index.json"
    if index_path.exists():
        weight_map = read_json(index_path).get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(v, str) for v in weight_map.values()):
            raise CheckpointError(f"{index_path} has no weight_map; fetch the file again")
        for file in set(weight_map.values()):
            if Path(file).name != file:
                raise CheckpointError(
                    f"{index_path} names {file!r}, which lies outside the directory; refused"
                )
        return [directory / file for file in sorted(set(weight_map.values()))], weight_map
    if single.exists():
        return [single], {}
    others = sorted(directory.glob("*.safetensors"))
    if len(others) == 1:
        return others, {}
    if others:
        raise CheckpointError(
            f"{directory} holds {len(others)} safetensors files but no model.safetensors.index.json; "
            "fetch the index"
        )
    if any(directory.glob("*.bin")) or any(directory.glob("*.pt")):
        raise CheckpointError(
            f"{directory} holds PyTorch pickles, which are not read; load the model in `transformers` and "
            "call save_pretrained (safetensors is its default)"
        )
    if any(directory.glob("*.gguf")):
        raise CheckpointError(
            f"{directory} holds GGUF files, which need no conversion; give them to `run` directly"
        )
    raise CheckpointError(
        f"{directory} holds no *.safetensors; give the directory that `save_pretrained` wrote"
    )


class Checkpoint:
    """A checkpoint directory: `config`, and tensors read on demand as float32.

    Attributes:
        directory: where it lies.
        config: config.json.
        tensors: every tensor by the name it goes by here; `rename` changes names.
    """

    def __init__(self, directory: str | Path) -> None:
        """Reads config.json and all safetensors headers, no weights.

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
        files, weight_map = _safetensors_files(self.directory)
        self.tensors: dict[str, StoredTensor] = {}
        for path in files:
            for name, tensor in _read_header(path).items():
                if name in self.tensors:
                    raise CheckpointError(
                        f"tensor {name!r} is in {self.tensors[name].path} and in {path}; keep one"
                    )
                self.tensors[name] = tensor
        lacking = [name for name, file in weight_map.items() if name not in self.tensors]
        if lacking:
            raise CheckpointError(
                f"{self.directory / 'model.safetensors.index.json'} names {len(lacking)} tensors that no "
                "file holds, "
                f"the first is {lacking[0]!r}; fetch the files again"
            )

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
        for name in sorted(self.tensors, key=lambda n: self.tensors[n].name):
            tensor = self.tensors[name]
            digest.update(f"{tensor.name} {tensor.dtype} {tensor.shape}\n".encode())
            digest.update(self._bytes(tensor, min(4096, tensor.n_bytes)).tobytes())
        return digest.hexdigest()[:32]

    def _bytes(self, tensor: StoredTensor, n_bytes: int) -> Array:
        if n_bytes == 0:
            return np.zeros(0, np.uint8)
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
