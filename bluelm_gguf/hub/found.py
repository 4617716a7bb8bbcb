"""A model that lies on this disk, whichever program put it there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from .choice import choose, quants

HF_CACHE, LLAMA_CACHE, LM_STUDIO, OLLAMA = "Hugging Face cache", "llama.cpp cache", "LM Studio", "Ollama"


@dataclass(frozen=True)
class Found:
    """A language model with its vision file.

    Attributes:
        name: what finds it again: owner/repo:quant, or a short name.
        repo: "owner/repo", or None.
        source: whose store it is in.
        parts: the language model's files; the first is what is loaded.
        mmproj: None: the model takes text only.
    """

    name: str
    repo: str | None
    source: str
    parts: tuple[Path, ...]
    mmproj: Path | None

    @property
    def llm(self) -> Path:
        """The file to load."""
        return self.parts[0]

    @property
    def files(self) -> tuple[Path, ...]:
        """All of them."""
        return self.parts if self.mmproj is None else (*self.parts, self.mmproj)

    @property
    def n_bytes(self) -> int:
        """Of all files together; one that has just gone counts as empty."""
        total = 0
        for path in self.files:
            with contextlib.suppress(OSError):
                total += path.stat().st_size
        return total


def pair_among(repo: str, files: Mapping[str, Path], source: str, quant: str = "") -> Found | None:
    """The model of a quant among a repository's files that are on this disk; None where parts are missing.

    Args:
        repo: "owner/repo".
        files: Path in the repository -> where it lies.
        source: Whose store.
        quant: "" takes llama.cpp's choice.
    """
    choice = choose(list(files), quant)
    if choice is None or not choice.is_whole:
        return None
    mmproj = None if choice.mmproj is None else files[choice.mmproj]
    label = f"{repo}:{quant}" if quant else repo
    return Found(label, repo, source, tuple(files[part] for part in choice.parts), mmproj)


def pairs_among(repo: str, files: Mapping[str, Path], source: str) -> Iterator[Found]:
    """Every whole model among them."""
    tags = quants(list(files))
    for quant in tags or ("",):
        found = pair_among(repo, files, source, quant)
        if found is not None:
            yield found


def sorted_directories(directory: Path) -> list[Path]:
    """What is in it, directories only; nothing where it is not there or may not be read."""
    try:
        return sorted(path for path in directory.iterdir() if path.is_dir())
    except OSError:
        return []


def is_inside(path: Path, directory: Path) -> bool:
    """Whether a file, after all links, is there and lies below a directory."""
    try:
        return path.resolve(strict=True).is_relative_to(directory.resolve(strict=True))
    except (OSError, RuntimeError):  # RuntimeError: links in a circle
        return False
