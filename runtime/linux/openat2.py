"""Effects: paths inside another root, opened so that nothing in it leads out: openat2(2), RESOLVE_IN_ROOT."""

from __future__ import annotations

import ctypes
import errno
import os

from runtime.linux import libc

RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_IN_ROOT = 0x10
O_PATH = os.O_PATH | os.O_CLOEXEC


class _How(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def open_in_root(rootfd: int, path: str | os.PathLike[str], flags: int, mode: int = 0) -> int:
    """Open `path` as if `rootfd` were "/": links and ".." stay below it. Close-on-exec."""
    text = os.fspath(path)
    how = _How(flags | os.O_CLOEXEC, mode, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
    name = os.fsencode(text) or b"."
    while True:
        try:
            return libc.syscall("openat2", rootfd, name, ctypes.byref(how), ctypes.sizeof(how), subject=text)
        except OSError as error:
            if error.errno != errno.EAGAIN:  # a rename raced with the walk
                raise


def make_directories(rootfd: int, path: str, mode: int = 0o755) -> int:
    """An O_PATH descriptor of the directory `path` below the root, made with its parents where missing."""
    try:
        return open_in_root(rootfd, path, O_PATH | os.O_DIRECTORY)
    except FileNotFoundError:
        pass
    parent, name = os.path.split(path.rstrip("/"))
    if name in ("", ".", ".."):
        raise OSError(errno.ENOENT, "make directory", path)
    above = make_directories(rootfd, parent or "/", mode)
    try:
        try:
            os.mkdir(name, mode, dir_fd=above)
        except FileExistsError:  # a dangling link: its target is not ours to make
            pass
    finally:
        os.close(above)
    return open_in_root(rootfd, path, O_PATH | os.O_DIRECTORY)


def make_file(rootfd: int, path: str, mode: int = 0o644) -> int:
    """An O_PATH descriptor of `path`, an empty regular file where nothing was there."""
    try:
        return open_in_root(rootfd, path, O_PATH)
    except FileNotFoundError:
        pass
    parent, name = os.path.split(path)
    above = make_directories(rootfd, parent or "/")
    try:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            os.close(os.open(name, flags, mode, dir_fd=above))
        except FileExistsError:
            pass
    finally:
        os.close(above)
    return open_in_root(rootfd, path, O_PATH)
