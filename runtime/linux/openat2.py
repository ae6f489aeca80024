"""Effects: opening paths inside a container's root, so that no link of the container leads out of it.

openat2(2) with RESOLVE_IN_ROOT: absolute links and `..` are taken as in a chroot.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat

from runtime.linux import libc

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10
_MAX_TRIES = 10
#: Links to nothing followed in one path, as many as the kernel follows: path_resolution(7).
_MAX_LINKS = 40


class OpenHow(ctypes.Structure):
    """struct open_how of openat2(2)."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def open_in_root(rootfd: int, path: str, flags: int, mode: int = 0) -> int:
    """Open `path` as if `rootfd` were the root directory. Magic links of /proc are never followed."""
    return _open(rootfd, path, flags, mode, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)


def open_beneath(fd: int, path: str, flags: int) -> int:
    """Open what is below the directory `fd`, by no link and within its mount: OSError ELOOP, EXDEV."""
    return _open(fd, path, flags, 0, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV)


def _open(rootfd: int, path: str, flags: int, mode: int, resolve: int) -> int:
    how = OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    for attempt in range(_MAX_TRIES):
        try:
            return libc.syscall(
                "openat2", rootfd, os.fsencode(path), ctypes.byref(how), ctypes.sizeof(how), subject=path
            )
        except BlockingIOError:  # a rename meanwhile: the kernel asks for another try
            if attempt == _MAX_TRIES - 1:
                raise
    raise AssertionError


def make_directory(rootfd: int, path: str, mode: int = 0o755, *, links: int = _MAX_LINKS) -> int:
    """An O_PATH descriptor of the directory `path`, made with its parents where it is missing. A link to
    nothing is followed: what it names is made. It may name as many directories as a path has room for."""
    path = "/" + path.strip("/")
    missing: list[str] = []  # the last one first
    while (fd := _directory(rootfd, path)) < 0:
        above, _, name = path.rpartition("/")
        path = above or "/"
        missing.append(name)
    for name in reversed(missing):
        path = f"{path.rstrip('/')}/{name}"
        try:
            inner = _make(rootfd, fd, path, mode, links)
        finally:
            os.close(fd)
        fd = inner
    return fd


def _directory(rootfd: int, path: str) -> int:
    """-1: there is nothing."""
    try:
        return open_in_root(rootfd, path, os.O_PATH | os.O_DIRECTORY)
    except FileNotFoundError:
        if path == "/":
            raise
        return -1


def _make(rootfd: int, parent: int, path: str, mode: int, links: int) -> int:
    """An O_PATH descriptor of the directory `path`, which is to be made in the open directory `parent`."""
    name = path.rpartition("/")[2]
    try:
        os.mkdir(name, mode, dir_fd=parent)
    except FileExistsError:
        # made by somebody meanwhile, or a link to nothing
        if stat.S_ISLNK(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            return make_directory(rootfd, _pointed(parent, path, links), mode, links=links - 1)
    return open_in_root(rootfd, path, os.O_PATH | os.O_DIRECTORY)


def _pointed(parent: int, path: str, links: int) -> str:
    """Where the link to nothing at `path`, in the open directory `parent`, leads to within the root."""
    if links <= 0:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
    above, _, name = path.rstrip("/").rpartition("/")
    target = os.readlink(name, dir_fd=parent)
    return target if target.startswith("/") else f"{above}/{target}"


def make_target(rootfd: int, path: str, *, directory: bool, links: int = _MAX_LINKS) -> int:
    """A descriptor of a mount's destination, made (as an empty file or directory) when missing, also at the
    end of a link to nothing: images have /etc/resolv.conf as a link into /run."""
    if directory:
        return make_directory(rootfd, path)
    try:
        return open_in_root(rootfd, path, os.O_PATH)
    except FileNotFoundError:
        parent, _, name = path.rstrip("/").rpartition("/")
        fd = make_directory(rootfd, parent)
        try:
            return os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=fd)
        except FileExistsError:
            return make_target(rootfd, _pointed(fd, path, links), directory=False, links=links - 1)
        finally:
            os.close(fd)


def is_directory(fd: int) -> bool:
    return stat.S_ISDIR(os.fstat(fd).st_mode)
