"""Effects: hear of changes in directories. inotify(7).

Events are queued before the call that caused them returns: whoever reads the queue after hearing of such a
call by another way finds its event there.
"""

from __future__ import annotations

import errno
import os
import struct

from runtime.linux import libc

IN_MODIFY, IN_CLOSE_WRITE, IN_MOVED_FROM = 0x2, 0x8, 0x40
IN_MOVED_TO, IN_CREATE, IN_DELETE, IN_DELETE_SELF, IN_MOVE_SELF = 0x80, 0x100, 0x200, 0x400, 0x800
IN_Q_OVERFLOW, IN_IGNORED, IN_ONLYDIR, IN_ISDIR = 0x4000, 0x8000, 0x01000000, 0x40000000

_EVENT = struct.Struct("iIII")
_SIZE = 65536


def open_inotify() -> int:
    """A close-on-exec descriptor that never blocks. OSError EMFILE at a limit of the user or the process."""
    try:
        return libc.call("inotify_init1", os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
        text = "too many open files, of this process or of inotify (fs.inotify.max_user_instances)"
        raise OSError(error.errno, f"inotify_init1: {text}") from None


def add_watch(fd: int, path: str, mask: int) -> int:
    """The number that events of `path` have. FileNotFoundError, NotADirectoryError (IN_ONLYDIR), OSError
    ENOSPC at the limit fs.inotify.max_user_watches."""
    try:
        return libc.call("inotify_add_watch", fd, libc.path_bytes(path), mask, subject=path)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        text = "inotify_add_watch: no watches are left (fs.inotify.max_user_watches)"
        raise OSError(error.errno, text, path) from None


def is_exhausted(error: OSError) -> bool:
    """There are no instances, descriptors or watches now, and may be later: not the fault of what was asked
    for."""
    return error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.ENOMEM)


def remove_watch(fd: int, number: int) -> None:
    """OSError EINVAL where it went by itself. IN_IGNORED follows."""
    libc.call("inotify_rm_watch", fd, number)


def read_events(fd: int) -> list[tuple[int, int, str]]:
    """(watch, mask, name) of what is queued; empty when nothing is. Number -1 comes with IN_Q_OVERFLOW."""
    try:
        data = os.read(fd, _SIZE)
    except BlockingIOError:
        return []
    found, at = [], 0
    while at < len(data):
        watch, mask, _, size = _EVENT.unpack_from(data, at)
        at += _EVENT.size
        found.append((watch, mask, os.fsdecode(data[at : at + size].rstrip(b"\0"))))
        at += size
    return found
