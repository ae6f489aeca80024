"""Effects: reading files of ours that a damaged file system, or a person, may have made something else of."""

from __future__ import annotations

import errno
import os
import stat

NOT_REGULAR = "it is not a regular file"


def open_regular(path: str | os.PathLike[str], *, follow: bool = False) -> int:
    """A descriptor to read from. Nothing is waited for, as a FIFO would make it, and no link is followed at
    the end of the path, except with `follow`. OSError EINVAL for what is no regular file."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(path, flags if follow else flags | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO):  # a link; a socket
            raise
        raise OSError(errno.EINVAL, NOT_REGULAR, os.fspath(path)) from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, NOT_REGULAR, os.fspath(path))
    return fd


def read_regular(path: str | os.PathLike[str]) -> bytes:
    """All of it. As `open_regular`."""
    with open(open_regular(path), "rb") as file:
        return file.read()
