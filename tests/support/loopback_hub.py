"""A small hub on loopback: the endpoints that huggingface_hub uses, and the faults that real hubs have.

Large files are redirected to a second server on another port, as the real hub does to its storage.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

PAGE = b"<!DOCTYPE html><html><body>Please log in to the network.</body></html>"
LFS_FROM = 10_000  # bytes; smaller files are answered directly, as those in git are

REPO = "tiny/pair-GGUF"
"""The repository that tests/hub serves."""


@dataclass
class Repo:
    """A repository: its files, in the order of its listing."""

    files: dict[str, bytes]
    gated: bool = False
    moved_to: str | None = None
    sizes: dict[str, int] = field(default_factory=dict)  # said of files in place of the true ones

    @property
    def commit(self) -> str:
        digest = hashlib.sha1()
        for path, data in self.files.items():
            digest.update(path.encode() + data)
        return digest.hexdigest()


@dataclass
class Request:
    """What a client asked for."""

    server: str  # "hub" or "storage"
    method: str
    path: str
    range: str | None
    authorization: str | None


@dataclass
class Hub:
    """The servers, and what they do.

    Attributes:
        repos: By "owner/repo".
        requests: All that came in.
        status: (server, method, part of the path) -> status codes for the next such requests.
        page: (server, method, part of the path) that answer with a web page from now on.
        break_after: Bytes after which the storage closes the next connections, one for each entry.
        stall_at: Bytes after which the storage waits until `go_on` is set.
        chunk, delay: The storage sends so many bytes, then waits so many seconds.
        ignores_ranges: The storage answers 200 with the whole file.
        damaged: Paths whose bytes change on their way.
    """

    repos: dict[str, Repo] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    status: dict[tuple[str, str, str], list[int]] = field(default_factory=dict)
    page: list[tuple[str, str, str]] = field(default_factory=list)
    break_after: list[int] = field(default_factory=list)
    stall_at: int | None = None
    go_on: threading.Event = field(default_factory=threading.Event)
    stalled: threading.Event = field(default_factory=threading.Event)
    chunk: int = 1 << 16
    delay: float = 0.0
    ignores_ranges: bool = False
    damaged: list[str] = field(default_factory=list)
    address: str = ""
    storage_address: str = ""

    def bytes_sent(self, method: str = "GET") -> list[str | None]:
        """The ranges that were asked of the storage."""
        return [r.range for r in self.requests if r.server == "storage" and r.method == method]

    def count(self, server: str, method: str, part: str = "") -> int:
        return sum(r.server == server and r.method == method and part in r.path for r in self.requests)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub
    side: str

    def log_message(self, *_args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        headers = self.headers
        self.hub.requests.append(
            Request(self.side, self.command, path, headers.get("Range"), headers.get("Authorization"))
        )
        for (side, method, part), codes in self.hub.status.items():
            if (side, method) == (self.side, self.command) and part in path and codes:
                self._send(codes.pop(0), b'{"error": "as the test wants it"}')
                return
        for side, method, part in self.hub.page:
            if (side, method) == (self.side, self.command) and part in path:
                self._send(200, PAGE, {"Content-Type": "text/html"})
                return
        if self.side == "storage":
            self._storage(path)
        elif path.startswith("/api/models/"):
            self._api(path.removeprefix("/api/models/"))
        else:
            self._file(path)

    def _send(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _repo(self, name: str) -> Repo | None:
        """The repository, or None when the answer has been sent."""
        repo = self.hub.repos.get(name)
        if repo is None:
            self._send(401, b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"})
        return repo

    def _api(self, rest: str) -> None:
        match = re.fullmatch(r"([^/]+/[^/]+)(?:/revision/[^/]+)?(/tree/[^/]+)?", rest)
        repo = self._repo(match[1]) if match else None
        if repo is None or match is None:
            return
        if repo.moved_to is not None:
            self._send(307, b"", {"Location": f"/api/models/{repo.moved_to}{match[2] or ''}"})
        elif match[2]:
            self._json([_entry(path, data, repo.sizes.get(path)) for path, data in repo.files.items()])
        else:
            siblings = [{"rfilename": path} for path in repo.files]
            self._json({"id": match[1], "sha": repo.commit, "siblings": siblings, "gated": repo.gated})

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _file(self, path: str) -> None:
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        repo = self._repo(match[1]) if match else None
        if repo is None or match is None:
            return
        if repo.moved_to is not None:
            self._send(307, b"", {"Location": f"/{repo.moved_to}/resolve/{match[2]}/{match[3]}"})
            return
        if repo.gated and self.headers.get("Authorization") != "Bearer hf_good":
            self._send(403, b"{}", {"X-Error-Code": "GatedRepo"})
            return
        data = repo.files.get(match[3])
        if data is None:
            self._send(404, b"{}", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": repo.commit})
        elif len(data) < LFS_FROM:
            self._send(200, data, {"ETag": f'"{_git_sha1(data)}"', "X-Repo-Commit": repo.commit})
        else:
            sha = hashlib.sha256(data).hexdigest()
            location = f"{self.hub.storage_address}/{match[1]}/{match[3]}"
            linked = {"X-Linked-Etag": f'"{sha}"', "X-Linked-Size": str(len(data))}
            self._send(302, b"", {"Location": location, "X-Repo-Commit": repo.commit, **linked})

    def _storage(self, path: str) -> None:
        owner, name, file = path.lstrip("/").split("/", 2)
        data = self.hub.repos[f"{owner}/{name}"].files[file]
        if file in self.hub.damaged:
            data = data[:-1] + bytes([data[-1] ^ 1])
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        start = int(match[1]) if match and not self.hub.ignores_ranges else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        end = start + self.hub.break_after.pop(0) if self.hub.break_after else len(data)
        at = start
        while at < min(end, len(data)):
            stall = self.hub.stall_at
            stop = min(at + self.hub.chunk, end, len(data), stall if stall and stall > at else len(data))
            self.wfile.write(data[at:stop])
            self.wfile.flush()
            at = stop
            if stall is not None and at == stall:
                self.hub.stalled.set()
                self.hub.go_on.wait(30)
            if self.hub.delay:
                time.sleep(self.hub.delay)
        if at < len(data):
            self.close_connection = True
            self.connection.close()


def _entry(path: str, data: bytes, n_bytes: int | None) -> dict[str, Any]:
    row: dict[str, Any] = {"type": "file", "path": path, "size": n_bytes or len(data)}
    row["oid"] = _git_sha1(data)
    if len(data) >= LFS_FROM:
        row["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": row["size"], "pointerSize": 130}
    return row


def _git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


@contextmanager
def serve(**options: Any) -> Iterator[Hub]:
    """Both servers, on ports of the system's choice."""
    hub = Hub(**options)
    servers = []
    for side in ("hub", "storage"):
        handler = type("Handler", (_Handler,), {"hub": hub, "side": side})
        server = _Server(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
    hub.address, hub.storage_address = (f"http://127.0.0.1:{s.server_address[1]}" for s in servers)
    try:
        yield hub
    finally:
        hub.go_on.set()
        for server in servers:
            server.shutdown()
            server.server_close()
