"""Effects: copy-up: a volume that is empty at its first use gets what the image has at that path.

The content is copied aside completely (`_copy`), named `_copied`, then moved entry by entry into the volume:
a crash at any point is either forgotten or finished, and the volume's directory keeps its inode while others
have it mounted. The two lie beside the volume's directory; in it, where that is a file system of its own.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from runtime.linux import openat2, trees
from runtime.metadata import give_metadata
from runtime.volumes.copying import copy_tree, sync

#: What mkfs leaves at the root of a file system.
_FOUND = "lost+found"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def fill(data: Path, rootfs: Path, target: str, *, mounted: bool) -> bool:
    """Copy the directory `target` within `rootfs` into the volume `data`, if that is empty or a copy was
    begun. False when nothing was there to be copied, so that another user may fill it later."""
    parent, mark = (data, ".stead") if mounted else (data.parent, "")
    copying, copied = parent / f"{mark}_copy", parent / f"{mark}_copied"
    trees.discard(copying)
    whole = _open_copy(copied)
    if whole is None:
        if not is_empty(data, mounted=mounted):
            return True
        try:
            if not _copy_from_image(rootfs, target, copying):
                return False
        except BaseException:
            trees.remove(copying, ignore_errors=True)  # a disk may be full of it
            raise
        os.rename(copying, copied)
        whole = os.open(copied, _DIRECTORY)
    try:
        status = os.fstat(whole)  # its time is that of the image, until something is moved out of it
        _take(whole, data, status, mounted=mounted)
        os.rmdir(copied)
        os.utime(data, ns=(status.st_atime_ns, status.st_mtime_ns))
    finally:
        os.close(whole)
    sync(data)
    return True


def _open_copy(path: Path) -> int | None:
    """The copy that is complete; None where there is none. What is no directory is no copy and goes."""
    try:
        return os.open(path, _DIRECTORY)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
    os.unlink(path)
    return None


def _take(copied: int, data: Path, status: os.stat_result, *, mounted: bool) -> None:
    """Everything in the open directory into the volume, whose own metadata become those of it."""
    to = os.open(data, _DIRECTORY)
    try:
        for entry in os.listdir(copied):
            os.rename(entry, entry, src_dir_fd=copied, dst_dir_fd=to)
        if mounted:
            _drop_found(data)
        give_metadata(Path(f"/proc/self/fd/{copied}"), to, status)
    finally:
        os.close(to)


def is_empty(data: Path, *, mounted: bool) -> bool:
    return set(os.listdir(data)) <= ({_FOUND} if mounted else set())


def _drop_found(data: Path) -> None:
    """Programs expect an empty directory where they keep their data; e2fsck makes it anew if it needs it."""
    try:
        os.rmdir(data / _FOUND)
    except OSError:
        pass  # not there, or something is in it


def _copy_from_image(rootfs: Path, target: str, to: Path) -> bool:
    """Copy the directory `target` within `rootfs` to `to`; False when the image has no directory there."""
    root = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        fd = openat2.open_in_root(root, target.lstrip("/"), flags, 0)
    except (FileNotFoundError, NotADirectoryError):
        return False
    finally:
        os.close(root)
    try:
        copy_tree(Path(f"/proc/self/fd/{fd}"), to, os.fstat(fd))
        sync(to)
    finally:
        os.close(fd)
    return True
