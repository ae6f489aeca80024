"""Effects: a tar stream becomes the files of a layer, in the root directory of this process.

Nothing in the archive is trusted. Every directory on the way to an entry is opened from its parent without
following links, so that no entry can leave the layer, nor write through a symbolic link inside it. Whiteouts
become what overlayfs reads: character devices 0:0, and trusted.overlay.opaque=y on directories (OCI
image-spec, layer.md).

What needs to know the layers below (hard links into them, whiteouts, directories that no entry describes) is
done at the end: until then they need not be there. Metadata goes on in the order that the kernel demands:
owner, mode (chown clears setuid), xattrs (chown clears security.capability), times; directories get theirs
last, since entries made in them change their times. Standard library only, and little of it.
"""

from __future__ import annotations

import errno
import os
import stat

from runtime.images.lowers import OPAQUE, Found, Lowers
from runtime.images.tarstream import (
    BLOCK_DEVICE,
    CHAR,
    DIRECTORY,
    FIFO,
    FILE,
    LINK,
    SYMLINK,
    Entry,
    Pieces,
    Reader,
    Source,
)

MAX_OPEN = 1000  # directories kept open
MAX_NAME = 4000  # bytes of one path, less than the kernel's PATH_MAX
MAX_DEPTH = 256  # directories above one entry
MAX_ENTRIES = 10_000_000
MAX_REMEMBERED = 300_000  # directories, whiteouts and hard links that wait for the end
MAX_ID = 0xFFFFFFFE

TYPE_CHECKING = False

_WHITEOUT = b".wh."
_OPAQUE_MARK = b".wh..wh..opq"
_AUFS = b".wh..wh."  # aufs' own books; of no meaning here
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_UNCLEAN = (b"", b".", b"/")  # how a name begins that may have to be cleaned
_SPECIAL_BITS = stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX


if TYPE_CHECKING:
    Metadata = tuple[int, int, int, dict[str, bytes] | None, int]  # uid, gid, mode, xattrs, mtime in ns


class Refused(Exception):
    """The archive asks for what no layer may; the text says what."""


