"""What may stand where a model is wanted: a path, a short name, or owner/repo[:quant].

A path wins: what lies on the disk under the very text that was typed is taken, whatever else has that name.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import InvalidArgumentError

MAX_CHARACTERS = 256

# As llama.cpp's is_valid_repo_id (common/hf-cache.cpp): letters, digits and _ anywhere, . and - between them.
_PART = r"[A-Za-z0-9_]+(?:[.-][A-Za-z0-9_]+)*"
_REPO = re.compile(rf"({_PART}/{_PART})(?::([A-Za-z0-9_.-]+))?")
_SHORT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(?::[A-Za-z0-9][A-Za-z0-9._-]*)?")
_PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".heic", ".avif"}


@dataclass(frozen=True)
class Name:
    """A name that is no path.

    Attributes:
        text: as it was typed.
        repo: "owner/repo", or None for a short name.
        quant: behind the colon of owner/repo:quant, in capitals as files have it; "" for llama.cpp's choice.
    """

    text: str
    repo: str | None
    quant: str = ""


def is_path(text: str | os.PathLike[str]) -> bool:
    """Whether this means a file, there or not: it exists, or is written as only paths are."""
    if not isinstance(text, str):
        return True
    return text.lower().endswith(".gguf") or text[:1] in ("/", ".", "~") or "\\" in text or _exists(text)


def _exists(text: str) -> bool:
    try:
        return bool(text) and Path(text).exists()
    except (OSError, ValueError):  # too long, a zero byte
        return False


def parse(text: str) -> Name:
    """Reads a name.

    Raises:
        InvalidArgumentError: no file of this name, and not what a model's name may be; the message says why.
    """
    match = _REPO.fullmatch(text)
    if match and len(text) <= MAX_CHARACTERS:
        return Name(text, match[1], (match[2] or "").upper())
    if _SHORT.fullmatch(text) and ".." not in text and len(text) <= MAX_CHARACTERS:
        return Name(text, None)
    raise InvalidArgumentError(f"{_shown(text)}: no such file, and no model's name: {_objection(text)}")


def _objection(text: str) -> str:
    if not text:
        return "it is empty"
    if len(text) > MAX_CHARACTERS:
        return f"it is longer than {MAX_CHARACTERS} characters"
    if any(c.isspace() for c in text):
        return "there is a space in it"
    if not text.isascii() or not text.isprintable():
        return "names have the letters a to z, digits, and . _ - only"
    if ".." in text:
        return "there is .. in it"
    return "names are like gemma3:4b or owner/repo:Q4_K_M; `bluelm-gguf models` lists them"


def _shown(text: str) -> str:
    short = text if len(text) <= 60 else text[:57] + "..."
    return "".join(c if c.isprintable() else "?" for c in short) or "''"


def could_be_model(text: str) -> bool:
    """Whether a word on the command line can mean a repository: owner/repo[:quant], and no picture's path."""
    if is_path(text):
        return False
    match = _REPO.fullmatch(text)
    return match is not None and Path(match[1]).suffix.lower() not in _PICTURES
