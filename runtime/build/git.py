"""Effects: git repositories as contexts and as sources of ADD: a bare mirror, fetched and read by git itself.

git reads no configuration but what is given here, runs no hook and asks nobody. A fragment of the URL names
a branch, tag or commit, and a directory: `#REF:DIR`. Submodules are fetched with what holds them.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.build.archive import unpack
from runtime.build.remote import Repository
from runtime.build.workspace import Workspace
from runtime.faults import Fault
from runtime.linux import trees

#: Seconds for one git command.
TIMEOUT = 600.0
ALLOWED = "file:git:http:https:ssh"  # a checkout is fetched from its mirror, by file
MAX_WORDS = 4096  # bytes of an error that are kept

_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?\Z")


class Git:
    """Mirrors under one directory, one for each URL."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def commit(self, found: Repository) -> str:
        """The commit that the repository's reference means now, fetched."""
        with self._mirror(found) as mirror:
            if not (mirror / "HEAD").exists():
                self._run(found, mirror, "init", "--quiet", "--bare", str(mirror))
            if _COMMIT.match(found.ref) and self._has(found, mirror, f"{found.ref}^{{commit}}"):
                return found.ref
            wanted = found.ref or "HEAD"
            self._run(
                found,
                mirror,
                "fetch",
                "--quiet",
                "--depth=1",
                "--no-tags",
                "--force",
                "--",
                found.url,
                wanted,
            )
            text = self._run(found, mirror, "rev-parse", "--verify", "--quiet", "FETCH_HEAD^{commit}")
            return text.decode().strip()

    def tree(self, work: Workspace, found: Repository, commit: str, *, keep_git_dir: bool = False) -> Path:
        """The files of the commit in a directory of the build's; with `keep_git_dir` as a checkout."""
        with self._mirror(found) as mirror:
            if keep_git_dir or self._has(found, mirror, f"{commit}:.gitmodules"):
                return self._checkout(work, found, mirror, commit, keep_git_dir=keep_git_dir)
            name = f"{commit}:{found.directory}" if found.directory else commit
            # What export-ignore and export-subst say is for releases; a build has the files as they are.
            (mirror / "info").mkdir(exist_ok=True)
            (mirror / "info/attributes").write_text("* -export-ignore -export-subst\n")
            fd = work.scratch()
            try:
                self._run(found, mirror, "archive", "--format=tar", name, output=fd)
                return unpack(work, fd, found.shown)
            finally:
                os.close(fd)

    def _checkout(
        self, work: Workspace, found: Repository, mirror: Path, commit: str, *, keep_git_dir: bool
    ) -> Path:
        place = work.new()
        inner = place / ".git"
        self._run(found, inner, "init", "--quiet", str(place))
        self._run(found, inner, "fetch", "--quiet", "--depth=1", "--", str(mirror), commit)
        # What a submodule's relative URL is relative to; a password in it would stay in an image.
        self._run(found, inner, "remote", "add", "origin", found.shown)
        self._run(found, inner, "-c", "advice.detachedHead=false", "checkout", "--quiet", commit, tree=place)
        if (place / ".gitmodules").exists():
            words = ("submodule", "--quiet", "update", "--init", "--recursive", "--depth=1")
            self._run(found, inner, *words, tree=place)
        if not keep_git_dir:
            _forget(place)
        return place / found.directory if found.directory else place

    def _has(self, found: Repository, mirror: Path, name: str) -> bool:
        try:
            self._run(found, mirror, "cat-file", "-e", name)
        except Fault:
            return False
        return True

    @contextmanager
    def _mirror(self, found: Repository) -> Iterator[Path]:
        """The mirror of the URL, held against other builds."""
        path = self._directory / hashlib.sha256(found.url.encode()).hexdigest()[:24]
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield path
        finally:
            os.close(fd)

    def _run(
        self, found: Repository, mirror: Path, *arguments: str, output: int = -1, tree: Path | None = None
    ) -> bytes:
        command = ["git", "-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", *arguments]
        environment = _environment(mirror, self._directory)
        if "submodule" in arguments and not found.local:
            # What a stranger's repository names must not lie on this machine.
            environment["GIT_ALLOW_PROTOCOL"] = ALLOWED.removeprefix("file:")
        if tree is not None:
            environment["GIT_WORK_TREE"] = str(tree)
        verb = next(word for word in arguments if word not in ("-c", "advice.detachedHead=false"))
        try:
            done = subprocess.run(
                command,
                cwd=tree or self._directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if output < 0 else output,
                stderr=subprocess.PIPE,
                timeout=TIMEOUT,
                check=False,
                umask=0o022,
            )
        except FileNotFoundError as error:
            raise Fault("request-invalid", f"git {verb}", found.shown, "git is not installed") from error
        except subprocess.TimeoutExpired as error:
            raise Fault(
                "registry-unreachable", f"git {verb}", found.shown, f"no end after {TIMEOUT:g} s"
            ) from error
        if done.returncode:
            raise Fault("request-invalid", f"git {verb}", found.shown, _cause(done.stderr, found))
        return done.stdout or b""


def _forget(place: Path) -> None:
    """Take away what git wrote beside the files. Links are not followed, and git puts nothing of a tree under
    this name."""
    for folder, folders, files in os.walk(place):
        if ".git" in folders:
            trees.remove(os.path.join(folder, ".git"))
            folders.remove(".git")
        if ".git" in files:
            os.unlink(os.path.join(folder, ".git"))


def _cause(errors: bytes, found: Repository) -> str:
    text = errors[-MAX_WORDS:].decode("utf-8", "replace").replace(found.url, found.shown)
    lines = [line for line in text.splitlines() if line.strip()] or ["git gave no reason"]
    best = next((line for line in lines if line.startswith(("fatal:", "error:"))), lines[-1])
    return best.removeprefix("fatal: ").removeprefix("error: ")[:300]


def _environment(mirror: Path, home: Path) -> dict[str, str]:
    config = {"safe.directory": "*", "protocol.ext.allow": "never", "gc.auto": "0"}
    config["tar.umask"] = "0022"  # 644 and 755, as in a checkout
    environment = {
        "PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
        "HOME": str(home),
        "LC_ALL": "C.UTF-8",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "/bin/false",
        "GIT_ALLOW_PROTOCOL": ALLOWED,
        "GIT_DIR": str(mirror),
        "GIT_CONFIG_COUNT": str(len(config)),
        "GIT_SSH_COMMAND": "ssh -o BatchMode=yes -o StrictHostKeyChecking=accept-new",
    }
    for number, (key, value) in enumerate(config.items()):
        environment[f"GIT_CONFIG_KEY_{number}"] = key
        environment[f"GIT_CONFIG_VALUE_{number}"] = value
    for name in (
        "http_proxy",
        "https_proxy",
        "no_proxy",
        "HTTPS_PROXY",
        "NO_PROXY",
        "SSL_CERT_FILE",
        "SSH_AUTH_SOCK",
    ):
        if name in os.environ:
            environment[name] = os.environ[name]
    return environment
