"""A server that speaks the part of the hub's protocol that an upload uses, on this machine, in memory.

Small files come within the commit, large ones by LFS: a batch says where each is to be put, and what is there already.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

SMALL = 2048  # bytes; larger files go by LFS


@dataclass
class Repo:
    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)

    @property
    def head(self) -> str:
        return hashlib.sha1(str(self.commits).encode()).hexdigest()


@dataclass
class Hub:
    """What the server holds and has seen."""

    url: str = ""
    repos: dict[tuple[str, str], Repo] = field(default_factory=dict)  # (models or datasets, name)
    blobs: dict[str, bytes] = field(default_factory=dict)  # by sha256
    puts: list[str] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    refuses: int = 0  # status of every commit; 0: they are taken
    asked: list[str] = field(default_factory=list)

    def repo(self, name: str, kind: str = "models") -> Repo:
        return self.repos[kind, name]


@contextmanager
def running_hub() -> Iterator[Hub]:
    hub = Hub()

    class Handler(_Handler):
        state = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    state: Hub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        parts = self._parts()
        kind, name = parts[1], "/".join(parts[2:4])
        found = self.state.repos.get((kind, name))
        if parts[0] != "api" or found is None:
            self._answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            return
        siblings = [{"rfilename": file} for file in sorted(found.files)]
        self._answer(200, {"id": name, "sha": found.head, "private": found.private, "siblings": siblings})

    def do_POST(self) -> None:
        parts, body = self._parts(), self._body()
        if parts[:3] == ["api", "repos", "create"]:
            self._create(json.loads(body))
        elif parts == ["api", "validate-yaml"]:
            self._answer(200, {"errors": [], "warnings": []})
        elif parts[-2:] == ["objects", "batch"]:
            self._batch(json.loads(body))
        elif parts[4] == "preupload":
            self._preupload(parts, json.loads(body))
        elif parts[4] == "commit":
            self._commit(parts, body)
        else:
            self._answer(404, {"error": self.path})

    def do_PUT(self) -> None:
        oid, body = self._parts()[-1], self._body()
        assert hashlib.sha256(body).hexdigest() == oid
        self.state.blobs[oid] = body
        self.state.puts.append(oid)
        self._answer(200, {})

    def _create(self, given: dict[str, Any]) -> None:
        key = (f"{given.get('type', 'model')}s", f"{given['organization']}/{given['name']}")
        if key in self.state.repos:
            self._answer(409, {"error": "You already created this repo", "url": f"{self.state.url}/{key[1]}"})
            return
        self.state.repos[key] = Repo(private=given.get("visibility") == "private" or bool(given.get("private")))
        self._answer(200, {"url": f"{self.state.url}/{key[1]}"})

    def _preupload(self, parts: list[str], given: dict[str, Any]) -> None:
        files = self.state.repos[parts[1], "/".join(parts[2:4])].files
        found = [
            {
                "path": one["path"],
                "uploadMode": "lfs" if one["size"] > SMALL else "regular",
                "shouldIgnore": False,
                "oid": _git_oid(files[one["path"]], one["size"] > SMALL) if one["path"] in files else None,
            }
            for one in given["files"]
        ]
        self._answer(200, {"files": found})

    def _batch(self, given: dict[str, Any]) -> None:
        def action(one: dict[str, Any]) -> dict[str, Any]:
            if one["oid"] in self.state.blobs:
                return one
            return {**one, "actions": {"upload": {"href": f"{self.state.url}/lfs/{one['oid']}"}}}

        self._answer(200, {"transfer": "basic", "objects": [action(one) for one in given["objects"]]})

    def _commit(self, parts: list[str], body: bytes) -> None:
        if self.state.refuses:
            self._answer(self.state.refuses, {"error": "not now"})
            return
        name = "/".join(parts[2:4])
        repo = self.state.repos[parts[1], name]
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                repo.commits.append(value["summary"])
            elif line["key"] == "file":
                repo.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                repo.files[value["path"]] = self.state.blobs[value["oid"]]
            else:
                assert line["key"] == "deletedFile"
                del repo.files[value["path"]]
        self._answer(200, {"commitOid": repo.head, "commitUrl": f"{self.state.url}/{name}/commit/{repo.head}"})

    def _parts(self) -> list[str]:
        path = unquote(urlsplit(self.path).path)
        self.state.asked.append(path)
        self.state.tokens.add(self.headers.get("Authorization", ""))
        return path.strip("/").split("/")

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(self, status: int, found: object, headers: dict[str, str] | None = None) -> None:
        content = json.dumps(found).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def _git_oid(content: bytes, is_large: bool) -> str:
    """As the hub names a file: of LFS by its sha256, of git by the hash of a blob."""
    if is_large:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
