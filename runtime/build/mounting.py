"""Effects: what RUN --mount shows: parts of stages and contexts, caches that outlive builds, secrets,
agents."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import select
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from runtime.build import run
from runtime.build.copy import Copying
from runtime.build.mounts import RunMount
from runtime.build.request import BuildRequest
from runtime.build.selection import Source, pick
from runtime.build.workspace import Workspace
from runtime.linux import trees
from runtime.paths import write_atomically

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Where the socket of an agent is, as BuildKit has it.
SSH_SOCKET = "/run/buildkit/ssh_agent.{}"
#: Instances of one private cache.
MAX_PRIVATE = 64
PIECE = 65536


class MountFailed(Exception):
    """Why something cannot be mounted, in one clause."""


@dataclass(slots=True)
class Mounted:
    """What a step gets: OCI mounts with whether each is a directory, trees to mount first, variables."""

    mounts: list[tuple[Mapping[str, Any], bool]] = field(default_factory=list)
    trees: list[run.Tree] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a mount with `from` shows files of: layers, or a context."""

    chain: tuple[str, ...] | None
    source: Source


def _held(home: Path, how: int) -> int:
    """The directory of a cache, made where it is not there, with the lock `how` of flock(2): a descriptor.
    BlockingIOError as that has it."""
    while True:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            fd = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:  # pruned in between
            continue
        try:
            fcntl.flock(fd, how)
        except BaseException:
            os.close(fd)
            raise
        if os.fstat(fd).st_nlink > 0:
            return fd
        os.close(fd)  # pruned while it was waited for


