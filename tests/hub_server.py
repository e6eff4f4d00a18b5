"""A Hub on loopback: real HTTP, the Hub's own protocol, and every way in which it can go wrong.

    with HubServer({"org/repo": {"model-Q4_K_M.gguf": b"..."}}) as hub:
        hub.fault("resolve/", status=503, times=2)
        ...  # huggingface_hub, or moetool, with HF_ENDPOINT=hub.url
        hub.log[-1].range, hub.log[-1].sent_bytes

A repo in `hub.xet` is also in Xet: a content store under /cas/ gives its files in chunks.

Large files are answered as the Hub does it: a redirect from the Hub's host to another one (here `localhost`
instead of `127.0.0.1`), where the token must not go, with the hash of the content in `X-Linked-Etag`.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from xet_store import reconstruction, xorb

PIECE_BYTES = 16 << 10


class Hollow(bytes):
    """A file of which only the beginning is stored: so many zeros follow, made while they are sent."""

    hollow_bytes = 0

    @classmethod
    def of(cls, data: bytes, size_bytes: int) -> Hollow:
        made = cls(data)
        made.hollow_bytes = size_bytes - len(data)
        return made


def size_of(data: bytes) -> int:
    return len(data) + (data.hollow_bytes if isinstance(data, Hollow) else 0)


@dataclass
class Fault:
    """What goes wrong with requests whose URL contains `match`, for `times` of them (-1: all).

    `status` with `headers` answers at once. `drop_after` closes the connection after so many bytes of the
    body (`reset`: with RST), `stall_after` sends nothing more, `corrupt_at` changes one byte of the file,
    `cut_to` serves the file shorter than stated, `longer_by` longer, `bytes_per_s` is slow, `etag` states
    another hash, `endless` sends a list of files that does not end, `ignore_range` answers 200 to a Range,
    `body` with `headers` answers with these bytes.
    """

    match: str
    times: int = -1
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    drop_after: int = -1
    reset: bool = False
    stall_after: int = -1
    corrupt_at: int = -1
    cut_to: int = -1
    longer_by: int = 0
    bytes_per_s: float = 0.0
    etag: str = ""
    endless: bool = False
    ignore_range: bool = False
    body: bytes = b""


@dataclass
class Logged:
    """One request as it was answered. `sent_bytes` is of the body; `has_token` whether it carried one."""

    method: str
    url: str
    range: str
    has_token: bool
    status: int = 0
    sent_bytes: int = 0


@dataclass
class Repo:
    """`commits` are all states the repo ever had, the newest last; a `token` makes it private or gated."""

    commits: dict[str, dict[str, bytes]]
    token: str = ""
    gated: bool = False
    in_git: set[str] = field(default_factory=set)

    @property
    def head(self) -> str:
        return list(self.commits)[-1]


class HubServer:
    """The server and what it serves; a context manager. Everything in it may be changed while it runs."""

    def __init__(self, repos: dict[str, dict[str, bytes]] | None = None) -> None:
        self.repos: dict[str, Repo] = {}
        self.log: list[Logged] = []
        self.faults: list[Fault] = []
        self.page_size = 1000
        self.xet: set[str] = set()
        self.xet_refresh = ""
        self.downloads: dict[str, int] = {}
        self.xet_pass = {
            "X-Xet-Access-Token": "xet-pass",
            "X-Xet-Token-Expiration": str(int(time.time()) + 3600),
        }
        self.closing = threading.Event()
        self.lock = threading.Lock()
        for name, files in (repos or {}).items():
            self.put(name, files)
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self.port = int(self._server.server_address[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> HubServer:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    def put(self, repo: str, files: dict[str, bytes], token: str = "", gated: bool = False) -> str:
        """Make the repo hold exactly these files, in a new commit, which is returned."""
        known = self.repos.setdefault(repo, Repo({}))
        seed = repr((len(known.commits), repo, sorted((p, sha256(b), size_of(b)) for p, b in files.items())))
        commit = hashlib.sha1(seed.encode()).hexdigest()
        known.commits[commit] = dict(files)
        known.token, known.gated = token or known.token, gated or known.gated
        return commit

    def fault(self, match: str, **what: Any) -> Fault:
        """Let requests go wrong from now on; see Fault."""
        fault = Fault(match, **what)
        self.faults.append(fault)
        return fault

    def bodies(self) -> list[Logged]:
        """The requests that were answered with bytes of a file."""
        return [entry for entry in self.log if "/cdn/" in entry.url and entry.method == "GET"]

    def take_fault(self, url: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.match in url and fault.times != 0:
                    fault.times -= 1 if fault.times > 0 else 0
                    return fault
        return None


@lru_cache(maxsize=256)
def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@lru_cache(maxsize=256)
def git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the plan."""


