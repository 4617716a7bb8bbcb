"""Downloads into Hugging Face's cache that go on where they were broken off.

huggingface_hub asks the hub, carries the bytes (`http_get`, with its retries, tokens and redirects), and puts
the finished file into its cache. What lies between is here, since its own download into the cache begins
anew after a break (since 2.0 each attempt has a temporary file of its own): bytes are kept in
`blobs/ETAG.incomplete`, the name that older versions used, under the lock that huggingface_hub takes for the
same file; the digest is checked before the file gets its name.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..errors import Cancelled, HubError
from ..gguf.info import size
from ..progress import ProgressFn
from ..version import __version__
from . import hf_cache
from .places import Places
from .remote import Listing, RemoteFile, disk_error, explained, quiet

Note = Callable[[str], None]

_ETAG = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_SPARE = 32 << 20  # bytes of the disk that stay free
_CHUNK = 1 << 16  # bytes at a time: what a break can cost, and how smoothly progress moves


def download(
    places: Places,
    listing: Listing,
    files: Sequence[RemoteFile],
    *,
    on_progress: ProgressFn | None = None,
    on_note: Note | None = None,
) -> list[Path]:
    """Brings files of a repository into the cache; those that are there are not asked for again.

    Args:
        places: Where the cache is.
        listing: The repository.
        files: Of it.
        on_progress: Called with "download" and then "check", and the bytes of all files together.
        on_note: Called with what may be worth a line.

    Returns:
        Where they lie, in their order.

    Raises:
        HubError: a download failed, or a file is not what the hub promised; what is there is kept, so that
            the next call goes on.
        Cancelled: on_progress returned False.
    """
    need = missing_bytes(places, listing, files)
    check_room(places.hf_cache, need)
    total = sum(file.n_bytes for file in files)
    paths, before = [], 0
    for file in files:
        start = before

        def report(stage: str, done: int, *, start: int = start) -> None:
            if on_progress is not None and on_progress(stage, start + done, total) is False:
                raise Cancelled("the download was cancelled; it goes on where it stopped")

        paths.append(_download_one(places, listing, file, report, on_note or (lambda _: None)))
        before += file.n_bytes
    return paths


def missing_bytes(places: Places, listing: Listing, files: Sequence[RemoteFile]) -> int:
    """How many bytes of some files are not there yet; parts of broken off downloads count as there."""
    blobs = hf_cache.folder(places.hf_cache, listing.repo) / "blobs"
    here = hf_cache.folder(places.hf_cache, listing.repo) / "snapshots" / listing.commit
    need = 0
    for file in files:
        if (here / file.path).exists() or (blobs / file.oid).exists():
            continue
        part = blobs / f"{file.oid}{hf_cache.PARTIAL}"
        need += max(0, file.n_bytes - (part.stat().st_size if part.is_file() else 0))
    return need


def check_room(directory: Path, need: int) -> None:
    """Refuses a download that the disk cannot hold.

    Raises:
        HubError: with both figures.
    """
    place = directory
    while not place.is_dir() and place != place.parent:
        place = place.parent
    try:
        free = shutil.disk_usage(place).free
    except OSError:  # nobody says; writing will
        return
    if need > 0 and need + _SPARE > free:
        raise HubError(
            f"{directory}: {size(need)} are to be downloaded, {size(free)} are free on the disk: make room, "
            "or set HF_HOME to a directory on another disk"
        )


def _download_one(
    places: Places, listing: Listing, file: RemoteFile, report: Callable[..., None], note: Note
) -> Path:
    from huggingface_hub import constants, hf_hub_download

    cache = places.hf_cache
    target = hf_cache.folder(cache, listing.repo) / "snapshots" / listing.commit / file.path
    with explained(places, listing.repo, file.path), quiet():
        if not target.exists() or hf_cache.commit_of(cache, listing.repo) != listing.commit:
            if file.n_bytes <= constants.MAX_HTTP_DOWNLOAD_SIZE:
                _fill_blob(places, listing, file, report, note)
            # Finds the blob; makes the name in the snapshot and main's reference.
            path = hf_hub_download(
                listing.repo,
                file.path,
                revision="main",
                cache_dir=cache,
                endpoint=places.endpoint,
                library_name="bluelm-gguf",
                library_version=__version__,
            )
            target = Path(path)
        report("download", file.n_bytes)
    return target


def _fill_blob(
    places: Places, listing: Listing, file: RemoteFile, report: Callable[..., None], note: Note
) -> None:
    """Makes the file under its digest's name, if it is not there."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    url = hf_hub_url(listing.repo, file.path, revision=listing.commit, endpoint=places.endpoint)
    headers = build_hf_headers(library_name="bluelm-gguf", library_version=__version__)
    metadata = get_hf_file_metadata(url, headers=headers, endpoint=places.endpoint)
    etag, n_bytes = metadata.etag or "", metadata.size if metadata.size is not None else file.n_bytes
    if metadata.commit_hash is None or not _ETAG.fullmatch(etag):
        raise ValueError("no commit, or no digest, in the answer")  # explained: not a hub's answer
    top = hf_cache.folder(places.hf_cache, listing.repo)
    blob = top / "blobs" / etag
    if blob.exists():
        return
    blob.parent.mkdir(parents=True, exist_ok=True)
    if urlsplit(metadata.location).netloc != urlsplit(url).netloc:
        headers.pop("authorization", None)  # a signed address of another host
    with _locked(places.hf_cache / ".locks" / top.name / f"{etag}.lock", file, note):
        if blob.exists():  # whoever held the lock has made it
            return
        part = blob.with_name(etag + hf_cache.PARTIAL)
        if part.exists() and part.stat().st_size > n_bytes:
            part.unlink()
        with part.open("r+b" if part.exists() else "w+b") as raw:
            raw.seek(0, os.SEEK_END)
            had = raw.tell()
            if had:
                note(f"{file.path}: going on at {size(had)} of {size(n_bytes)}")
            sink: Any = _Sink(raw, file.path, lambda done: report("download", done))
            try:
                with _small_chunks():
                    http_get(metadata.location, sink, resume_size=had, headers=headers, expected_size=n_bytes)
            except OSError as error:
                if error.errno is None and "onsistency check" in str(error):
                    raise HubError(
                        f"{listing.repo}: {file.path}: {size(n_bytes)} were promised, {size(raw.tell())} "
                        "came; try again"
                    ) from None
                if error.errno is not None:
                    raise HubError(disk_error(error, f"{listing.repo}: {file.path}")) from None
                raise
            finally:
                raw.flush()
        _check_digest(part, etag, file, listing, report)
        os.replace(part, blob)


