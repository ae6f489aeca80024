"""A git repository behind HTTP that wants a token: git's own server program behind a small one of ours."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from agent.sources.git import GitSettings, GitSource
from agent.sources.revision import Failure, Revision
from tests.kernel.test_sources import follow

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")


class Handler(BaseHTTPRequestHandler):
    """git-http-backend(1) as CGI; only for requests with the server's token as a password."""

    server: Server

    def do_GET(self) -> None:
        sent = self.headers.get("Authorization", "").removeprefix("Basic ")
        if base64.b64decode(sent).decode().partition(":")[2] != self.server.token:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="git"')
            self.end_headers()
            return
        path, _, query = self.path.partition("?")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        done = subprocess.run(
            ["git", "http-backend"],
            input=body,
            capture_output=True,
            check=True,
            env={
                "PATH": os.environ["PATH"],
                "GIT_PROJECT_ROOT": str(self.server.root),
                "GIT_HTTP_EXPORT_ALL": "1",
                "PATH_INFO": path,
                "QUERY_STRING": query,
                "REQUEST_METHOD": self.command,
                "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                "CONTENT_LENGTH": str(len(body)),
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            },
        )
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().splitlines())
        self.send_response(int(fields.pop("Status", "200").split()[0]))
        for key, value in fields.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    def __init__(self, root: Path, token: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.root, self.token = root, token
        self.thread = threading.Thread(target=self.serve_forever)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/shop.git"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    work, bare = tmp_path / "work", tmp_path / "served" / "shop.git"
    subprocess.run([*git, "init", "-q", "-b", "main", str(work)], check=True)
    (work / "a.toml").write_text("one")
    subprocess.run([*git, "-C", str(work), "add", "-A"], check=True)
    subprocess.run([*git, "-C", str(work), "commit", "-q", "-m", "first"], check=True)
    subprocess.run([*git, "clone", "-q", "--bare", str(work), str(bare)], check=True)
    server = Server(bare.parent, "s3cret")
    yield server
    server.shutdown()
    server.server_close()
    server.thread.join()


def test_a_repository_is_fetched_with_the_token_of_a_file_and_a_new_token_is_taken_up(
    server: Server, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    settings = GitSettings(server.url, interval=0.1, token_file=str(token))

    def act(take: Callable[..., Any]) -> None:
        first = take()
        assert isinstance(first, Revision) and first.files == {"a.toml": b"one"}, first
        server.token = "an0ther"
        refused = take()
        assert isinstance(refused, Failure) and "s3cret" not in refused.text, refused
        token.write_text("an0ther\n")
        work = tmp_path / "work"
        (work / "a.toml").write_text("two")
        who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(["git", "-C", str(work), *who, "commit", "-qam", "second"], check=True)
        bare = str(tmp_path / "served" / "shop.git")
        subprocess.run(["git", "-C", str(work), "push", "-q", bare, "main"], check=True)
        found = take()
        while isinstance(found, Failure):
            found = take()
        assert found.files == {"a.toml": b"two"}

    follow(GitSource(settings, tmp_path / "mine"), act)
    kept = [path for path in (tmp_path / "mine").rglob("*") if path.is_file()]
    assert not [path for path in kept if b"s3cret" in path.read_bytes() or b"an0ther" in path.read_bytes()]


def test_a_repository_that_wants_a_token_is_told_of(server: Server, tmp_path: Path) -> None:
    def act(take: Callable[..., Any]) -> None:
        found = take()
        assert isinstance(found, Failure), found
        assert "cannot fetch" in found.text and server.url in found.text

    follow(GitSource(GitSettings(server.url, interval=60.0), tmp_path / "mine"), act)
