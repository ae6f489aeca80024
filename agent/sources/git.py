"""Effects: a git repository as a source: a bare mirror, fetched by the git command line, read by git archive.

git never runs inside somebody else's work tree and reads no configuration but ours: no hooks, no prompts, no
submodules. A revision is the tree of one commit, so it is always whole. A branch that was force-pushed is
followed; a commit or tag that moved, too. The mirror can be had again at any time: one that a power cut has
damaged is thrown away.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import re
import signal
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit, urlunsplit

from agent.sources import checkout
from agent.sources.revision import (
    MAX_FILE_BYTES,
    MAX_FILES,
    MAX_TOTAL_BYTES,
    Failure,
    Revision,
    Yield,
    relevant,
)
from runtime.linux import libc, trees

TIMEOUT = 300.0  # s for one git command
MAX_TREE_BYTES = 256 << 20  # of a commit's whole tree, checked out for relative bind mounts
MAX_TREE_ENTRIES, MAX_TREE_DEPTH = 100_000, 256
LOCAL_POLL = 1.0  # s between two looks at a repository on this machine
RETRY = 5.0  # s after a failure, doubled up to the interval (at least 60 s)

_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?\Z")
#: of a commit that a branch or a tag leads to
_SHORT = re.compile(r"[0-9a-f]{7,63}\Z")


@dataclass(frozen=True, slots=True)
class GitSettings:
    """`url` may be a path. `ref` is a branch, tag or commit; empty: the default branch. Interval in s."""

    url: str
    ref: str = ""
    path: str = ""
    interval: float = 30.0
    ssh_key: str = ""
    token_file: str = ""


class GitFailed(Exception):
    """git could not do it. The text is for people and holds no credentials."""


class GitSource:
    """`directory` is ours (root/sources/<name>): `git/` is the mirror, `current/` has the files of the
    commit in force, `tree` names them as they were committed, in `trees/`."""

    def __init__(self, settings: GitSettings, directory: Path) -> None:
        self._settings, self._directory = settings, directory
        self._mirror = directory / "git"
        self._local = local_repository(settings.url)
        self._last: Yield | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._aborted = False
        self._interrupted = True  # a git command may have been killed: its lock files are in the way
        self._checked = False  # the mirror, since the last success

    @property
    def location(self) -> str:
        return without_credentials(self._settings.url)

    def abort(self) -> None:
        """The agent ends: do not wait for a git command that is under way. Callable from any thread."""
        self._aborted = True
        if (process := self._process) is not None:
            _kill(process)

    def watch(self, directories: Collection[str]) -> None:
        """Nothing to do: the files of a commit do not change."""

    async def revisions(self, stop: asyncio.Event) -> AsyncIterator[Yield]:
        failures = 0
        while not stop.is_set():
            seen = self._signature()
            found = await asyncio.to_thread(self._look)
            failures = failures + 1 if isinstance(found, Failure) else 0
            if found != self._last:
                self._last = found
                yield found
            await self._until_next(stop, seen, failures)

    async def _until_next(self, stop: asyncio.Event, seen: object, failures: int) -> None:
        longest = max(self._settings.interval, 60.0) if failures else self._settings.interval
        delay = min(RETRY * 2 ** min(failures - 1, 10), longest) if failures else longest
        deadline = asyncio.get_running_loop().time() + delay
        while not stop.is_set() and (left := deadline - asyncio.get_running_loop().time()) > 0:
            pause = min(left, LOCAL_POLL) if self._local else left
            try:
                await asyncio.wait_for(stop.wait(), pause)
            except TimeoutError:
                if self._local and self._signature() != seen:
                    return

    def _signature(self) -> object:
        """What tells that a repository on this machine moved on, without starting git."""
        return ref_signature(self._local) if self._local else None

    def _look(self) -> Yield:
        try:
            try:
                return self._newest()
            except GitFailed:
                self._interrupted = True
                if not self._dropped_damage():
                    raise
                return self._newest()
        except GitFailed as error:
            return Failure(str(error))
        except OSError as error:
            return Failure(f"cannot read git repository {self.location}: {error}".lower())

    def _newest(self) -> Revision:
        commit = self.fetch()
        last = self._last
        found = last if isinstance(last, Revision) and last.id == commit else self.read(commit)
        self._checked = False
        return found

    def _dropped_damage(self) -> bool:
        """Whether the mirror was damaged, and so is gone now. Looked at once in a row of failures."""
        if self._checked:
            return False
        self._checked = True
        try:
            self._git("fsck", "--no-dangling", "--no-progress")
        except GitFailed:
            if self._aborted:
                return False
            trees.remove(self._mirror, ignore_errors=True)
            return True
        return False

    def _unlock(self) -> None:
        """Nobody else uses the mirror: lock files are of a git command that was killed, or lost its power."""
        for directory, names, files in os.walk(self._mirror):
            if directory == str(self._mirror):
                names[:] = [name for name in names if name != "objects"]
            for name in files:
                if name.endswith(".lock"):
                    os.unlink(os.path.join(directory, name))

    # ------------------------------------------------------------ git

    def fetch(self) -> str:
        """Bring the mirror up to date. Returns the commit that `ref` names. Raises GitFailed."""
        if not (self._mirror / "HEAD").exists():
            trees.remove(self._mirror, ignore_errors=True)
            self._mirror.mkdir(parents=True, mode=0o700)
            self._git("init", "--quiet", "--bare", ".")
        if self._interrupted:
            self._unlock()
            self._interrupted = False
        ref = self._settings.ref
        specs = ["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"]
        if not ref:
            specs.append("+HEAD:refs/stead/head")
        base = ["fetch", "--quiet", "--prune", "--force", "--no-tags", "--no-write-fetch-head"]
        base += ["--no-auto-maintenance", "--no-recurse-submodules"]
        self._git(*base, "--", self._url(), *specs)
        commit = self._commit()
        if commit is None and _COMMIT.match(ref):
            self._git(*base, "--", self._url(), f"+{ref}:refs/stead/commit")
            commit = self._commit()
        if commit is None:
            raise GitFailed(f"cannot find {ref or 'HEAD'} in {self.location}: no such branch, tag or commit")
        return commit

    def _url(self) -> str:
        return str(self._local) if self._local else self._settings.url

    def _commit(self) -> str | None:
        ref = self._settings.ref
        names = [f"refs/heads/{ref}", f"refs/tags/{ref}"] if ref else ["refs/stead/head"]
        if _COMMIT.match(ref):
            names.insert(0, ref)
        elif _SHORT.match(ref):
            names.append(ref)
        for name in names:
            try:
                return self._git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
            except GitFailed:
                continue
        return None

    def read(self, commit: str) -> Revision:
        """The tree of `commit`, checked out beside the one in force. Raises GitFailed."""
        note = self._git("show", "--no-patch", "--format=%s (%an)", commit, "--").splitlines()
        tree = commit if not self._settings.path else f"{commit}:{self._settings.path.strip('/')}"
        target = self._directory / "trees" / self._tree_name(commit)
        self._ship_all()
        partial = target.with_name(target.name + ".partial")
        trees.remove(partial, ignore_errors=True)
        files: dict[str, bytes] = {}
        with self._process_of(["archive", "--format=tar", tree]) as output:
            with tarfile.open(fileobj=output, mode="r|") as tar:
                files = unpack(tar, partial)
            output.read()  # the padding at the end
        if target.is_dir():  # whole, since it was renamed
            trees.remove(partial)
        else:
            _sync(partial)
            partial.rename(target)
        self._drop_trees({target.name, self._in_force()})
        title = "".join(letter for letter in note[0][:200] if letter.isprintable()) if note else ""
        return Revision(commit, title, files, str(self._directory / "current"), str(target))

    def _tree_name(self, commit: str) -> str:
        """Another one for another `path` of the same commit."""
        path = self._settings.path.strip("/")
        return f"{commit[:16]}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}" if path else commit[:16]

    def _ship_all(self) -> None:
        """git archive leaves out, or changes, what the tree's own .gitattributes say (export-ignore,
        export-subst), and a checkout does not; this file goes before them: gitattributes(5)."""
        file = self._mirror / "info" / "attributes"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"* -export-ignore -export-subst\n")

    def accept(self, revision: Revision) -> None:
        """`revision` is in force: `current`, where relative paths lead, has its files from now on."""
        name = os.path.basename(revision.tree)
        before = self._in_force()
        trees = self._directory / "trees"
        checkout.update(self._directory / "current", trees / name, trees / before if before else None)
        _sync(self._directory)
        fresh = self._directory / ".tree"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(f"trees/{name}")
        fresh.rename(self._directory / "tree")

    def _in_force(self) -> str:
        """The name of the tree that `current` has been brought to; empty: none yet."""
        link = self._directory / "tree"
        return os.path.basename(os.readlink(link)) if link.is_symlink() else ""

    def _drop_trees(self, keep: set[str]) -> None:
        for tree in (self._directory / "trees").iterdir():
            if tree.name not in keep:
                trees.remove(tree, ignore_errors=True)

    def _git(self, *arguments: str) -> str:
        return self._run(list(arguments), 1 << 20).decode("utf-8", "replace").strip()

    def _run(self, arguments: list[str], limit: int) -> bytes:
        with self._process_of(arguments) as output:
            found = output.read(limit + 1)
            if len(found) > limit:
                raise GitFailed(f"cannot {arguments[0]} {self.location}: too much output")
        return found

    @contextmanager
    def _process_of(self, arguments: list[str]) -> Iterator[IO[bytes]]:
        """The output of a git command while it runs. Raises GitFailed at the end when git failed."""
        command = ["git", "-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", *arguments]
        with tempfile.TemporaryFile() as errors:
            try:
                process = subprocess.Popen(
                    command,
                    cwd=self._mirror,
                    env=self._environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    start_new_session=True,
                )
            except FileNotFoundError as error:
                raise GitFailed("cannot run git: it is not installed") from error
            self._process = process
            timer = threading.Timer(TIMEOUT, _kill, (process,))
            timer.start()
            try:
                if self._aborted:
                    _kill(process)
                assert process.stdout is not None
                yield process.stdout
            except BaseException as error:
                finished = _ending(process) if isinstance(error, tarfile.TarError) else process.poll()
                _kill(process)
                if not isinstance(error, tarfile.TarError) or not finished:
                    raise
            finally:
                assert process.stdout is not None
                process.stdout.close()
                late = not timer.is_alive()
                code = process.wait()
                timer.cancel()
                self._process = None
            if code:
                errors.seek(0)
                cause = f"no end after {TIMEOUT:g} s" if late else self._cause(errors.read(65536))
                raise GitFailed(f"cannot {arguments[0]} {self.location}: {cause}")

    def _cause(self, errors: bytes) -> str:
        text = errors.decode("utf-8", "replace").replace(self._settings.url, self.location)
        lines = [line for line in text.splitlines() if line.strip()] or ["git gave no reason"]
        if "couldn't find remote ref HEAD" in text:
            return "the repository has no commit yet, or its HEAD names a branch that has none; set `ref`"
        best = next((line for line in lines if line.startswith(("fatal:", "error:"))), lines[-1])
        return best.removeprefix("fatal: ").removeprefix("error: ")[:300]

    def _environment(self) -> dict[str, str]:
        """Nothing of the user's or the machine's configuration; credentials never as arguments."""
        config = {"safe.directory": "*", "protocol.ext.allow": "never", "gc.auto": "0", "core.fsync": "all"}
        if self._settings.token_file:
            token = _secret(self._settings.token_file)
            basic = base64.b64encode(f"x-access-token:{token}".encode()).decode()
            parts = urlsplit(without_credentials(self._settings.url))
            config[f"http.{parts.scheme}://{parts.netloc}/.extraHeader"] = f"Authorization: Basic {basic}"
        environment = {
            "PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
            "HOME": str(self._directory),
            "LC_ALL": "C.UTF-8",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": "/bin/false",
            "GIT_ALLOW_PROTOCOL": "file:git:http:https:ssh",
            "GIT_DIR": str(self._mirror),
            "GIT_CONFIG_COUNT": str(len(config)),
        }
        for number, (key, value) in enumerate(config.items()):
            environment[f"GIT_CONFIG_KEY_{number}"] = key
            environment[f"GIT_CONFIG_VALUE_{number}"] = value
        for name in ("http_proxy", "https_proxy", "no_proxy", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE"):
            if name in os.environ:
                environment[name] = os.environ[name]
        hosts = self._directory / "known_hosts"
        ssh = f"ssh -o BatchMode=yes -o StrictHostKeyChecking=accept-new -o UserKnownHostsFile='{hosts}'"
        if self._settings.ssh_key:
            ssh += f" -o IdentitiesOnly=yes -i '{self._settings.ssh_key}'"
        environment["GIT_SSH_COMMAND"] = ssh
        return environment


def _kill(process: subprocess.Popen[bytes]) -> None:
    """With all that it started: it leads a session of its own."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _sync(directory: Path) -> None:
    """All of this filesystem is on disk: what will be named as being in force must outlive a power cut."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        libc.call("syncfs", fd, subject=str(directory))
    finally:
        os.close(fd)


def _secret(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError as error:
        raise GitFailed(f"cannot read token file {path}: {error.strerror}".lower()) from error


def without_credentials(url: str) -> str:
    """https://user:secret@host/x -> https://host/x; a path or user@host:path is given back as it is."""
    parts = urlsplit(url)
    if not parts.scheme or "@" not in parts.netloc or parts.scheme == "ssh":
        return url
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def local_repository(url: str) -> Path | None:
    """The directory, when `url` names one on this machine (a checkout or a bare repository)."""
    path = url.removeprefix("file://")
    return Path(path) if path.startswith("/") else None