class Unpacker:
    """Unpacks one archive into the process's root directory: `take`, then `finish`.

    `exact`: it is no layer, but a tree that must become what it was: no name means a whiteout, and an
    attribute that cannot be kept is Refused. `fds`: an open /proc/self/fd, where others may change names
    meanwhile.
    """

    def __init__(self, *, exact: bool = False, fds: int = -1) -> None:
        self._exact, self._fds = exact, fds
        self._lowers: Lowers | None = None
        self._open = {b"": os.open("/", _OPEN_DIRECTORY)}
        self._directories: dict[bytes, Metadata | None] = {b"": None}  # made by this layer; None: implied
        self._whiteouts: dict[bytes, None] = {}
        self._opaque: dict[bytes, None] = {}
        self._links: dict[bytes, bytes] = {}  # whose target has not come yet
        self._name: bytes | None = None
        self.count = self.bytes = 0

    def take(self, reader: Reader) -> None:
        """Make what can be made without knowing the layers below."""
        source = reader.source
        for entry in reader:
            self._name = entry.name
            self.count += 1
            if not self.count & 1023:
                self._keep_limits()
            self._take(entry, source)
        self._keep_limits()

    def finish(self, lowers: Lowers | None = None) -> None:
        """Make the rest, with the layers below, if there are any."""
        self._lowers = lowers
        self._finish_links()
        self._finish_whiteouts()
        self._finish_directories()

    @property
    def entry(self) -> bytes:
        """What is being made, for the one who says what went wrong with it."""
        return b"" if self._name is None else self._name.rstrip(b"/") or b"."

    def _keep_limits(self) -> None:
        if self.count > MAX_ENTRIES:
            raise Refused(f"the archive has more than {MAX_ENTRIES} entries")
        remembered = len(self._directories) + len(self._whiteouts) + len(self._links)
        if remembered > MAX_REMEMBERED and not self._exact:
            what = "directories, whiteouts and hard links to what is not there yet"
            raise Refused(f"the archive has more than {MAX_REMEMBERED} {what}")

    # ------------------------------------------------------------ entries

    def _take(self, entry: Entry, source: Source | Pieces) -> None:
        if len(self._open) > MAX_OPEN:
            self._trim()
        path = clean(entry.name)
        parent, _, name = path.rpartition(b"/")
        if b".wh." in path and not self._exact and self._take_mark(path, parent, name):
            return
        if self._links:
            self._links.pop(path, None)
        kind = entry.kind
        if not (0 <= entry.uid <= MAX_ID and 0 <= entry.gid <= MAX_ID):
            raise Refused(f"owner {entry.uid}:{entry.gid} is out of range")
        if kind == DIRECTORY or not path:
            if kind != DIRECTORY:
                raise Refused("the root of a layer is a directory")
            self._make_directory(path, parent, name, entry)
            return
        where = self._open.get(parent)
        if where is None:
            where = self._directory(parent)
        if kind == FILE:
            self._make_file(path, where, name, entry, source)
        elif kind == LINK:
            self._make_link(path, where, name, entry)
        else:
            self._make_special(path, where, name, entry)

    def _take_mark(self, path: bytes, parent: bytes, name: bytes) -> bool:
        """Note a whiteout for the end: it concerns lower layers only, whatever comes later in this one."""
        parts = path.split(b"/")
        if any(part.startswith(_AUFS) and part != _OPAQUE_MARK for part in parts):
            return True
        if any(part.startswith(_WHITEOUT) for part in parts[:-1]):
            raise Refused("a whiteout is not a directory")
        if name == _OPAQUE_MARK:
            self._directory(parent)
            self._opaque[parent] = None
            return True
        if not name.startswith(_WHITEOUT):
            return False
        hidden = name[len(_WHITEOUT) :]
        if hidden in (b"", b".", b".."):
            raise Refused("the whiteout names nothing")
        self._whiteouts[parent + b"/" + hidden if parent else hidden] = None
        return True

    def _make_directory(self, path: bytes, parent: bytes, name: bytes, entry: Entry) -> None:
        if path not in self._directories:
            where = self._directory(parent)
            try:
                os.mkdir(name, 0o700, dir_fd=where)
            except FileExistsError:
                self._remove(path, where, name)
                self._opaque[path] = None  # what was removed had hidden a lower directory
                os.mkdir(name, 0o700, dir_fd=where)
        self._directories[path] = (entry.uid, entry.gid, entry.mode, entry.xattrs, entry.mtime)

    def _make_file(self, path: bytes, where: int, name: bytes, entry: Entry, source: Source | Pieces) -> None:
        mode = entry.mode & 0o7777
        try:
            fd = os.open(name, _CREATE, mode & 0o777, dir_fd=where)
        except FileExistsError:
            self._remove(path, where, name)
            fd = os.open(name, _CREATE, mode & 0o777, dir_fd=where)
        try:
            if entry.sparse is not None:
                for offset, length in entry.sparse:
                    os.lseek(fd, offset, os.SEEK_SET)
                    source.copy(fd, length)
                os.ftruncate(fd, entry.size)
            elif entry.size:
                source.copy(fd, entry.size)
            if entry.uid or entry.gid:
                os.fchown(fd, entry.uid, entry.gid)
            if mode & _SPECIAL_BITS:
                os.fchmod(fd, mode)
            if entry.xattrs:
                _set_xattrs(fd, entry.xattrs, self._exact)
            os.utime(fd, ns=_times(entry.mtime))
        finally:
            os.close(fd)
        self.bytes += entry.size

    def _make_link(self, path: bytes, where: int, name: bytes, entry: Entry) -> None:
        target = clean(entry.link, "the hard link's target")
        if target == path:
            raise Refused("the hard link points at itself")
        self._remove(path, where, name)
        if not self._link(target, where, name):
            self._links[path] = target

    def _link(self, target: bytes, where: int, name: bytes) -> bool:
        """False: `target` is not in this layer."""
        parent, _, target_name = target.rpartition(b"/")
        source = self._find_directory(parent)
        if source is None or target in self._links:
            return False
        if target in self._directories:
            raise Refused(f"the hard link points at the directory {show(target)}")
        try:
            os.link(target_name, name, src_dir_fd=source, dst_dir_fd=where, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def _make_special(self, path: bytes, where: int, name: bytes, entry: Entry) -> None:
        self._remove(path, where, name)
        kind, mode = entry.kind, entry.mode & 0o7777
        if kind == SYMLINK:
            os.symlink(entry.link, name, dir_fd=where)
        elif kind == FIFO:
            os.mknod(name, stat.S_IFIFO | mode, dir_fd=where)
        elif kind in (CHAR, BLOCK_DEVICE):
            if kind == CHAR and entry.major == entry.minor == 0 and not self._exact:
                raise Refused("the device 0:0 is overlayfs' mark for a removed file")
            form = stat.S_IFCHR if kind == CHAR else stat.S_IFBLK
            os.mknod(name, form | mode, os.makedev(entry.major, entry.minor), dir_fd=where)
        if entry.uid or entry.gid:
            os.chown(name, entry.uid, entry.gid, dir_fd=where, follow_symlinks=False)
            if kind != SYMLINK and mode & _SPECIAL_BITS:
                self._chmod(where, name, mode)
        if entry.xattrs:
            os.fchdir(where)
            _set_xattrs(name, entry.xattrs, self._exact)
            os.chdir("/")
        os.utime(name, ns=_times(entry.mtime), dir_fd=where, follow_symlinks=False)

    def _chmod(self, where: int, name: bytes, mode: int) -> None:
        """Never what a link leads to: fchmodat(2) itself follows it."""
        if self._fds < 0:
            os.chmod(name, mode, dir_fd=where)
            return
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=where)
        try:
            os.chmod(b"%d" % fd, mode, dir_fd=self._fds)
        finally:
            os.close(fd)

    # ------------------------------------------------------------ directories

    def _directory(self, path: bytes) -> int:
        """The open directory at `path`; missing parents are made, to get their metadata at the end."""
        fd = self._find_directory(path, make=True)
        if fd is None:  # somebody else removes what is made here
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return fd

    def _find_directory(self, path: bytes, make: bool = False) -> int | None:
        fd = self._open.get(path)
        if fd is not None:
            return fd
        known, names = path, []
        while known not in self._open:
            known, _, name = known.rpartition(b"/")
            names.append(name)
        fd = self._open[known]
        while names:
            name = names.pop()
            known = known + b"/" + name if known else name
            try:
                fd = self._enter(known, fd, name, make)
            except FileNotFoundError:
                return None
        return fd

    def _enter(self, path: bytes, parent: int, name: bytes, make: bool) -> int:
        try:
            fd = os.open(name, _OPEN_DIRECTORY, dir_fd=parent)
        except FileNotFoundError:
            if not make:
                raise
            os.mkdir(name, 0o700, dir_fd=parent)
            self._links.pop(path, None)
            self._directories[path] = None
            fd = os.open(name, _OPEN_DIRECTORY, dir_fd=parent)
        except OSError as error:
            if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
            what = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "not a directory"
            raise Refused(f"its parent {show(path)} is {what}") from None
        self._open[path] = fd
        return fd

    def _trim(self) -> None:
        """Close what was opened first; descriptors that a caller still holds are never trimmed under it."""
        while len(self._open) > MAX_OPEN:
            oldest = next(key for key in self._open if key)
            os.close(self._open.pop(oldest))

    def _remove(self, path: bytes, where: int, name: bytes) -> None:
        """Make room at `path`, whatever this layer put there before."""
        try:
            os.unlink(name, dir_fd=where)
            return
        except FileNotFoundError:
            return
        except (IsADirectoryError, PermissionError):
            pass
        _remove_tree(where, name)
        below = path + b"/"
        for table in (self._directories, self._opaque, self._links):
            for key in [key for key in table if key == path or key.startswith(below)]:
                del table[key]
        for key in [key for key in self._open if key == path or key.startswith(below)]:
            os.close(self._open.pop(key))

    # ------------------------------------------------------------ the end

    def _finish_links(self) -> None:
        """Hard links that came before their target, or whose target a lower layer has."""
        while self._links:
            ready = [(path, target) for path, target in self._links.items() if target not in self._links]
            if not ready:
                self._name = next(iter(self._links))
                raise Refused("hard links point at each other")
            for path, target in ready:
                self._name = path
                self._trim()
                parent, _, name = path.rpartition(b"/")
                if self._links.get(path) != target:
                    continue
                if self._link(target, self._directory(parent), name):
                    del self._links[path]
                else:
                    self._copy_up(path, target)

    def _copy_up(self, path: bytes, target: bytes) -> None:
        """`path` becomes a copy of the lower layers' `target`; further links to it link to the copy."""
        found = self._lowers.lookup(target) if self._lowers else None
        if found is None:
            raise Refused(f"the hard link's target {show(target)} does not exist")
        if not stat.S_ISREG(found.status.st_mode) and not stat.S_ISLNK(found.status.st_mode):
            raise Refused(f"the hard link's target {show(target)} is not a file")
        parent, _, name = path.rpartition(b"/")
        where = self._directory(parent)
        _copy(found, where, name)
        self.bytes += found.status.st_size
        for other in [key for key, value in self._links.items() if value == target and key != path]:
            self._links[other] = path
        del self._links[path]

    def _finish_whiteouts(self) -> None:
        if not self._lowers:
            self._opaque.clear()
            return
        if self._opaque.pop(b"", 0) is None:  # overlayfs merges roots whatever they are marked with
            self._whiteouts.update(dict.fromkeys(sorted(self._lowers.root_names())))
        hidden = [path for path in self._whiteouts if path not in self._directories]
        self._opaque.update((path, None) for path in self._whiteouts if path in self._directories)
        for path in hidden:
            self._name = path
            self._trim()
            if not self._is_under_opaque(path) and self._lowers.lookup(path) is not None:
                self._white_out(path)

    def _is_under_opaque(self, path: bytes) -> bool:
        parent = path.rpartition(b"/")[0]
        while parent:
            if parent in self._opaque or parent in self._whiteouts:
                return True
            parent = parent.rpartition(b"/")[0]
        return False

    def _white_out(self, path: bytes) -> None:
        parent, _, name = path.rpartition(b"/")
        try:
            where = self._directory(parent)
        except Refused:
            return  # in place of a parent this layer has something else, which hides all of it
        try:
            os.mknod(name, stat.S_IFCHR, os.makedev(0, 0), dir_fd=where)
            os.utime(name, ns=(0, 0), dir_fd=where)
        except FileExistsError:
            pass  # this layer has a file of that name, which is not concerned

    def _finish_directories(self) -> None:
        for path in sorted(self._directories, reverse=True):
            metadata = self._directories[path]
            self._name = path or b"."
            fd = self._again(path)
            try:
                if metadata is None:
                    self._imply(path, fd)
                else:
                    _set_metadata(fd, *metadata, exact=self._exact)
                if path in self._opaque:
                    os.setxattr(fd, OPAQUE, b"y")
            finally:
                os.close(fd)

    def _again(self, path: bytes) -> int:
        """The directory, which the caller closes. What is `exact` may be in others' hands, too: step by step,
        so that a link in the place of a parent is not followed, nor its `..` out of what was moved away."""
        if not self._exact:
            return os.open(b"/" + path, _OPEN_DIRECTORY)
        self._trim()
        return os.dup(self._directory(path))

    def _imply(self, path: bytes, fd: int) -> None:
        """A directory that no entry describes is as in the lower layers, else root's and 0755."""
        removed = path in self._opaque or self._is_under_opaque(path)
        found = self._lowers.lookup(path) if self._lowers and not removed else None
        if found is None:
            _set_metadata(fd, 0, 0, 0o755, None, 0)
            return
        status = found.status
        if not stat.S_ISDIR(status.st_mode):
            what = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "not a directory"
            raise Refused(f"it is used as a directory, but {what} in a lower layer")
        lower = os.open(found.name, _OPEN_DIRECTORY, dir_fd=found.fd)
        try:
            _set_metadata(
                fd, status.st_uid, status.st_gid, status.st_mode, _xattrs(lower), status.st_mtime_ns
            )
        finally:
            os.close(lower)


