"""Effects: a directory as a tar stream that is the same, byte for byte, whenever the directory is the same:
a layer of what an overlay mount changed, or a whole file system.

Documentation/filesystems/overlayfs.rst (what whiteouts and opaque directories are on disk), OCI image-spec
layer.md (what they are in a layer). Entries come directory by directory, names in the order of their bytes.
Sockets are left out: nothing can make them anew. Only what is opened is read, and nothing is followed.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from runtime.images.lowers import OPAQUE
from runtime.images.tarstream import BLOCK, BLOCK_DEVICE, CHAR, DIRECTORY, FIFO, FILE, LINK, SYMLINK
from runtime.images.tarwriter import END, NANO, header, header_of, padding

PIECE = 1024 * 1024  # bytes
MAX_DEPTH = 256  # directories above one entry: what unpacking takes

_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOATIME
OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOATIME
SPECIAL = {
    stat.S_IFLNK: SYMLINK,
    stat.S_IFCHR: CHAR,
    stat.S_IFBLK: BLOCK_DEVICE,
    stat.S_IFIFO: FIFO,
}
_WHITEOUT = b".wh."
_OPAQUE_MARK = b".wh..wh..opq"
#: overlayfs' own books; what this host's security modules and file systems note for themselves
_PRIVATE = ("trusted.overlay.", "user.overlay.", "btrfs.")
HOSTS = frozenset({"security.selinux", "security.ima", "security.evm", "security.SMACK64", "system.nfs4_acl"})
#: what says that a part of the content is in a lower layer
_ELSEWHERE = frozenset({"trusted.overlay.redirect", "trusted.overlay.metacopy"})


class Unwritable(ValueError):
    """The directory holds something that no layer can; the text says what."""


def write_changes(directory: Path, *, epoch: int | None = None) -> Iterator[bytes]:
    """An overlay's upper directory as a layer, in pieces. Times later than `epoch` (seconds) become it.

    Raises Unwritable, and OSError of reading.
    """
    return _Writer(epoch=epoch).write(directory)


def write_tree(root: Path) -> Iterator[bytes]:
    """A root filesystem of the host as a layer, times in whole seconds. Raises Unwritable, and OSError."""
    return _Writer(whole=True, overlay=False).write(root)


def write_everything(root: Path) -> Iterator[bytes]:
    """A file system as it is shown, which may be in use: as an archive for people, not as a layer. What goes
    while it is written is left out, what becomes shorter is filled with zeros. Raises OSError."""
    return _Writer(overlay=False, layer=False, live=True).write(root)


class Settled:
    """A finished upper directory that becomes a layer: what is on disk is made what the archive says, so that
    reading it again gives the same archive. `hides` says of a path whether lower layers show a directory
    there. `size` is the bytes of its files, once it is written."""

    def __init__(self, directory: Path, hides: Callable[[bytes], bool], epoch: int | None = None) -> None:
        self._directory = directory
        self._writer = _Writer(epoch=epoch, settle=True, hides=hides)

    def write(self) -> Iterator[bytes]:
        return self._writer.write(self._directory)

    @property
    def size(self) -> int:
        return self._writer.bytes


class Copied:
    """An upper directory that stays where it is, and may be in use, as a layer. Paths in `omit` are left out.
    `hides` as for Settled. `bare`, once it is written: there was nothing in it."""

    def __init__(self, directory: Path, hides: Callable[[bytes], bool], omit: Collection[bytes]) -> None:
        self._directory = directory
        self._writer = _Writer(hides=hides, live=True, omit=omit)

    def write(self) -> Iterator[bytes]:
        return self._writer.write(self._directory)

    @property
    def bare(self) -> bool:
        return self._writer.count == 1


class _Frame:
    """A directory that is being written: `prefix` is what the names in it are preceded by."""

    __slots__ = ("entries", "fd", "prefix", "status")

    def __init__(self, fd: int, prefix: bytes) -> None:
        self.fd, self.prefix = fd, prefix
        self.status = os.fstat(fd)
        self.entries: Iterator[tuple[bytes, os.DirEntry[str]]] = iter(())


class _Writer:
    """Writes one archive. `overlay`: whiteouts and opaque directories are changes, and not refused. `whole`:
    times are whole seconds. `settle`: change the directory into what is written of it. `live`: others write
    in it. `layer`: names that mean whiteouts are refused."""

    def __init__(
        self,
        *,
        epoch: int | None = None,
        whole: bool = False,
        overlay: bool = True,
        settle: bool = False,
        hides: Callable[[bytes], bool] | None = None,
        live: bool = False,
        layer: bool = True,
        omit: Collection[bytes] = (),
    ) -> None:
        self._live, self._reserved, self._omit = live, _WHITEOUT if layer else b"\0", omit
        self._latest = None if epoch is None else epoch * NANO
        self._whole, self._overlay, self._settle, self._hides = whole, overlay, settle, hides
        self._seen: dict[tuple[int, int], bytes] = {}
        self._out: list[bytes] = []
        self._held = 0  # bytes in _out
        self.bytes = self.count = 0

    def write(self, root: Path) -> Iterator[bytes]:
        stack = [_Frame(os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), b"")]
        try:
            self._enter(stack[0], b"./")
            while stack:
                frame = stack[-1]
                inner = None
                for name, entry in frame.entries:
                    path = frame.prefix + name
                    if name.startswith(self._reserved):
                        raise Unwritable(f"the name {show(path)} is reserved for whiteouts")
                    if path in self._omit:
                        continue
                    try:
                        if entry.is_file(follow_symlinks=False):
                            rest = self._file(name, frame.fd, path)
                            if rest is not None:
                                yield from rest
                        elif entry.is_dir(follow_symlinks=False):
                            inner = _Frame(open_unmarked(name, frame.fd, OPEN_DIRECTORY), path + b"/")
                            stack.append(inner)
                            self._enter(inner, inner.prefix)
                            break
                        else:
                            self._special(name, frame.fd, path)
                    except (FileNotFoundError, NotADirectoryError, Gone):
                        if not self._live:
                            raise
                    if self._held >= PIECE:
                        yield self._flush()
                if inner is None:
                    self._leave(stack.pop())
                elif len(stack) > MAX_DEPTH:
                    raise Unwritable(f"{show(inner.prefix)} has more than {MAX_DEPTH} directories above it")
        finally:
            for frame in stack:
                os.close(frame.fd)
        self._put(END)
        yield self._flush()

    def _put(self, data: bytes) -> None:
        self._out.append(data)
        self._held += len(data)

    def _flush(self) -> bytes:
        data = b"".join(self._out)
        self._out.clear()
        self._held = 0
        return data

    # ------------------------------------------------------------ entries

    def _enter(self, frame: _Frame, path: bytes) -> None:
        """The directory's own entries."""
        fd = frame.fd
        names = list_xattrs(fd)
        xattrs = _xattrs(fd, names, path) if names else None
        self._header(path, DIRECTORY, frame.status, xattrs=xattrs)
        if OPAQUE in names and os.getxattr(fd, OPAQUE) == b"y":
            if not self._overlay:
                raise Unwritable(f"{show(path)} is an opaque directory of overlayfs")
            if self._hides is None or self._hides(frame.prefix[:-1]):
                self._put(header(frame.prefix + _OPAQUE_MARK, FILE, mode=0o600))
            elif self._settle:
                os.removexattr(fd, OPAQUE)
        with os.scandir(fd) as found:
            frame.entries = iter(sorted(((os.fsencode(entry.name), entry) for entry in found), key=_name))

    def _leave(self, frame: _Frame) -> None:
        try:
            if self._settle:
                self._set_time(frame.fd, frame.status)
        finally:
            os.close(frame.fd)

    def _file(self, name: bytes, where: int, path: bytes) -> Iterator[bytes] | None:
        """A small file is written at once; of a large one the rest is returned."""
        fd = open_regular(name, where, path) if self._live else open_unmarked(name, where, _OPEN)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise Gone(_changed(path))
            if status.st_nlink > 1 and self._linked(path, status):
                return None
            names = list_xattrs(fd)
            size = status.st_size
            self._header(path, FILE, status, size=size, xattrs=_xattrs(fd, names, path) if names else None)
            self.bytes += size
            if size > PIECE:
                rest, fd = self._large(fd, size, path, status), -1
                return rest
            if size:
                data = os.read(fd, size)
                if len(data) != size:
                    data += self._missing(size - len(data), path)
                self._put(data)
                if size % BLOCK:
                    self._put(padding(size))
            if self._latest is not None and self._settle:
                self._set_time(fd, status)
        finally:
            if fd >= 0:
                os.close(fd)
        return None

    def _large(self, fd: int, size: int, path: bytes, status: os.stat_result) -> Iterator[bytes]:
        try:
            yield self._flush()
            left = size
            while left:
                data = os.read(fd, min(left, PIECE)) or self._missing(min(left, PIECE), path)
                left -= len(data)
                yield data
            self._put(padding(size))
            if self._settle:
                self._set_time(fd, status)
        finally:
            os.close(fd)

    def _missing(self, size: int, path: bytes) -> bytes:
        """What stands for the end of a file that became shorter."""
        if not self._live:
            raise Unwritable(_changed(path))
        return bytes(size)

    def _special(self, name: bytes, where: int, path: bytes) -> None:
        status = os.stat(name, dir_fd=where, follow_symlinks=False)
        kind = SPECIAL.get(stat.S_IFMT(status.st_mode))
        if kind == CHAR and status.st_rdev == 0:
            self._whiteout(name, path)
            return
        if kind is None:
            if not stat.S_ISSOCK(status.st_mode):
                raise Gone(_changed(path))
            if self._settle:
                os.unlink(name, dir_fd=where)
            return
        if status.st_nlink > 1 and self._linked(path, status):
            return
        link = os.readlink(name, dir_fd=where) if kind == SYMLINK else b""
        inside = b"/proc/self/fd/%d/%b" % (where, name)
        names = list_xattrs(inside)
        xattrs = _xattrs(inside, names, path) if names else None
        self._header(path, kind, status, link=link, xattrs=xattrs)
        if self._settle and self._time(status) != status.st_mtime_ns:
            times = (status.st_atime_ns, self._time(status))
            os.utime(name, ns=times, dir_fd=where, follow_symlinks=False)

    def _whiteout(self, name: bytes, path: bytes) -> None:
        """One inode of overlayfs may be all whiteouts: its time says nothing."""
        if not self._overlay:
            raise Unwritable(f"{show(path)} is a whiteout of overlayfs")
        parent = path[: len(path) - len(name)]
        self.count += 1
        self._put(header(parent + _WHITEOUT + name, FILE, mode=0o600))

    def _linked(self, path: bytes, status: os.stat_result) -> bool:
        """Write a link where the file was written under another name."""
        first = self._seen.setdefault((status.st_dev, status.st_ino), path)
        if first == path:
            return False
        self._header(path, LINK, status, link=first)
        return True

    def _header(
        self,
        path: bytes,
        kind: bytes,
        status: os.stat_result,
        *,
        size: int = 0,
        link: bytes = b"",
        xattrs: dict[bytes, bytes] | None = None,
    ) -> None:
        self.count += 1
        self._put(
            header_of(path, kind, status, size=size, mtime=self._time(status), link=link, xattrs=xattrs)
        )

    def _time(self, status: os.stat_result) -> int:
        time = status.st_mtime_ns
        if self._latest is not None and time > self._latest:
            return self._latest
        return time - time % NANO if self._whole else time

    def _set_time(self, fd: int, status: os.stat_result) -> None:
        if self._time(status) != os.fstat(fd).st_mtime_ns:
            os.utime(fd, ns=(status.st_atime_ns, self._time(status)))


