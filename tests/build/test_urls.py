"""ADD of URLs and of git repositories, from servers of our own."""

from __future__ import annotations

import hashlib
import subprocess
import threading
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.build.cases import MTIME, archive
from tests.build.engines import Engine, Stead
from tests.build.workshop import Workshop
from tests.kernel.git_box import served

pytestmark = pytest.mark.root


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.asked.append(path)
        if path == "/there":
            self.send_response(302)
            self.send_header("Location", "/files/moved.txt")
            self.end_headers()
            return
        if (body := self.server.files.get(path)) is None:
            self.send_error(404)
            return
        mark = f'"{hashlib.sha256(body).hexdigest()}"'
        if self.headers.get("If-None-Match") == mark:
            self.send_response(304)
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body) + (100 if path == "/cut" else 0)))
        self.send_header("ETag", mark)
        if "undated" not in path:
            self.send_header("Last-Modified", formatdate(MTIME, usegmt=True))
        self.end_headers()
        self.wfile.write(body)
        self.server.sent += 1

    def log_message(self, format: str, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str] = []
        self.sent = 0
        self.files = {
            "/files/a.txt": b"content",
            "/files/moved.txt": b"moved",
            "/": b"an index",
            "/undated": b"undated",
            "/cut": b"cut",
            "/a.tar": archive({"in": "inside", "d/f": {"content": "f", "uid": 5, "gid": 6}}),
        }
        self.thread = threading.Thread(target=self.serve_forever)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.shutdown()
    running.server_close()
    running.thread.join()


@pytest.fixture
def shop(engine_of: Callable[[str], Engine], tmp_path: Path) -> Workshop:
    engine = engine_of("stead")
    assert isinstance(engine, Stead)
    made = Workshop(engine, tmp_path / "context")
    made.context.mkdir()
    return made


def dockerfile(shop: Workshop, *lines: str) -> None:
    shop.write({"Dockerfile": "\n".join(["FROM scratch", *lines, ""])})


def lines(shop: Workshop) -> list[str]:
    """The tree of the image, with the times of files."""
    tree = shop.image("added").tree
    return sorted(entry.line(path) for path, entry in tree.items() if entry.kind != "d")


def test_a_file_of_a_url_is_roots_alone_and_as_old_as_the_server_says(shop: Workshop, server: Server) -> None:
    dockerfile(shop, f"ADD {server.url}/files/a.txt /to/", f"ADD {server.url}/files/a.txt?x=1 /named")
    shop.build("-t", "added")
    assert lines(shop) == [f'named [600 mtime={MTIME}] "content"', f'to/a.txt [600 mtime={MTIME}] "content"']


def test_an_owner_and_a_mode_of_it(shop: Workshop, server: Server) -> None:
    dockerfile(shop, f"ADD --chown=5:6 --chmod=755 {server.url}/files/a.txt /tool")
    shop.build("-t", "added")
    assert lines(shop) == [f'tool [755 5:6 mtime={MTIME}] "content"']


def test_an_undated_file_is_of_the_beginning_of_time(shop: Workshop, server: Server) -> None:
    dockerfile(shop, f"ADD {server.url}/undated /")
    shop.build("-t", "added")
    assert lines(shop) == ['undated [600 mtime=0] "undated"']


def test_a_redirect_is_followed_and_the_name_stays_that_of_the_url(shop: Workshop, server: Server) -> None:
    dockerfile(shop, f"ADD {server.url}/there /to/")
    shop.build("-t", "added")
    assert lines(shop) == [f'to/there [600 mtime={MTIME}] "moved"']


@pytest.mark.parametrize(("path", "word"), [("/none", "404"), ("/cut", "cut"), ("/", "name")])
def test_what_cannot_be_had_is_said(shop: Workshop, server: Server, path: str, word: str) -> None:
    dockerfile(shop, f"ADD {server.url}{path} /to/")
    report = shop.build("-t", "added", code=1)
    assert word in report.output and "Traceback" not in report.output


def test_copy_takes_no_urls(shop: Workshop, server: Server) -> None:
    dockerfile(shop, f"COPY {server.url}/files/a.txt /")
    shop.build("-t", "added", code=1)
    assert server.asked == []