class Mounting:
    """The mounts of one step. What it holds is let go when the step has ended: a context manager."""

    def __init__(
        self,
        work: Workspace,
        caches: Path,
        secrets: Path,
        request: BuildRequest,
        origin: Callable[[RunMount], Origin],
    ) -> None:
        self._work, self._caches, self._secrets = work, caches, secrets
        self._request, self._origin = request, origin
        self._stack = ExitStack()
        self._agents = 0

    def __enter__(self) -> Mounting:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self, mount: RunMount, into: Mounted) -> None:
        """Raises MountFailed, OSError, SelectionError."""
        match mount.type:
            case "bind":
                self._bind(mount, into)
            case "cache":
                self._cache(mount, into)
            case "tmpfs":
                into.mounts.append((run.tmpfs(mount.target, mount.size), True))
            case "secret":
                self._secret(mount, into)
            case "ssh":
                self._ssh(mount, into)

    # ------------------------------------------------------------ bind

    def _bind(self, mount: RunMount, into: Mounted) -> None:
        origin = self._origin(mount)
        if origin.chain is not None:
            lowers, root = self._work.lowers(origin.chain), origin.source.root
            path = mount.source
        else:
            copied = self._snapshot(origin.source, mount.source or ".")
            lowers, root, path = [copied], -1, ""
        tree = run.Tree(lowers, self._work.new())
        if not mount.read_only:
            tree = run.with_upper(self._work, tree)
        if root < 0:
            root = os.open(lowers[0], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._stack.callback(os.close, root)
            path = self._only_file(root, mount)
        try:
            place, is_dir = run.inside(tree, root, path)
        except FileNotFoundError as error:
            raise MountFailed(f"{error.filename} is not in {mount.from_ or origin.source.name}") from None
        into.trees.append(tree)
        into.mounts.append((run.bind(place, mount.target, read_only=mount.read_only), is_dir))

    def _snapshot(self, source: Source, pattern: str) -> Path:
        """A copy of what the ignore file lets through, as it is now."""
        place = self._work.new()
        root = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            picked = pick(source, pattern)
            Copying(root, (0, 0)).into(
                "/" if not picked or picked[0].is_directory else "/file/", source, picked
            )
        finally:
            os.close(root)
        return place

    @staticmethod
    def _only_file(root: int, mount: RunMount) -> str:
        """A single file was copied below /file, so that nothing of its name can be taken for a directory."""
        name = mount.source.rstrip("/").rpartition("/")[2]
        return f"file/{name}" if name and os.path.lexists(f"/proc/self/fd/{root}/file/{name}") else ""

    # ------------------------------------------------------------ cache

    def _cache(self, mount: RunMount, into: Mounted) -> None:
        if mount.source and not mount.from_:
            raise MountFailed(f"source={mount.source} of the cache {mount.id} needs from=, to say of what")
        name = hashlib.sha256(mount.id.encode()).hexdigest()[:24]
        # before the cache is held: this may wait for a stage that wants the cache
        origin = self._origin(mount) if mount.from_ else None
        home = self._hold(name, mount)
        data = home / "data"
        if not data.exists():
            self._fill(mount, home, data, origin)
        os.utime(home)
        into.mounts.append((run.bind(data, mount.target, read_only=mount.read_only), True))

    def _hold(self, name: str, mount: RunMount) -> Path:
        """The cache's directory, locked as its sharing says, until the step has ended."""
        how = {"private": fcntl.LOCK_EX | fcntl.LOCK_NB, "shared": fcntl.LOCK_SH}
        for number in range(MAX_PRIVATE):
            home = self._caches / (f"{name}.{number}" if number else name)
            try:
                fd = _held(home, how.get(mount.sharing, fcntl.LOCK_EX))
            except BlockingIOError:
                continue
            self._stack.callback(os.close, fd)
            write_atomically(home / "about.json", json.dumps({"id": mount.id}).encode(), durable=False)
            return home
        raise MountFailed(f"{MAX_PRIVATE} steps use the private cache {mount.id} at once")

    def _fill(self, mount: RunMount, home: Path, data: Path, origin: Origin | None) -> None:
        """A new cache: empty, or what `from` has at `source`. Of steps that begin it side by side one makes
        it, while the others wait: a directory that a step has mounted is never replaced."""
        lock = os.open(home / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if data.exists():
                return
            fresh = home / "new"
            trees.remove(fresh, ignore_errors=True)  # a crash left it
            fresh.mkdir(mode=0o755)
            if origin is not None:
                root = os.open(fresh, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    Copying(root).into("/", origin.source, pick(origin.source, mount.source or "/"))
                finally:
                    os.close(root)
            os.chown(fresh, mount.uid, mount.gid)
            os.chmod(fresh, mount.mode)
            os.rename(fresh, data)
        finally:
            os.close(lock)

    # ------------------------------------------------------------ secrets, agents

    def _secret(self, mount: RunMount, into: Mounted) -> None:
        source = next((item for item in self._request.secrets if item.id == mount.id), None)
        if source is None:
            if mount.required:
                raise MountFailed(
                    f"the secret {mount.id} was not given (give it with --secret id={mount.id})"
                )
            return
        content = source.value
        if content is None and source.env:
            content = os.environb.get(os.fsencode(source.env))
        elif content is None:
            content = Path(source.path or source.id).read_bytes()
        if content is None:
            raise MountFailed(
                f"the secret {mount.id} is to come from the variable {source.env}, which is not set"
            )
        if mount.env:
            into.environment[mount.env] = content.decode("utf-8", "surrogateescape")
        if mount.target:
            path = run.secret_file(self._secrets, content, mount.uid, mount.gid, mount.mode)
            into.mounts.append((run.bind(path, mount.target, read_only=True), False))

    def _ssh(self, mount: RunMount, into: Mounted) -> None:
        source = next((item for item in self._request.ssh if item.id == mount.id), None)
        if source is None or not run.is_socket(source.socket):
            if mount.required:
                why = (
                    "was not given (give it with --ssh)"
                    if source is None
                    else f"does not answer at {source.socket}"
                )
                raise MountFailed(f"the ssh agent {mount.id} {why}")
            return
        target = mount.target or SSH_SOCKET.format(self._agents)
        relay = Relay(self._secrets / f"agent.{os.urandom(4).hex()}", source.socket)
        self._stack.callback(relay.close)
        os.chown(relay.path, mount.uid, mount.gid)
        os.chmod(relay.path, mount.mode)
        into.mounts.append((run.bind(relay.path, target, read_only=True), False))
        if not self._agents:
            into.environment["SSH_AUTH_SOCK"] = target
        self._agents += 1


class Relay:
    """A socket at `path` whose connections go on to the one at `to`. To be closed."""

    def __init__(self, path: Path, to: str) -> None:
        self.path, self._to = path, to
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:  # sun_path holds 108 bytes: unix(7)
            self._listener.bind(f"/proc/self/fd/{directory}/{path.name}")
        finally:
            os.close(directory)
        self._listener.listen(16)
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._serve, name="stead-ssh", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        links: dict[socket.socket, socket.socket] = {}
        while True:
            waiting: list[Any] = [self._listener, self._reader, *links]
            ready, _, _ = select.select(waiting, [], [])
            if self._reader in ready:
                break
            for end in ready:
                if end is self._listener:
                    near, _ = self._listener.accept()
                    far = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
                    try:
                        far.connect(self._to)
                    except OSError:
                        near.close()
                        far.close()
                        continue
                    links[near], links[far] = far, near
                elif isinstance(end, socket.socket) and end in links and not _pass_on(end, links[end]):
                    other = links.pop(end)
                    links.pop(other, None)
                    end.close()
                    other.close()
        for end in links:
            end.close()

    def close(self) -> None:
        os.write(self._writer, b"x")
        self._thread.join()
        self._listener.close()
        os.close(self._reader)
        os.close(self._writer)
        self.path.unlink(missing_ok=True)


def _pass_on(end: socket.socket, other: socket.socket) -> bool:
    try:
        data = end.recv(PIECE)
        other.sendall(data)
    except OSError:
        return False
    return bool(data)
