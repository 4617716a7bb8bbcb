"""The hub: what a repository holds, asked through huggingface_hub, and what went wrong in one line.

Tokens, mirrors (HF_ENDPOINT), HF_HUB_OFFLINE, proxies and certificates are huggingface_hub's business.
"""

from __future__ import annotations

import contextlib
import errno
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from ..errors import BluelmError, HubError
from ..version import __version__
from .places import Places


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository: its path, size in bytes, and its digest (sha256, or git's sha1)."""

    path: str
    n_bytes: int
    oid: str


@dataclass(frozen=True)
class Listing:
    """A repository at one commit.

    Attributes:
        repo: its name, as it was asked for.
        commit: 40 hexadecimal digits.
        files: in the hub's order.
        renamed: its name today, if that is another.
    """

    repo: str
    commit: str
    files: tuple[RemoteFile, ...]
    renamed: str | None = None

    @property
    def paths(self) -> tuple[str, ...]:
        """Of the files."""
        return tuple(file.path for file in self.files)

    def file(self, path: str) -> RemoteFile:
        """One of them."""
        return next(file for file in self.files if file.path == path)


def listing(places: Places, repo: str) -> Listing:
    """What a repository holds at main.

    Raises:
        HubError: it is missing, gated or private, or the hub cannot be asked.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    with explained(places, repo), quiet():
        api = HfApi(endpoint=places.endpoint, library_name="bluelm-gguf", library_version=__version__)
        info = api.model_info(repo)
        commit, name = info.sha, info.id
        if not commit or not name:
            raise ValueError("no commit")
        rows = api.list_repo_tree(name, revision=commit, recursive=True)
        files = tuple(
            RemoteFile(row.path, row.size, row.lfs.sha256 if row.lfs else row.blob_id)
            for row in rows
            if isinstance(row, RepoFile) and _is_sound(row.path)
        )
    return Listing(repo, commit, files, None if name == repo else name)


def _is_sound(path: str) -> bool:
    """A path that stays in its directory; others are left out, as llama.cpp does."""
    parts = PurePosixPath(path).parts
    return bool(parts) and parts[0] != "/" and ".." not in parts and "\\" not in path


def address(places: Places) -> str:
    """The hub's address."""
    from huggingface_hub import constants

    return places.endpoint or constants.ENDPOINT


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """huggingface_hub without progress bars and warnings of its own: ours say the same in one line."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    group = "huggingface_hub.http_get"
    was_disabled = are_progress_bars_disabled(group)
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    if not was_disabled:
        disable_progress_bars(group)
    try:
        yield
    finally:
        logger.setLevel(level)
        if not was_disabled:
            enable_progress_bars(group)


@contextlib.contextmanager
def explained(places: Places, repo: str, file: str = "") -> Iterator[None]:
    """Turns what huggingface_hub and the network raise into a HubError of one line.

    Raises:
        HubError: with what, from where, and what to do.
    """
    try:
        yield
    except BluelmError:
        raise
    except Exception as error:
        text = _explanation(error, places, repo, file)
        if text is None:
            raise
        raise HubError(text) from None


def _explanation(error: Exception, places: Places, repo: str, file: str) -> str | None:
    from huggingface_hub import errors

    hub, what = address(places), f"{repo}: {file}" if file else repo
    status = getattr(getattr(error, "response", None), "status_code", 0)
    cause = error.__cause__
    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(cause, Exception):
        return _explanation(cause, places, repo, file)
    if isinstance(error, errors.HFValidationError):
        return f"{repo}: not a repository's name"
    if isinstance(error, errors.GatedRepoError):
        return (
            f"{repo}: gated: accept its terms at {hub}/{repo}, then log in with `hf auth login`, or set "
            "HF_TOKEN"
        )
    if isinstance(error, errors.DisabledRepoError):
        return f"{repo}: its author or the hub has disabled it"
    if isinstance(error, (errors.RevisionNotFoundError, errors.EntryNotFoundError)):
        return f"{what}: no longer there; the repository has changed, try again"
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"{repo}: no such repository on {hub}, or a private one: mind the spelling, or log in with "
            "`hf auth login`"
        )
    if isinstance(error, errors.OfflineModeIsEnabled):
        return f"{repo}: not on this disk, and HF_HUB_OFFLINE forbids to download it"
    if isinstance(error, errors.FileMetadataError) or (isinstance(error, ValueError) and not status):
        return (
            f"{what}: the answer of {hub} is not a hub's but perhaps a proxy's or a login page: open it in a "
            "browser, or see to HF_ENDPOINT and HTTPS_PROXY"
        )
    if status == 401:
        return (
            f"{what}: {hub} does not take this token: log in again with `hf auth login`, or see to HF_TOKEN"
        )
    if status == 403:
        return f"{what}: {hub} forbids it (403): ask for access at {hub}/{repo}"
    if status == 404:
        return f"{what}: not found on {hub}"
    if status == 429:
        return f"{what}: {hub} has had too many requests from here (429): try again in some minutes"
    if status >= 500:
        return f"{what}: {hub} has a fault of its own ({status}): try again later"
    if status >= 400:
        return f"{what}: {hub} refuses ({status})"
    if isinstance(error, OSError) and error.errno is not None and not _is_network(error):
        return disk_error(error, what)
    if _is_network(error):
        return (
            f"{what}: the connection to {hub} failed ({_short(error)}): without a network, HF_HUB_OFFLINE=1 "
            "uses what is on this disk"
        )
    return None


def disk_error(error: OSError, what: str) -> str:
    """What the system says against a file of the cache."""
    where = f"{error.filename}: " if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{what}: the disk is full; make room and try again: what is there is kept"
    return f"{what}: {where}{(error.strerror or str(error)).lower()}"


def _is_network(error: Exception) -> bool:
    """Whether an HTTP library (httpx, by whichever name) or the system's sockets say that."""
    module = type(error).__module__.partition(".")[0]
    return module.startswith("http") or isinstance(error, (ConnectionError, TimeoutError))


def _short(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:80] if lines else type(error).__name__
