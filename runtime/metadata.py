"""Effects: what is known of a file beside its content goes with it."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def copy_metadata(source: Path, to: Path, status: os.stat_result) -> None:
    """Owner first, since chown clears setuid and capabilities. `source` may be a link of /proc/self/fd.
    Should `to` have become a link, that is what is changed, and not what it leads to."""
    fd = os.open(to, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        give_metadata(source, fd, status)
    finally:
        os.close(fd)


def give_metadata(source: Path, fd: int, status: os.stat_result) -> None:
    """As `copy_metadata`, to what the descriptor `fd` is of, also of a link."""
    to = f"/proc/self/fd/{fd}"  # where it leads is not followed further
    os.chown(to, status.st_uid, status.st_gid)
    if not stat.S_ISLNK(status.st_mode):
        os.chmod(to, stat.S_IMODE(status.st_mode))
    follow = stat.S_ISDIR(status.st_mode)  # the only case in which `source` is such a link
    for name in os.listxattr(source, follow_symlinks=follow):
        if not name.startswith("trusted.overlay."):
            try:
                os.setxattr(to, name, os.getxattr(source, name, follow_symlinks=follow))
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP:
                    raise
    os.utime(to, ns=(status.st_atime_ns, status.st_mtime_ns))