def ref_signature(repository: Path) -> tuple[object, ...]:
    """Changes whenever a branch, tag or HEAD of a local repository moves; costs a few stat calls."""
    base = repository / ".git"
    try:
        if base.is_file():  # a linked work tree
            base = repository / base.read_text().partition("gitdir:")[2].strip()
    except OSError:
        return ()
    if not base.is_dir():
        base = repository
    found: list[object] = []
    common = base / "commondir"
    roots = [base]
    if common.exists():
        roots.append(base / common.read_text().strip())
    for root in roots:
        for name in ("HEAD", "packed-refs"):
            found.append(_stat(root / name))
        for directory, _, names in os.walk(root / "refs"):
            found += [(directory, name, _stat(Path(directory, name))) for name in sorted(names)]
    return tuple(found)


def _stat(path: Path) -> tuple[int, int, int] | None:
    try:
        info = path.stat()
    except OSError:
        return None
    return info.st_ino, info.st_mtime_ns, info.st_size


def _ending(process: subprocess.Popen[bytes]) -> int | None:
    """The exit code of a git whose output has ended: it may close that a moment before it exits."""
    try:
        return process.wait(1.0)
    except subprocess.TimeoutExpired:
        return None


def unpack(tar: tarfile.TarFile, target: Path) -> dict[str, bytes]:
    """Write regular files and directories, then links that stay inside. Returns what matters to specs.

    git has checked the names (no "..", no absolute path); they are checked once more. Raises GitFailed.
    """
    files: dict[str, bytes] = {}
    links: list[tarfile.TarInfo] = []
    total = wanted = 0
    target.mkdir(parents=True, mode=0o755)
    for count, member in enumerate(tar):
        if count > MAX_TREE_ENTRIES:
            raise GitFailed(f"cannot read the tree: more than {MAX_TREE_ENTRIES} entries")
        parts = Path(member.name).parts
        if member.name.startswith("/") or ".." in parts:
            raise GitFailed(f"cannot read {member.name}: the name leaves the tree")
        if len(parts) > MAX_TREE_DEPTH:
            raise GitFailed(f"cannot read {member.name[:100]}...: deeper than {MAX_TREE_DEPTH} directories")
        path = target / member.name
        if member.isdir():
            path.mkdir(parents=True, exist_ok=True, mode=0o755)
        elif member.issym():
            links.append(member)
        elif member.isfile():
            total += member.size
            if total > MAX_TREE_BYTES:
                raise GitFailed(f"cannot read the tree: larger than {MAX_TREE_BYTES >> 20} MiB")
            source = tar.extractfile(member)
            content = source.read() if source is not None else b""
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            path.chmod(0o755 if member.mode & 0o100 else 0o644)
            if relevant(member.name):
                if len(content) > MAX_FILE_BYTES:
                    raise GitFailed(f"cannot read {member.name}: larger than {MAX_FILE_BYTES >> 20} MiB")
                wanted += len(content)
                files[member.name] = content
        if len(files) > MAX_FILES or wanted > MAX_TOTAL_BYTES:
            raise GitFailed(f"cannot read the tree: more than {MAX_FILES} files of specs, or too large ones")
    for member in links:  # when all the rest is there, so that nothing is written through one
        directory = target
        for part in Path(member.name).parts[:-1]:
            directory /= part
            if directory.is_symlink():
                raise GitFailed(f"cannot read {member.name}: it lies below a link")
            directory.mkdir(exist_ok=True)
        (target / member.name).symlink_to(member.linkname)
    files.update(_linked(target, [member.name for member in links if relevant(member.name)]))
    return files


def _linked(tree: Path, names: list[str]) -> dict[str, bytes]:
    """What the links of these names lead to. Raises GitFailed where that is no file of the tree."""
    files: dict[str, bytes] = {}
    root = os.path.realpath(tree)
    for name in names:
        if not (tree / name).is_symlink():
            raise GitFailed(f"cannot read {name}: it is a link that leaves the source")
        real = os.path.realpath(tree / name)
        if os.path.commonpath([real, root]) != root:
            raise GitFailed(f"cannot read {name}: it is a link that leaves the source")
        if os.path.isdir(real):
            continue
        if not os.path.isfile(real):
            raise GitFailed(f"cannot read {name}: it is a link to nothing")
        if os.path.getsize(real) > MAX_FILE_BYTES:
            raise GitFailed(f"cannot read {name}: larger than {MAX_FILE_BYTES >> 20} MiB")
        files[name] = Path(real).read_bytes()
    return files
