"""Tensor types: which one a tensor gets, and its bytes."""

from __future__ import annotations

from collections.abc import Iterable

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import LlamaFileType

from ..checkpoint.directory import Array, Float32
from ..errors import TensorError
from ..tensors import MATRIX, PATCH, TensorSpec

# Types that are written tensor by tensor; the others are made from such a file by llama.cpp.
DIRECT: dict[str, tuple[Type, LlamaFileType]] = {
    "f32": (Type.F32, LlamaFileType.ALL_F32),
    "f16": (Type.F16, LlamaFileType.MOSTLY_F16),
    "bf16": (Type.BF16, LlamaFileType.MOSTLY_BF16),
    "q8_0": (Type.Q8_0, LlamaFileType.MOSTLY_Q8_0),
    "q4_0": (Type.Q4_0, LlamaFileType.MOSTLY_Q4_0),
}
BY_LLAMA_CPP: dict[str, LlamaFileType] = {
    "q4_0": LlamaFileType.MOSTLY_Q4_0,
    "q4_k_m": LlamaFileType.MOSTLY_Q4_K_M,
    "q5_k_m": LlamaFileType.MOSTLY_Q5_K_M,
    "q6_k": LlamaFileType.MOSTLY_Q6_K,
}
LLM_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_k_m", "q5_k_m", "q6_k")
MMPROJ_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0")
F16_MAX = 65504.0


def tensor_type(spec: TensorSpec, file_type: str) -> Type:
    """The type that a tensor gets in a file of a type.

    Vectors stay F32. The patch embedding is F32, BF16 or F16, after the file's type. A matrix whose rows do
    not divide into the type's blocks is kept in F16 (docs/mmproj.md).
    """
    wanted, _ = DIRECT[file_type]
    if spec.kind == PATCH:
        return wanted if wanted in (Type.F32, Type.BF16) else Type.F16
    if spec.kind != MATRIX:
        return Type.F32
    block, _ = gguf.GGML_QUANT_SIZES[wanted]
    return wanted if spec.stored_shape[-1] % block == 0 else Type.F16


def lossless_type(dtypes: Iterable[str]) -> str:
    """The smallest direct type that holds weights of these safetensors dtypes without loss."""
    kinds = set(dtypes)
    if kinds == {"BF16"}:
        return "bf16"
    return "f16" if kinds == {"F16"} else "f32"


def n_bytes(shape: tuple[int, ...], kind: Type) -> int:
    """Bytes of a tensor in a type."""
    count = 1
    for n in shape:
        count *= n
    block, size = gguf.GGML_QUANT_SIZES[kind]
    return count // block * size


def encode(values: Float32, kind: Type, name: str) -> Array:
    """Bytes of a tensor, rows first, in gguf-py's reference quantisation.

    Args:
        values: finite float32.
        kind: F32, F16, BF16, Q8_0 or Q4_0.
        name: for messages.

    Raises:
        TensorError: values beyond the range of F16.
    """
    # Q8_0 and Q4_0 keep amax/127 and amax/8 in F16.
    largest = {Type.F16: F16_MAX, Type.Q8_0: F16_MAX * 127, Type.Q4_0: F16_MAX * 8}.get(kind)
    if largest is not None and values.size and max(-float(values.min()), float(values.max())) > largest:
        raise TensorError(
            f"tensor {name} has values beyond {largest:g}, which {kind.name} cannot hold; convert to bf16 "
            "or f32"
        )
    if kind == Type.F32:
        return np.ascontiguousarray(values, dtype=np.float32)
    return gguf.quantize(np.ascontiguousarray(values), kind)
