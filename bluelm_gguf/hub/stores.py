"""The four stores together: what is on this disk, and whose it is. All are only read, but Hugging Face's."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from . import hf_cache, llama_cache, lm_studio, ollama
from .found import Found
from .places import Places


def find_repo(places: Places, repo: str, quant: str, *, text: str = "") -> Found | None:
    """A model of owner/repo[:quant]; where several stores have it, one with a vision file first.

    Args:
        places: The stores.
        repo: "owner/repo".
        quant: "" takes llama.cpp's choice.
        text: The name as it was typed: Ollama's tags have small letters, too.

    Raises:
        ModelFileError: Ollama has it, but its manifest is damaged.
    """
    candidates: tuple[Callable[[], Found | None], ...] = (
        lambda: hf_cache.find(places.hf_cache, repo, quant),
        lambda: llama_cache.find(places.llama_cache, repo, quant),
        lambda: lm_studio.find(places.lm_studio, repo, quant),
        lambda: ollama.find(places.ollama, text or (f"{repo}:{quant}" if quant else repo)),
    )
    text_only = None
    for candidate in candidates:
        found = candidate()
        if found is not None and found.mmproj is not None:
            return found
        text_only = text_only or found
    return text_only


def every(places: Places) -> Iterator[Found]:
    """All models on this disk, each file once."""
    seen = set()
    for found in (
        *hf_cache.every(places.hf_cache),
        *llama_cache.every(places.llama_cache),
        *lm_studio.every(places.lm_studio),
        *ollama.every(places.ollama),
    ):
        if found.files not in seen:  # LLAMA_CACHE may be Hugging Face's
            seen.add(found.files)
            yield found
