"""Reads PyTorch's pickles (`pytorch_model.bin`) without running what is in them.

torch.load with weights_only builds tensors and plain containers and nothing else; with mmap the weights stay
in the file until they are read. torch is imported for such files only.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError
from .stored import Array, StoredTensor

# torch's dtype -> safetensors' name
DTYPE_NAMES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "bool": "BOOL",
               "uint8": "U8", "int8": "I8", "int16": "I16", "int32": "I32", "int64": "I64",
               "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2"}  # fmt: skip


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Where the tensors of a file lie.

    Raises:
        CheckpointError: missing, damaged, no plain state dict, a pickle that wants to run code, or no torch.
    """
    state = _load(path)
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    out: dict[str, StoredTensor] = {}
    for name, tensor in state.items() if isinstance(state, dict) else ():
        if not isinstance(name, str) or not hasattr(tensor, "untyped_storage"):
            raise CheckpointError(
                f"{path}: entry {name!r} is no tensor ({type(tensor).__name__}); give a file that holds the "
                "model's state_dict alone"
            )
        if tensor.is_sparse or tensor.is_quantized:
            raise CheckpointError(f"{path}: tensor {name!r} is sparse or quantised; save it dense, as floats")
        dtype = str(tensor.dtype).removeprefix("torch.")
        n_bytes = tensor.numel() * tensor.element_size()
        out[name] = StoredTensor(
            name, path, DTYPE_NAMES.get(dtype, dtype), tuple(tensor.shape), 0, n_bytes, _Bytes(tensor)
        )
    if not out:
        raise CheckpointError(f"{path} holds no tensors; give a file that holds the model's state_dict")
    return out


class _Bytes:
    """The bytes of a tensor, read when asked for."""

    def __init__(self, tensor: Any) -> None:
        self.tensor = tensor

    def __call__(self) -> Array:
        import torch

        flat = self.tensor.detach().contiguous().reshape(-1)
        out: Array = flat.view(torch.uint8).numpy()
        return out.view(np.uint8)


def _load(path: Path) -> Any:
    """The pickled object, made of tensors and plain containers alone."""
    try:
        import torch
    except ModuleNotFoundError:
        raise CheckpointError(
            f"{path} is a PyTorch pickle, and reading one needs torch: pip install torch, or save the model "
            "as safetensors"
        ) from None
    again = "the download is incomplete or damaged; fetch the file again"
    try:
        # Files written before torch 1.6 are no zip archives and cannot be mapped.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing; fetch every file that the index names") from None
    except pickle.UnpicklingError as error:
        found = re.search(r"(?:GLOBAL|global|function|class) ([\w.]+\.\w+)", str(error))
        if found is None:
            raise CheckpointError(f"{path} is no PyTorch pickle of plain tensors; {again}") from None
        raise CheckpointError(
            f"{path} is a pickle that wants to call {found[1]} when it is loaded; refused, since that can "
            "run any code. Weights need no such call: get the model as safetensors"
        ) from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
    except (RuntimeError, EOFError, KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path} is no PyTorch pickle or is damaged ({reason}); {again}") from None
