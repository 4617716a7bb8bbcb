"""llama.cpp's download cache.

Today `-hf` downloads go to a cache of Hugging Face's layout, in LLAMA_CACHE if that is set; `--model-url`
and older versions of `-hf` put files into one directory (common/download.cpp, common/arg.cpp):

    OWNER_REPO_FILE.gguf            a file of a repository, its path with "_" for "/"; .etag, .json beside it
    manifest=OWNER=REPO=QUANT.json  which files `-hf OWNER/REPO:QUANT` meant: ggufFile and mmprojFile
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import hf_cache
from .found import LLAMA_CACHE, Found, is_inside, pair_among, pairs_among

_MANIFEST = re.compile(r"manifest=([^=]+)=([^=]+)=[^=]*\.json")


def find(cache: Path, repo: str, quant: str) -> Found | None:
    """A model of a repository."""
    found = hf_cache.find(cache, repo, quant, LLAMA_CACHE)
    return found or pair_among(repo, _files(cache, repo), LLAMA_CACHE, quant)


def every(cache: Path) -> Iterator[Found]:
    """All models in the cache whose repository is known."""
    yield from hf_cache.every(cache, LLAMA_CACHE)
    repos = {}
    for path in _listing(cache):
        match = _MANIFEST.fullmatch(path.name)
        if match:
            repos[f"{match[1]}/{match[2]}"] = True
    for repo in repos:
        yield from pairs_among(repo, _files(cache, repo), LLAMA_CACHE)


def _files(cache: Path, repo: str) -> dict[str, Path]:
    """What is there of a repository, by the names that its manifests tell, or else by what follows the
    repository's name."""
    prefix = repo.replace("/", "_") + "_"
    told = {name.replace("/", "_"): name for name in _told(cache, repo)}
    found = {}
    for path in _listing(cache):
        if path.name.startswith(prefix) and path.suffix == ".gguf" and is_inside(path, cache):
            rest = path.name.removeprefix(prefix)
            found[told.get(rest, rest)] = path
    return found


def _told(cache: Path, repo: str) -> Iterator[str]:
    for path in cache.glob(f"manifest={repo.replace('/', '=')}=*.json"):
        with contextlib.suppress(OSError, ValueError):
            manifest: Any = json.loads(path.read_text(encoding="utf-8"))
            for key in ("ggufFile", "mmprojFile"):
                entry = manifest.get(key) if isinstance(manifest, dict) else None
                if isinstance(entry, dict) and isinstance(entry.get("rfilename"), str):
                    yield entry["rfilename"]


def _listing(cache: Path) -> list[Path]:
    try:
        return sorted(path for path in cache.iterdir() if path.is_file())
    except OSError:
        return []