# ---------------------------------------------------------------- one system call each


def clean(name: bytes, what: str = "its name") -> bytes:
    """A path relative to the layer's root, without `.`, `//` and leading `/`; `..` is Refused."""
    if (
        b"/." not in name
        and b"//" not in name
        and name[:1] not in _UNCLEAN
        and name[-1:] != b"/"
        and b"\0" not in name
        and len(name) <= MAX_DEPTH
    ):
        return name  # most are so
    if len(name) > MAX_NAME:
        raise Refused(f"{what} has more than {MAX_NAME} bytes")
    if b"\0" in name:
        raise Refused(f"{what} has a NUL byte")
    parts = [part for part in name.split(b"/") if part and part != b"."]
    if b".." in parts:
        raise Refused(f"{what} {show(name)} has a '..'")
    if len(parts) > MAX_DEPTH:
        raise Refused(f"{what} has more than {MAX_DEPTH} parts")
    return b"/".join(parts)


def show(path: bytes) -> str:
    return repr(path[:200].decode("utf-8", "backslashreplace"))


def _times(mtime: int) -> tuple[int, int]:
    mtime = max(-(1 << 31) * 1_000_000_000, min(mtime, (1 << 34) * 1_000_000_000))
    return mtime, mtime


def _set_metadata(
    fd: int,
    uid: int,
    gid: int,
    mode: int,
    xattrs: dict[str, bytes] | None,
    mtime: int,
    *,
    exact: bool = False,
) -> None:
    if uid or gid:
        os.fchown(fd, uid, gid)
    os.fchmod(fd, mode & 0o7777)
    if xattrs:
        _set_xattrs(fd, xattrs, exact)
    os.utime(fd, ns=_times(mtime))


