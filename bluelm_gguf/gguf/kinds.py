"""Which kind of GGUF file one is: a language model or a vision file (mmproj)."""

from __future__ import annotations

import os

from ..errors import ModelFormatError, UnsupportedModelError
from ..native import library as _native
from .head import GgufHead, read_head


def check_llm_file(path: str | os.PathLike[str]) -> GgufHead:
    """Reads a file's head and makes sure that it is a complete language model, and one that llama.cpp does
    not end the process over (docs/reliability.md).

    Raises:
        ModelFileError: missing or unreadable.
        ModelFormatError: not GGUF, damaged or truncated, or with values that cannot be.
        UnsupportedModelError: a vision file (mmproj), or no model at all.
    """
    head = read_head(path)
    if head.is_mmproj:
        raise UnsupportedModelError(
            f"{head.path}: this is a vision file (mmproj), not a language model: give it as the mmproj, and "
            "the language model as the model"
        )
    kind = head.metadata.get("general.type", "model")
    if kind != "model":
        raise UnsupportedModelError(f"{head.path}: a GGUF file of type {kind!r}, not a language model")
    if not head.architecture or not head.tensors:
        raise ModelFormatError(f"{head.path}: a GGUF file without a language model in it")
    _native.check(_native.load().bluelm_llm_check(os.fsencode(head.path)))
    return head


def check_mmproj_file(path: str | os.PathLike[str]) -> GgufHead:
    """Reads a file's head and makes sure that it is a complete vision file.

    Raises:
        ModelFileError: missing or unreadable.
        ModelFormatError: not GGUF, damaged or truncated.
        UnsupportedModelError: a language model, or another kind of vision file.
    """
    head = read_head(path)
    if not head.is_mmproj:
        what = (
            f"a language model (architecture {head.architecture!r})"
            if head.architecture
            else "no vision file"
        )
        raise UnsupportedModelError(
            f"{head.path}: this is {what}: give it as the model, and an mmproj as the mmproj"
        )
    return head
