"""Effects: what a directory holds, copied into a new file system that is mounted over it: `tmpcopyup`."""

from __future__ import annotations

import os
import stat

_CHUNK = 1 << 20


def copy(source: int, target: int) -> None:
    """Files, directories, links and nodes of one open directory into another, with owner, mode, extended
    attributes and times. No link is followed; what is mounted below the source comes along as it looks."""
    directory = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=source)
    to = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=target)
    try:
        _directory(directory, to)
    finally:
        os.close(directory)
        os.close(to)


def _directory(source: int, target: int) -> None:
    for name in os.listdir(source):
        found = os.stat(name, dir_fd=source, follow_symlinks=False)
        kind = stat.S_IFMT(found.st_mode)
        if kind == stat.S_IFLNK:
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
            os.chown(name, found.st_uid, found.st_gid, dir_fd=target, follow_symlinks=False)
            continue
        if kind == stat.S_IFDIR:
            os.mkdir(name, 0o700, dir_fd=target)
        elif kind != stat.S_IFREG:
            os.mknod(name, found.st_mode, found.st_rdev, dir_fd=target)
            os.chown(name, found.st_uid, found.st_gid, dir_fd=target, follow_symlinks=False)
            os.chmod(name, stat.S_IMODE(found.st_mode), dir_fd=target)
            continue
        _contents(source, target, name, found, directory=kind == stat.S_IFDIR)


def _contents(source: int, target: int, name: str, found: os.stat_result, *, directory: bool) -> None:
    kind = os.O_DIRECTORY if directory else 0
    old = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | kind, dir_fd=source)
    making = os.O_RDONLY if directory else os.O_WRONLY | os.O_CREAT | os.O_EXCL
    new = os.open(name, making | os.O_NOFOLLOW | os.O_CLOEXEC | kind, 0o600, dir_fd=target)
    try:
        if directory:
            _directory(old, new)
        else:
            while chunk := os.read(old, _CHUNK):
                while chunk:
                    chunk = chunk[os.write(new, chunk) :]
        os.fchown(new, found.st_uid, found.st_gid)
        os.fchmod(new, stat.S_IMODE(found.st_mode))
        for attribute in os.listxattr(old):
            try:
                os.setxattr(new, attribute, os.getxattr(old, attribute))
            except OSError:  # tmpfs has no user attributes before Linux 6.6
                continue
        os.utime(new, ns=(found.st_atime_ns, found.st_mtime_ns))
    finally:
        os.close(old)
        os.close(new)