@contextlib.contextmanager
def _small_chunks() -> Iterator[None]:
    """huggingface_hub hands bytes on by ten megabytes, which on a slow line is a minute without a sign."""
    from huggingface_hub import constants

    before = constants.DOWNLOAD_CHUNK_SIZE
    constants.DOWNLOAD_CHUNK_SIZE = _CHUNK
    try:
        yield
    finally:
        constants.DOWNLOAD_CHUNK_SIZE = before


class _Sink:
    """What http_get writes to: tells progress, and refuses a web page in a model's place.

    When a server begins anew instead of going on, http_get rewinds and truncates first; the bytes that are
    there go only when the new ones have been looked at.
    """

    def __init__(self, file: Any, name: str, report: Callable[[int], None]) -> None:
        self._file = file
        self._name = name
        self._report = report
        self._is_anew = False

    def write(self, data: bytes) -> int:
        at = self._file.tell()
        if at == 0:
            self._look_at(data)
            if self._is_anew:
                self._file.truncate()
        n = int(self._file.write(data))
        self._report(at + n)
        return n

    def _look_at(self, data: bytes) -> None:
        start = data[:512].lstrip().lower()
        is_page = start.startswith((b"<!doctype", b"<html", b"<?xml"))
        if is_page and not self._name.endswith((".html", ".xml", ".svg")):
            raise HubError(
                f"{self._name}: a web page came instead of the file, from a proxy or a login page: nothing "
                "of it is kept"
            )
        if self._name.endswith(".gguf") and len(data) >= 4 and data[:4] != b"GGUF":
            raise HubError(f"{self._name}: what the hub has under this name is not a GGUF file")

    def truncate(self) -> int:
        self._is_anew = True
        return int(self._file.tell())

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())


def _check_digest(
    part: Path, etag: str, file: RemoteFile, listing: Listing, report: Callable[..., None]
) -> None:
    """Compares the bytes with the digest that names them: sha256 of large files, git's sha1 of small ones."""
    n_bytes = part.stat().st_size
    digest = hashlib.sha256() if len(etag) == 64 else hashlib.sha1(b"blob %d\0" % n_bytes)
    done = 0
    with part.open("rb") as raw:
        while data := raw.read(1 << 22):
            digest.update(data)
            done += len(data)
            report("check", done)
    if digest.hexdigest() != etag:
        part.unlink()
        raise HubError(
            f"{listing.repo}: {file.path}: its digest is not the hub's, so it was damaged on its way; it is "
            "removed, try again"
        )


@contextlib.contextmanager
def _locked(lock: Path, file: RemoteFile, note: Note) -> Iterator[None]:
    """One process at a time, huggingface_hub's own among them."""
    from huggingface_hub.utils import WeakFileLock

    lock.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(WeakFileLock(lock, timeout=0.1))
        except TimeoutError:
            note(f"{file.path}: another process is downloading it; waiting")
            stack.enter_context(WeakFileLock(lock))
        yield