class _HubError(Exception):
    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms for the client's acknowledgement
    entry: Logged
    fault: Fault | None
    body_sent: bool

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet: `hub.log` has it."""

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        token = self.headers.get("Authorization", "")
        self.entry = Logged(self.command, self.path, self.headers.get("Range", ""), bool(token))
        self.hub.log.append(self.entry)
        self.fault = self.hub.take_fault(self.path)
        try:
            if self.fault and self.fault.body:
                self.reply(200, self.fault.body, self.fault.headers)
            else:
                self.route(urlsplit(self.path), token.removeprefix("Bearer "))
        except _HubError as error:
            extra = self.fault.headers if self.fault else {}
            codes = {"X-Error-Code": error.code} if error.code else {}
            self.reply(
                error.status,
                json.dumps({"error": error.message}).encode(),
                {"X-Error-Message": error.message, **codes, **extra},
            )

    # ---- what is asked for -------------------------------------------------------------------------------

    def route(self, url: Any, token: str) -> None:
        query = {k: v[-1] for k, v in parse_qs(url.query).items()}
        path = url.path
        if self.fault and self.fault.status:
            raise _HubError(self.fault.status, "", "as told")
        if path.startswith("/cdn/"):
            return self.cdn(path)
        if path == "/api/models":
            return self.search(query)
        if m := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", path):
            return self.info(m[1], unquote(m[2] or "main"), token, query)
        if m := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)(?:/(.*))?", path):
            return self.tree(m[1], unquote(m[2]), token, query)
        if m := re.fullmatch(r"/api/models/([^/]+/[^/]+)/xet-read-token/.+", path):
            return self.xet_token(m[1], token)
        if m := re.fullmatch(r"/cas/v1/reconstructions/([0-9a-f]{64})", path):
            return self.xet_chunks(m[1])
        if m := re.fullmatch(r"/cas/xorbs/([0-9a-f]{64})/(\d+)", path):
            return self.reply_file(xorb(self.xet_file(m[1]), int(m[2])), {})
        if m := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self.resolve(m[1], unquote(m[2]), unquote(m[3]), token)
        raise _HubError(404, "", "Sorry, we can't find the page you are looking for.")

    def repo(self, name: str, token: str, wants_files: bool = False) -> Repo:
        repo = self.hub.repos.get(name)
        hidden = repo is None or (repo.token and not repo.gated and token != repo.token)
        if token == "hf_expired":
            raise _HubError(401, "", "Invalid credentials in Authorization header")
        if repo is None or hidden:
            raise _HubError(404 if token else 401, "RepoNotFound", "Repository not found")
        if wants_files and repo.gated and token != repo.token:
            raise _HubError(403 if token else 401, "GatedRepo", f"Access to model {name} is restricted.")
        return repo

    def files_at(self, repo: Repo, revision: str) -> tuple[str, dict[str, bytes]]:
        commit = repo.head if revision == "main" else revision
        if commit not in repo.commits:
            raise _HubError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit, repo.commits[commit]

    def info(self, name: str, revision: str, token: str, query: dict[str, str]) -> None:
        if self.fault and self.fault.endless:
            self.endless()
            return
        known = {other.lower(): other for other in self.hub.repos}.get(name.lower(), name)
        if known != name:  # the Hub sends every other case to the one that the author chose
            self.reply(307, b"", {"Location": self.path.replace(name, known, 1)})
            return
        repo = self.repo(name, token)
        commit, files = self.files_at(repo, revision)
        siblings = []
        for path, data in files.items():
            entry: dict[str, Any] = {"rfilename": path}
            if query.get("blobs"):
                entry |= {"size": size_of(data), "blobId": git_oid(data)}
                if path not in repo.in_git:
                    entry["lfs"] = {"sha256": sha256(data), "size": size_of(data), "pointerSize": 134}
            siblings.append(entry)
        gated = "manual" if repo.gated else False
        private = bool(repo.token and not repo.gated)
        about = {"id": name, "modelId": name, "sha": commit, "private": private, "gated": gated}
        self.reply_json({**about, "tags": ["gguf"], "siblings": siblings})

    def tree(self, name: str, revision: str, token: str, query: dict[str, str]) -> None:
        repo = self.repo(name, token)
        _, files = self.files_at(repo, revision)
        start = int(query.get("cursor", "0"))
        page = list(files.items())[start : start + self.hub.page_size]
        entries = []
        for path, data in page:
            entry: dict[str, Any] = {
                "type": "file",
                "path": path,
                "size": size_of(data),
                "oid": git_oid(data),
            }
            if path not in repo.in_git:
                entry["lfs"] = {"oid": sha256(data), "size": size_of(data), "pointerSize": 134}
            entries.append(entry)
        following = start + len(page)
        link = f'<{self.hub.url}{urlsplit(self.path).path}?recursive=true&cursor={following}>; rel="next"'
        self.reply_json(entries, {"Link": link} if following < len(files) else {})

    def search(self, query: dict[str, str]) -> None:
        words = query.get("search", "").lower().split()
        found = [name for name in self.hub.repos if self.is_found(name, words, query.get("filter", ""))]
        found.sort(key=lambda name: (-self.hub.downloads.get(name, 0), name))
        models = [{"id": n, "modelId": n, "downloads": self.hub.downloads.get(n, 0)} for n in found]
        self.reply_json(models[: int(query.get("limit", "20"))])

    def is_found(self, name: str, words: list[str], kind: str) -> bool:
        repo = self.hub.repos[name]
        has_kind = not kind or any(path.endswith(f".{kind}") for path in repo.commits[repo.head])
        return has_kind and not repo.token and all(word in name.lower() for word in words)

    def resolve(self, name: str, revision: str, path: str, token: str) -> None:
        repo = self.repo(name, token, wants_files=True)
        commit, files = self.files_at(repo, revision)
        if path not in files:
            raise _HubError(404, "EntryNotFound", "Entry not found")
        data = files[path]
        commit_header = {"X-Repo-Commit": commit}
        if path in repo.in_git:
            self.reply_file(data, {**commit_header, "ETag": f'"{git_oid(data)}"'})
            return
        etag = self.fault.etag if self.fault and self.fault.etag else sha256(data)
        location = f"http://localhost:{self.hub.port}/cdn/{quote(name, safe='')}/{commit}/{quote(path)}?sig=x"
        linked = {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(size_of(data)), "Location": location}
        if name in self.hub.xet:
            refresh = self.hub.xet_refresh.format(port=self.hub.port)
            refresh = refresh or f"{self.hub.url}/api/models/{name}/xet-read-token/{commit}"
            linked |= {"X-Xet-Hash": sha256(data)[::-1], "Link": f'<{refresh}>; rel="xet-auth"'}
        self.reply(302, b"", {**commit_header, **linked})

    def cdn(self, path: str) -> None:
        _, _, name, commit, file = path.split("/", 4)
        data = self.hub.repos[unquote(name)].commits[commit][unquote(file)]
        self.reply_file(data, {"ETag": '"cdn-of-its-own"'})

    # ---- Xet: a pass from the Hub, then chunks from its content store --------------------------------------

    def xet_token(self, name: str, token: str) -> None:
        self.repo(name, token, wants_files=True)
        self.reply_json({}, {"X-Xet-Cas-Url": f"{self.hub.url}/cas", **self.hub.xet_pass})

    def xet_file(self, digest: str) -> bytes:
        repos = (self.hub.repos[name] for name in self.hub.xet)
        files = (data for repo in repos for commit in repo.commits.values() for data in commit.values())
        return next(data for data in files if sha256(data)[::-1] == digest)

    def xet_chunks(self, digest: str) -> None:
        size = len(self.xet_file(digest))
        first, last = parse_range(self.entry.range, size) or (0, size)
        self.reply_json(reconstruction(size, first, last, f"{self.hub.url}/cas/xorbs/{digest}"))

    # ---- how it is answered ------------------------------------------------------------------------------

    def reply_json(self, value: Any, headers: dict[str, str] | None = None) -> None:
        self.reply(200, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

    def reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.start(status, len(body), headers)
        if self.command != "HEAD":
            self.send(iter([body]))

    def start(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.entry.status = status
        self.send_response(status)
        for key, value in {"Content-Length": str(length), **headers}.items():
            self.send_header(key, value)
        self.end_headers()

    def reply_file(self, data: bytes, headers: dict[str, str]) -> None:
        fault = self.fault or Fault("")
        data = damaged(data, fault)
        size = size_of(data)
        headers = {"Accept-Ranges": "bytes", **headers}
        span = None if fault.ignore_range else parse_range(self.entry.range, size)
        if span is None:
            self.start(200, size, headers)
            first, last = 0, size
        elif span[0] >= size:
            return self.reply(416, b"", {"Content-Range": f"bytes */{size}", **headers})
        else:
            first, last = span
            content_range = {"Content-Range": f"bytes {first}-{last - 1}/{size}"}
            self.start(206, last - first, {**content_range, **headers})
        if self.command != "HEAD":
            self.send(pieces(data, first, last))
        return None

    def send(self, body: Iterator[bytes]) -> None:
        fault = self.fault or Fault("")
        for piece in body:
            room = min((n for n in (fault.drop_after, fault.stall_after) if n >= 0), default=1 << 62)
            piece = piece[: max(0, room - self.entry.sent_bytes)]
            self.wfile.write(piece)
            self.entry.sent_bytes += len(piece)
            if fault.bytes_per_s:
                time.sleep(len(piece) / fault.bytes_per_s)
            if self.entry.sent_bytes >= room:
                return self.break_off(fault)
        return None

    def break_off(self, fault: Fault) -> None:
        self.close_connection = True
        if fault.stall_after >= 0:
            self.hub.closing.wait(60)
        if fault.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def endless(self) -> None:
        """A list of files that a client must give up on; without a length, until the client hangs up."""
        self.close_connection = True
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"sha": "' + b"0" * 40 + b'", "siblings": [')
        entry = json.dumps({"rfilename": "x" * 60 + ".gguf", "size": 1, "blobId": "0" * 40}).encode() + b","
        while not self.hub.closing.is_set():
            self.wfile.write(entry * 1000)
            self.entry.sent_bytes += len(entry) * 1000


def damaged(data: bytes, fault: Fault) -> bytes:
    if fault.corrupt_at >= 0:
        data = data[: fault.corrupt_at] + bytes([data[fault.corrupt_at] ^ 1]) + data[fault.corrupt_at + 1 :]
    if fault.cut_to >= 0:
        data = data[: fault.cut_to]
    return data + b"\0" * fault.longer_by if fault.longer_by else data


def pieces(data: bytes, first: int, last: int) -> Iterator[bytes]:
    view = memoryview(data)
    for at in range(first, last, PIECE_BYTES):
        end = min(at + PIECE_BYTES, last)
        piece = bytes(view[at:end])
        yield piece + bytes(end - at - len(piece))


def parse_range(header: str, size: int) -> tuple[int, int] | None:
    """(first, one past the last) of "bytes=a-b" or "bytes=a-"; None without one."""
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", header)
    if not match:
        return None
    return int(match[1]), min(size, int(match[2]) + 1 if match[2] else size)
