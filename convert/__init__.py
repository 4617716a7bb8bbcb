"""Converts a Hugging Face checkpoint into an LLM GGUF and an mmproj GGUF.

    from bluelm_gguf.convert import convert
    result = convert("checkpoints/my-model", "models", llm_type="q4_0", mmproj_type="q8_0")
    print(result.table())

Needs numpy and gguf, and llama_cpp for 4- to 6-bit LLMs; no torch. The command line is `bluelm-gguf convert`.

    errors, checkpoint <- tensors <- decoders, vision, tokenizers <- families <- output <- files <- conversion
"""

from __future__ import annotations

from .conversion import convert
from .errors import (
    CheckpointError,
    ConversionError,
    ImportanceError,
    OutputError,
    TensorError,
    TokenizerError,
    UnsupportedModelError,
)
from .options import OptionError
from .output.tensor_types import BY_LLAMA_CPP, LLM_TYPES, MMPROJ_TYPES
from .result import ConversionResult

__all__ = [
    "BY_LLAMA_CPP",
    "LLM_TYPES",
    "MMPROJ_TYPES",
    "CheckpointError",
    "ConversionError",
    "ConversionResult",
    "ImportanceError",
    "OptionError",
    "OutputError",
    "TensorError",
    "TokenizerError",
    "UnsupportedModelError",
    "convert",
]
