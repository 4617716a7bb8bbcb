"""Ollama's store (its manifest/paths.go, types/model/name.go, docs/import.mdx).

    manifests/HOST/NAMESPACE/MODEL/TAG  JSON: layers with a mediaType and a digest
    blobs/sha256-HEX                    the layers

Two layers matter: ...image.model is a GGUF file, ...image.projector the vision file. Models of Ollama's own
engine carry the picture's part inside the model's layer: here they take text only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import ModelFileError
from .found import OLLAMA, Found, is_inside

_HOST, _NAMESPACE, _TAG = "registry.ollama.ai", "library", "latest"
_HUB_HOSTS = ("hf.co", "huggingface.co")
_MODEL, _PROJECTOR = "application/vnd.ollama.image.model", "application/vnd.ollama.image.projector"
_DIGEST = re.compile(r"sha256[:-]([0-9a-fA-F]{64})")
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_MAX_BYTES = 1 << 20  # of a manifest


def find(store: Path, text: str) -> Found | None:
    """A model by the name that `ollama run` takes: MODEL[:TAG], NAMESPACE/MODEL[:TAG].

    Raises:
        ModelFileError: its manifest is damaged, or names what is not in the store.
    """
    name, _, tag = text.partition(":")
    parts = [*name.split("/"), tag or _TAG]
    for host in (_HOST, *_HUB_HOSTS):
        rest = [_NAMESPACE, *parts] if len(parts) == 2 else parts
        if len(rest) == 3 and all(_PART.fullmatch(part) and ".." not in part for part in rest):
            manifest = store.joinpath("manifests", host, *rest)
            if manifest.is_file():
                return _read(store, manifest)
    return None


def every(store: Path) -> Iterator[Found]:
    """All models in the store; damaged manifests are left out."""
    for manifest in sorted((store / "manifests").glob("*/*/*/*")):
        try:
            found = _read(store, manifest) if manifest.is_file() else None
        except ModelFileError:
            continue
        if found is not None:
            yield found


def _read(store: Path, manifest: Path) -> Found | None:
    """What a manifest names; None for what is no GGUF model (safetensors, embeddings in the cloud)."""
    if not is_inside(manifest, store):
        raise ModelFileError(f"{manifest}: the manifest lies outside Ollama's store {store}")
    try:
        text = manifest.read_bytes()
        content: Any = json.loads(text) if len(text) <= _MAX_BYTES else None
        layers = content["layers"]
        rows = [(layer["mediaType"], layer["digest"]) for layer in layers]
    except OSError as error:
        raise ModelFileError(f"{manifest}: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError):
        raise ModelFileError(f"{manifest}: not a manifest of Ollama; pull the model again there") from None
    models = [_blob(store, manifest, digest) for kind, digest in rows if kind == _MODEL]
    projectors = [_blob(store, manifest, digest) for kind, digest in rows if kind == _PROJECTOR]
    if not models:
        return None
    return Found(_name(manifest), None, OLLAMA, (models[0],), projectors[0] if projectors else None)


def _blob(store: Path, manifest: Path, digest: Any) -> Path:
    match = _DIGEST.fullmatch(digest) if isinstance(digest, str) else None
    if match is None:
        raise ModelFileError(f"{manifest}: the manifest points outside its store ({str(digest)[:80]!r})")
    path = store / "blobs" / f"sha256-{match[1]}"
    if not path.is_file():
        raise ModelFileError(f"{path}: missing, but {manifest} names it; pull the model again with ollama")
    if not is_inside(path, store):
        raise ModelFileError(f"{path}: the file lies outside Ollama's store {store}")
    return path


def _name(manifest: Path) -> str:
    host, namespace, model, tag = manifest.parts[-4:]
    short = model if (host, namespace) == (_HOST, _NAMESPACE) else f"{namespace}/{model}"
    return f"{short}:{tag}"