def _set_xattrs(where: int | bytes, xattrs: dict[str, bytes], exact: bool) -> None:
    """Of a layer: trusted.overlay.* would change what overlayfs shows; what the file system cannot keep is
    left out."""
    for key, value in xattrs.items():
        if key.startswith(("trusted.overlay.", "user.overlay.")) and not exact:
            continue
        try:
            if isinstance(where, int):
                os.setxattr(where, key, value)
            else:
                os.setxattr(where, key, value, follow_symlinks=False)
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.EPERM):
                raise
            if exact:
                raise Refused(f"this file system cannot keep its attribute {key}") from None


def _xattrs(fd: int) -> dict[str, bytes]:
    return {key: os.getxattr(fd, key) for key in os.listxattr(fd)}


def _copy(found: Found, where: int, name: bytes) -> None:
    """A regular file or symbolic link of a lower layer, with all its metadata."""
    status = found.status
    times = (status.st_mtime_ns, status.st_mtime_ns)
    if stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(found.name, dir_fd=found.fd), name, dir_fd=where)
        os.chown(name, status.st_uid, status.st_gid, dir_fd=where, follow_symlinks=False)
        os.utime(name, ns=times, dir_fd=where, follow_symlinks=False)
        return
    source = os.open(found.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=found.fd)
    target = os.open(name, _CREATE, 0o600, dir_fd=where)
    try:
        while os.sendfile(target, source, None, 1 << 30):
            pass
        _set_metadata(
            target, status.st_uid, status.st_gid, status.st_mode, _xattrs(source), status.st_mtime_ns
        )
    finally:
        os.close(source)
        os.close(target)


def _remove_tree(where: int, name: bytes) -> None:
    """Remove a directory with all that is in it; nothing is followed, and no depth is too deep."""
    fds = [(where, name, os.open(name, _OPEN_DIRECTORY, dir_fd=where))]
    while fds:
        parent, own, fd = fds[-1]
        inner = b""
        for item in os.listdir(fd):
            raw = os.fsencode(item)
            try:
                os.unlink(raw, dir_fd=fd)
            except (IsADirectoryError, PermissionError):
                inner = raw
        if inner:
            fds.append((fd, inner, os.open(inner, _OPEN_DIRECTORY, dir_fd=fd)))
        else:
            os.close(fd)
            os.rmdir(own, dir_fd=parent)
            fds.pop()
