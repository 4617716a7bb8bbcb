"""Reads GGUF files back for the tests: plain Python values and float32 arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np


def metadata(path: Path) -> dict[str, Any]:
    """Every key with its value; `<key>:type` holds the name(s) of its GGUF type."""
    out: dict[str, Any] = {}
    for key, field in gguf.GGUFReader(path).fields.items():
        if not key.startswith("GGUF."):
            out[key] = field.contents()
            out[f"{key}:type"] = "/".join(kind.name for kind in field.types)
    return out


def tensors(path: Path) -> dict[str, np.ndarray]:
    """Every tensor as float32, rows first."""
    out = {}
    for tensor in gguf.GGUFReader(path).tensors:
        shape = tuple(int(n) for n in reversed(tensor.shape))
        out[tensor.name] = gguf.dequantize(tensor.data, tensor.tensor_type).reshape(shape)
    return out


def types(path: Path) -> dict[str, str]:
    """The type of every tensor."""
    return {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors}