# ---------------------------------------------------------------- git


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """With the branch main, the tag v1 on its first commit, and a directory."""
    path = tmp_path / "repository.git"
    git(path, "init", "-q", "-b", "main", str(path))
    (path / "sub").mkdir()
    (path / "sub/inner").write_text("inner\n")
    (path / "a").write_text("one\n")
    (path / "run").write_text("#!/bin/sh\n")
    (path / "run").chmod(0o755)
    commit(path, "first")
    git(path, "-C", str(path), "tag", "v1")
    (path / "a").write_text("two\n")
    commit(path, "second")
    return path


@pytest.fixture
def daemon(repository: Path) -> Iterator[str]:
    """Where the repository is to be had."""
    with served(repository.parent) as url:
        yield f"{url}/{repository.name}"


def git(path: Path, *words: str) -> str:
    who = ("-c", "user.name=t", "-c", "user.email=t@example.test")
    return subprocess.run(["git", *who, *words], check=True, capture_output=True, text=True).stdout.strip()


def commit(path: Path, text: str) -> None:
    git(path, "-C", str(path), "add", "-A")
    git(path, "-C", str(path), "commit", "-q", "-m", text)


def names(shop: Workshop) -> dict[str, str]:
    tree = shop.image("added").tree
    return {path: entry.detail for path, entry in tree.items() if entry.kind == "-" and ".git/" not in path}


def test_a_repository_is_added_without_its_history(shop: Workshop, repository: Path, daemon: str) -> None:
    dockerfile(shop, f"ADD {daemon} /src/")
    shop.build("-t", "added")
    assert names(shop) == {"src/a": "two\n", "src/sub/inner": "inner\n", "src/run": "#!/bin/sh\n"}
    tree = shop.image("added").tree
    assert (tree["src/run"].mode, tree["src/a"].mode, tree["src/sub"].mode) == (0o755, 0o644, 0o755)
    assert "src/.git" not in tree


def test_a_repository_is_added_as_it_is_whatever_it_says_of_archives(
    shop: Workshop, repository: Path, daemon: str
) -> None:
    (repository / ".gitattributes").write_text("sub export-ignore\na export-subst\n")
    (repository / "a").write_text("$Format:%H$\n")
    commit(repository, "third")
    dockerfile(shop, f"ADD {daemon} /src/")
    shop.build("-t", "added")
    found = names(shop)
    assert (found["src/a"], found["src/sub/inner"]) == ("$Format:%H$\n", "inner\n")


def test_a_tag_and_a_directory_of_a_repository(shop: Workshop, repository: Path, daemon: str) -> None:
    dockerfile(shop, f"ADD {daemon}#v1 /one/", f"ADD {daemon}#main:sub /two/")
    shop.build("-t", "added")
    assert names(shop) == {
        "one/a": "one\n",
        "one/sub/inner": "inner\n",
        "one/run": "#!/bin/sh\n",
        "two/inner": "inner\n",
    }


def test_a_repository_with_its_history(shop: Workshop, repository: Path, daemon: str) -> None:
    dockerfile(shop, f"ADD --keep-git-dir=true {daemon} /src/")
    shop.build("-t", "added")
    assert "src/.git/HEAD" in shop.image("added").tree


def test_a_new_commit_is_a_new_step_and_nothing_else_is(
    shop: Workshop, repository: Path, daemon: str
) -> None:
    dockerfile(shop, f"ADD {daemon} /src/")
    assert len(shop.build("-t", "added").anew) == 1
    assert shop.build("-t", "added").anew == ()
    (repository / "a").write_text("three\n")
    commit(repository, "third")
    assert len(shop.build("-t", "added").anew) == 1
    assert names(shop)["src/a"] == "three\n"


def test_a_context_may_be_a_repository(shop: Workshop, repository: Path, tmp_path: Path) -> None:
    (repository / "Dockerfile").write_text("FROM scratch\nCOPY a /\n")
    (repository / "sub/Dockerfile").write_text("FROM scratch\nCOPY inner /\n")
    commit(repository, "third")
    done = shop.engine.stead("build", "-t", "added", f"file://{repository}")
    assert done.code == 0, done.output
    assert names(shop) == {"a": "two\n"}
    done = shop.engine.stead("build", "-t", "added", f"file://{repository}#main:sub")
    assert done.code == 0, done.output
    assert names(shop) == {"inner": "inner\n"}


def test_a_branch_that_is_not_there_is_said(shop: Workshop, repository: Path, daemon: str) -> None:
    dockerfile(shop, f"ADD {daemon}#none /src/")
    assert "none" in shop.build("-t", "added", code=1).output
