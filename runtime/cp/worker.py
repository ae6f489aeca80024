"""Effects: a process that looks, packs and unpacks below one root, which may be a container's.

It is forked with all that it needs in memory, enters the root, and from then on neither finds nor loads a
module, nor a name service or a locale: nothing in a container is ever run (CVE-2019-14271). Paths are
resolved by the kernel within the root (CVE-2018-15664). It ends with whoever made it.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import sys

from runtime.cp import place
from runtime.cp.pack import Packer
from runtime.cp.rules import Found
from runtime.cp.unpack import Over, Refused
from runtime.images.tarstream import Reader, Source, TarError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

_MAX = 65536  # bytes of one message
_KILLED = "the process that copies was killed"


class Failed(Exception):
    """What a worker could not do; the text is for people. `code` is the kernel's, where it was the kernel."""

    def __init__(self, text: str, code: int = 0) -> None:
        super().__init__(text)
        self.code = code


class Entered:
    """A root that the worker is in: `root` is open. `read_only`: its own file system is not to be written,
    those mounted in it are. `bare`: directories whose file systems are the kernel's own."""

    def __init__(self, root: int, *, read_only: bool = False, bare: Sequence[str] = ()) -> None:
        self.root, self.read_only = root, read_only
        self.bare = {device for path in bare if (device := self._device(path)) is not None}
        self.bare.discard(os.fstat(root).st_dev)

    def _device(self, path: str) -> int | None:
        try:
            fd = place.open_at(self.root, path, follow=True)
        except OSError:
            return None
        try:
            return os.fstat(fd).st_dev
        finally:
            os.close(fd)


def host() -> Entered:
    return Entered(os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))


class Worker:
    """`enter` is called in the new process. `data` is the end of a pipe that archives go through; it is
    closed here."""

    def __init__(self, enter: Callable[[], Entered], data: int) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sys.stdout.flush()
        sys.stderr.flush()
        self._pid = os.fork()
        if self._pid == 0:
            ours.close()
            _run(theirs, enter, data)
        theirs.close()
        os.close(data)
        self._sock = ours

    def look(self, path: str, *, follow: bool) -> Found:
        return Found(**self._ask(op="look", path=path, follow=follow))

    def begin(self, op: str, **args: Any) -> None:
        """`pack` (path, follow, name) or `unpack` (directory, owner): `end` waits for it."""
        self._send({"op": op, **args})

    def end(self) -> int:
        """Bytes of files. Raises Failed."""
        return int(self._answer()["bytes"])

    def _ask(self, **request: Any) -> dict[str, Any]:
        self._send(request)
        return self._answer()

    def _send(self, request: dict[str, Any]) -> None:
        try:
            self._sock.send(json.dumps(request).encode())
        except (BrokenPipeError, ConnectionResetError):
            raise Failed(_KILLED) from None

    def _answer(self) -> dict[str, Any]:
        try:
            data = self._sock.recv(_MAX)
        except ConnectionResetError:  # with a request that it had not read
            data = b""
        if not data:
            raise Failed(_KILLED)
        found: dict[str, Any] = json.loads(data)
        if error := found.pop("error", ""):
            raise Failed(error, found.get("errno", 0))
        return found

    def close(self) -> None:
        self._sock.close()
        os.waitpid(self._pid, 0)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _run(sock: socket.socket, enter: Callable[[], Entered], data: int) -> None:
    """The whole life of the new process."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # who made it is interrupted, and closes the socket
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        _close_but({0, 1, 2, data, sock.fileno()})
        fds = os.open("/proc/self/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        trouble, entered = "", None
        try:
            entered = enter()
        except (OSError, Failed) as error:
            trouble = _text(error)
        sys.path.clear()
        sys.meta_path.clear()
        sys.path_hooks.clear()
        while request := sock.recv(_MAX):
            if entered is None:
                sock.send(json.dumps({"error": trouble}).encode())
                continue
            try:
                answer = _answer(entered, json.loads(request), data, fds)
            except (OSError, Refused, TarError, Failed) as error:
                answer = {"error": _text(error), "errno": error.errno if isinstance(error, OSError) else 0}
            sock.send(json.dumps(answer).encode())
    except BaseException:
        os._exit(1)
    os._exit(0)


def _close_but(kept: set[int]) -> None:
    """What whoever made it has open: ends of pipes, the database."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in kept:
            try:
                os.close(int(name))
            except OSError:
                continue


def _text(error: Exception) -> str:
    if isinstance(error, OSError):
        name = error.filename
        shown = name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else name
        return f"{error.strerror or error}{f' ({shown})' if shown else ''}".lower()
    return str(error)


def _answer(entered: Entered, request: dict[str, Any], data: int, fds: int) -> dict[str, Any]:
    op = request["op"]
    if op == "look":
        found = place.look(entered.root, request["path"], follow=request["follow"])
        return {
            "path": found.path,
            "exists": found.exists,
            "directory": found.directory,
            "target": found.target,
        }
    try:
        if op == "pack":
            return {"bytes": _pack(entered, request, data, fds)}
        return {"bytes": _unpack(entered, request, data, fds)}
    finally:
        os.close(data)


def _pack(entered: Entered, request: dict[str, Any], data: int, fds: int) -> int:
    fd = place.open_at(entered.root, request["path"], follow=request["follow"])
    if os.fstat(fd).st_dev in entered.bare:
        raise Failed("it is in a file system of the kernel's own, which has no files to copy")
    packer = Packer(data, fds, entered.bare)
    packer.write(fd, os.fsencode(request["name"]))
    return packer.bytes


def _unpack(entered: Entered, request: dict[str, Any], data: int, fds: int) -> int:
    directory = place.open_at(entered.root, request["directory"], follow=True)
    fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
    own = os.fstat(fd).st_dev == os.fstat(entered.root).st_dev
    if os.fstatvfs(fd).f_flag & os.ST_RDONLY or (entered.read_only and own):
        raise Failed("the container's root file system is read-only" if own else "it is mounted read-only")
    os.fchdir(fd)
    os.chroot(".")
    owner = request["owner"]
    over = Over(tuple(owner) if owner is not None else None, fds)
    source = Source(data)
    try:
        over.take(Reader(source))
        over.finish()
    except Refused as error:
        raise Failed(str(error)) from error
    except OSError as error:
        if isinstance(error.filename, str | bytes):
            raise
        why = "its owner has no id in there" if error.errno == errno.EINVAL else error.strerror  # chown(2)
        raise OSError(error.errno, why, over.entry) from error
    source.drain()
    return over.bytes
