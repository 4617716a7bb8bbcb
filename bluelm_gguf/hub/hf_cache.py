"""Hugging Face's cache (huggingface_hub's guide "Understand caching"; llama.cpp's `-hf` uses it, too).

    models--OWNER--REPO/refs/main            the commit that main was at
    models--OWNER--REPO/snapshots/COMMIT/... the files' names, links to
    models--OWNER--REPO/blobs/ETAG           the files; ETAG.incomplete: what is there of a download

Only what the named revision holds counts, and only files that, after all links, lie in the cache.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .found import HF_CACHE, Found, is_inside, pair_among, pairs_among, sorted_directories

_PREFIX = "models--"
_COMMIT = re.compile(r"[0-9a-f]{40}")
PARTIAL = ".incomplete"


def folder(cache: Path, repo: str) -> Path:
    """The directory of a repository."""
    return cache / (_PREFIX + repo.replace("/", "--"))


def commit_of(cache: Path, repo: str) -> str | None:
    """The commit that main, or else the first other reference, was at; None where nothing is there."""
    refs = folder(cache, repo) / "refs"
    others = sorted(path for path in refs.glob("*") if path.name != "main") if refs.is_dir() else []
    for path in (refs / "main", *others):
        with contextlib.suppress(OSError, UnicodeDecodeError):
            text = path.read_text(encoding="utf-8").strip()
            if _COMMIT.fullmatch(text):
                return text
    return None


def files(cache: Path, repo: str) -> dict[str, Path]:
    """The repository's files that are there, by their path in it, sorted."""
    commit = commit_of(cache, repo)
    if commit is None:
        return {}
    top = folder(cache, repo) / "snapshots" / commit
    found = {}
    for directory, _, names in os.walk(top):
        for name in names:
            path = Path(directory) / name
            if is_inside(path, cache):
                found[path.relative_to(top).as_posix()] = path
    return dict(sorted(found.items()))


def find(cache: Path, repo: str, quant: str, source: str = HF_CACHE) -> Found | None:
    """A model of a repository."""
    return pair_among(repo, files(cache, repo), source, quant)


def every(cache: Path, source: str = HF_CACHE) -> Iterator[Found]:
    """All models in the cache."""
    for directory in sorted_directories(cache):
        if directory.name.startswith(_PREFIX):
            repo = directory.name.removeprefix(_PREFIX).replace("--", "/")
            yield from pairs_among(repo, files(cache, repo), source)


def unfinished(cache: Path, repo: str) -> tuple[Path, ...]:
    """What broken off downloads left."""
    return tuple(sorted((folder(cache, repo) / "blobs").glob(f"*{PARTIAL}")))


@dataclass(frozen=True)
class Removed:
    """What `remove` took away."""

    files: tuple[str, ...]
    n_bytes: int


def remove(cache: Path, found: Found) -> Removed:
    """Takes a model's files out of the cache: the names, and what only they name.

    The vision file stays while another language model of the repository is there; when nothing else is left,
    the repository's directory goes.

    Raises:
        OSError: as unlink() does.
    """
    assert found.repo is not None
    top = folder(cache, found.repo)
    mine = set(found.files)
    others = [pair for pair in pairs_among(found.repo, files(cache, found.repo), found.source)]
    for pair in others:
        if pair.llm != found.llm:
            mine -= set(pair.files)
    names = tuple(sorted(path.name for path in mine))
    n_bytes = 0
    blobs = {path.resolve() for path in mine if path.is_symlink()}
    for path in mine:
        if not path.is_symlink():
            n_bytes += path.stat().st_size
        path.unlink()
    left = {path.resolve() for path in _pointers(top)}
    for blob in blobs - left:
        if blob.parent == (top / "blobs").resolve():
            n_bytes += blob.stat().st_size
            blob.unlink()
    if not left:
        n_bytes += sum(path.stat().st_size for path in unfinished(cache, found.repo))
        shutil.rmtree(top)
    return Removed(names, n_bytes)


def remove_unfinished(cache: Path, repo: str) -> Removed:
    """Takes away what broken off downloads of a repository left."""
    parts = unfinished(cache, repo)
    n_bytes = sum(path.stat().st_size for path in parts)
    for path in parts:
        path.unlink()
    if not any(path.is_file() for path in _pointers(folder(cache, repo))):
        shutil.rmtree(folder(cache, repo), ignore_errors=True)
    return Removed(tuple(path.name for path in parts), n_bytes)


def _pointers(top: Path) -> Iterator[Path]:
    for directory, _, names in os.walk(top / "snapshots"):
        for name in names:
            yield Path(directory) / name