def _name(item: tuple[bytes, os.DirEntry[str]]) -> bytes:
    return item[0]


def open_unmarked(name: bytes, where: int, flags: int) -> int:
    """What may be read without leaving a mark (O_NOATIME), else as it can be."""
    try:
        return os.open(name, flags, dir_fd=where)
    except PermissionError:
        return os.open(name, flags & ~os.O_NOATIME, dir_fd=where)


def open_regular(name: bytes, where: int, path: bytes) -> int:
    """In a directory that is in use a device may have taken the file's place: even to open one is to do
    something. Gone."""
    found = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=where)
    try:
        if not stat.S_ISREG(os.fstat(found).st_mode):
            raise Gone(_changed(path))
        return open_unmarked(b"/proc/self/fd/%d" % found, where, _OPEN & ~os.O_NOFOLLOW)
    finally:
        os.close(found)


def list_xattrs(where: int | bytes) -> list[str]:
    try:
        return os.listxattr(where) if isinstance(where, int) else os.listxattr(where, follow_symlinks=False)
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        return []


def _xattrs(where: int | bytes, names: list[str], path: bytes) -> dict[bytes, bytes] | None:
    found: dict[bytes, bytes] = {}
    for name in names:
        if name in _ELSEWHERE:
            what = "is a directory that was renamed" if name.endswith("redirect") else "has its data"
            raise Unwritable(f"{show(path)} {what} in a lower layer (overlayfs wrote {name})")
        if name.startswith(_PRIVATE) or name in HOSTS:
            continue
        if "=" in name:
            raise Unwritable(f"{show(path)} has the attribute {name!r}, whose name no tar can hold")
        if isinstance(where, int):
            found[os.fsencode(name)] = os.getxattr(where, name)
        else:
            found[os.fsencode(name)] = os.getxattr(where, name, follow_symlinks=False)
    return found or None


class Gone(Unwritable):
    """Something else is at the path than its directory said."""


def _changed(path: bytes) -> str:
    return f"{show(path)} changed while it was read"


def show(path: bytes) -> str:
    """Of a path that is longer than people read, the beginning."""
    path = path.rstrip(b"/") or b"/"
    return repr(os.fsdecode(path[:200])) + ("..." if len(path) > 200 else "")
