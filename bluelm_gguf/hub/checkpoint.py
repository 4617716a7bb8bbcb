"""A checkpoint's directory from the hub, for `convert`."""

from __future__ import annotations

from pathlib import Path

from ..errors import HubError
from ..gguf.info import size
from ..progress import ProgressFn
from .download import Note, download, missing_bytes
from .names import parse
from .places import Places
from .remote import Listing, RemoteFile, listing
from .resolve import ASK_ABOVE, Ask

# What converters read: configuration, tokenizer, and weights; no pictures, no other frameworks' weights.
_SMALL = (".json", ".model", ".txt", ".jinja", ".py", ".tiktoken", ".md")
_WEIGHTS = (".safetensors", ".bin", ".pth", ".pt")


def fetch(
    text: str,
    places: Places,
    *,
    ask: Ask | None = None,
    on_progress: ProgressFn | None = None,
    on_note: Note | None = None,
) -> Path:
    """Downloads a checkpoint's files into Hugging Face's cache and says where its directory is.

    Raises:
        InvalidArgumentError: not owner/repo.
        HubError: no checkpoint, or it could not be downloaded.
    """
    name = parse(text)
    if name.repo is None or name.quant:
        raise HubError(f"{text}: no such directory, and a checkpoint's name on the hub is owner/repo")
    found = listing(places, name.repo)
    files = checkpoint_files(found)
    if not files:
        raise HubError(f"{text}: no checkpoint: config.json and weights (.safetensors, .bin) are needed")
    n_bytes = missing_bytes(places, found, files)
    if n_bytes > ASK_ABOVE:
        question = f"{text}: {size(n_bytes)} to download"
        if ask is None:
            raise HubError(f"{question}; nobody was asked: give --yes to allow it")
        if not ask(question):
            raise HubError(f"{text}: nothing was downloaded")
    paths = download(places, found, files, on_progress=on_progress, on_note=on_note)
    directory = paths[0]
    for _ in Path(files[0].path).parts:
        directory = directory.parent
    return directory


def checkpoint_files(found: Listing) -> tuple[RemoteFile, ...]:
    """The files of a checkpoint; safetensors where there are some, else PyTorch's; () where it is none."""
    top = [file for file in found.files if not file.path.startswith(("onnx/", "openvino/", "gguf/", "."))]
    small = [file for file in top if file.path.endswith(_SMALL)]
    weights: list[RemoteFile] = []
    for suffix in _WEIGHTS:
        weights = weights or [file for file in top if file.path.endswith(suffix)]
    if not weights or not any(file.path.rsplit("/")[-1] == "config.json" for file in small):
        return ()
    return (*small, *weights)
