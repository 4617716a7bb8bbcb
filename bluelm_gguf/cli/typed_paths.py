"""Paths as people type them, and as terminals write a file that was dropped on them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlparse

# How the names of pictures end that bluelm_gguf.pictures.images reads.
_SUFFIXES = (
    ".png",
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".mpo",
    ".webp",
    ".gif",
    ".bmp",
    ".dib",
    ".tif",
    ".tiff",
)
_RARE_SUFFIXES = (".avif", ".jp2", ".j2k", ".ppm", ".pgm", ".pbm", ".pnm", ".ico", ".qoi")
PICTURE_SUFFIXES = frozenset(_SUFFIXES + _RARE_SUFFIXES)


def path_from(text: str) -> str:
    """One path: plain (also with spaces), quoted, escaped, with ~, or file://."""
    text = text.strip()
    if text.startswith("file://"):
        return _from_url(text)
    if _exists(text):
        return text
    plain = re.sub(
        r"""\\(.)|'([^']*)'|"([^"]*)\"""", lambda m: next(g for g in m.groups() if g is not None), text
    )
    return plain if text[:1] in ("'", '"') else os.path.expanduser(plain)


def paths_from(text: str) -> list[str]:
    """The paths of a line: one with unquoted spaces if such a file exists, else one per shell-like word."""
    whole = path_from(text)
    words = _words(text)
    if len(words) < 2 or _exists(whole):
        return [whole]
    paths = [path_from(word) for word in words]
    # Of a mistyped name with spaces the message should show all of it.
    return paths if any(map(_exists, paths)) else [whole]


def dropped_pictures(line: str) -> list[str]:
    """The files of a line that is nothing but paths of existing pictures; else an empty list.

    A relative path counts where its name ends as a picture's does; an absolute, quoted or file:// one is
    hardly a question, and counts whatever its name.
    """
    words = [line.strip()] if _is_picture(line.strip()) else _words(line)
    return [path_from(word) for word in words] if words and all(map(_is_picture, words)) else []


def _is_picture(word: str) -> bool:
    path = path_from(word)
    is_deliberate = os.path.isabs(path) or word[:1] in ("'", '"')
    try:
        return (is_deliberate or Path(path).suffix.lower() in PICTURE_SUFFIXES) and Path(path).is_file()
    except (OSError, ValueError):  # a name too long, or with a NUL: no path at all
        return False


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):  # a name too long, or with a NUL: no path at all
        return False


def _words(text: str) -> list[str]:
    """Words with their quotes and escapes, cut at white space outside of them."""
    pattern = r"""(?:\\(.)|'[^']*'|"[^"]*"|[^\s])+"""
    return [match[0] for match in re.finditer(pattern, text, re.DOTALL)]


def _from_url(url: str) -> str:
    path = urlparse(url.replace("#", "%23").replace("?", "%3F").replace(";", "%3B")).path
    return os.fsdecode(unquote_to_bytes(path))
