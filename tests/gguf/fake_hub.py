"""A Hugging Face hub of our own: the few answers that its client asks for, over HTTP."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlparse

COMMIT = "c0ffee" * 6 + "beef"
Repos = dict[str, dict[str, bytes]]  # user/repo -> file -> content


class Hub(ThreadingHTTPServer):
    """Serves repositories; `asked` are the requests, `downloads` the files that were fetched."""

    def __init__(self, repos: Repos) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos = repos
        self.asked: list[str] = []
        self.downloads: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlparse(self.path).path)
        self.server.asked.append(f"{self.command} {path}")
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)(/(revision|tree)/[^/]+)?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path)
        if api and api[1] in self.server.repos:
            self._json(self._tree(api[1]) if api[3] == "tree" else self._info(api[1]))
        elif file and file[2] in self.server.repos.get(file[1], {}):
            self._file(self.server.repos[file[1]][file[2]], file[2])
        else:
            self._send(404, {"X-Error-Code": "RepoNotFound"}, b"")

    def _info(self, repo: str) -> object:
        siblings = [{"rfilename": name} for name in self.server.repos[repo]]
        return {"id": repo, "modelId": repo, "sha": COMMIT, "siblings": siblings, "tags": []}

    def _tree(self, repo: str) -> object:
        return [
            {"type": "file", "path": name, "size": len(content), "oid": _etag(content)}
            for name, content in self.server.repos[repo].items()
        ]

    def _json(self, value: object) -> None:
        self._send(200, {"Content-Type": "application/json"}, json.dumps(value).encode())

    def _file(self, content: bytes, name: str) -> None:
        if self.command == "GET":
            self.server.downloads.append(name)
        self._send(200, {"ETag": f'"{_etag(content)}"', "X-Repo-Commit": COMMIT}, content)

    def _send(self, code: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Not on stderr."""


def _etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@contextmanager
def hub(repos: Repos) -> Iterator[Hub]:
    """A hub that runs until the end of the block."""
    server = Hub(repos)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
