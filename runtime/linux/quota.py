"""Effects: project quotas: how much the files below one directory may have together.

A directory's project is an attribute that what is made in it inherits: ioctl_xfs_fsgetxattr(2). Limits are
set by quotactl_fd(2) (Linux 5.14), which needs no path of the device. ext4 and xfs have them where they are
mounted with `prjquota`.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import stat
import struct

from runtime.linux import libc

_GET, _SET = 0x801C581F, 0x401C5820  # FS_IOC_FSGETXATTR, FS_IOC_FSSETXATTR
_XATTR = struct.Struct("=5I8s")  # xflags, extsize, nextents, projid, cowextsize
_INHERIT = 0x200  # FS_XFLAG_PROJINHERIT
_PROJECT = 2  # PRJQUOTA
_Q_GET, _Q_SET = 0x800007, 0x800008
_BLOCK = 1024  # bytes of a block in limits (quotactl(2))
_LIMITS = 1  # QIF_BLIMITS


class _Quota(ctypes.Structure):
    """struct if_dqblk of quotactl(2)."""

    _fields_ = (
        ("hard_blocks", ctypes.c_uint64),
        ("soft_blocks", ctypes.c_uint64),
        ("space", ctypes.c_uint64),
        ("hard_inodes", ctypes.c_uint64),
        ("soft_inodes", ctypes.c_uint64),
        ("inodes", ctypes.c_uint64),
        ("block_time", ctypes.c_uint64),
        ("inode_time", ctypes.c_uint64),
        ("valid", ctypes.c_uint32),
    )


def project_of(fd: int) -> int:
    """The project of an open directory; 0: none. OSError where the file system has no projects."""
    return int(_attributes(fd)[3])


def set_project(fd: int, project: int) -> None:
    """An open file or directory belongs to `project`, and what is made in the directory from now on."""
    flags, extent, count, _, cow, rest = _attributes(fd)
    if stat.S_ISDIR(os.fstat(fd).st_mode):  # a file takes no such flag
        flags = flags | _INHERIT if project else flags & ~_INHERIT
    fcntl.ioctl(fd, _SET, _XATTR.pack(flags, extent, count, project, cow, rest))


def _attributes(fd: int) -> tuple[int, int, int, int, int, bytes]:
    raw = bytearray(_XATTR.size)
    fcntl.ioctl(fd, _GET, raw, True)
    flags, extent, count, project, cow, rest = _XATTR.unpack(raw)
    return flags, extent, count, project, cow, rest


def set_limit(fd: int, project: int, size: int) -> None:
    """At most `size` bytes for `project`; 0: no limit. OSError where the file system has no quotas."""
    blocks = -(-size // _BLOCK)
    quota = _Quota(hard_blocks=blocks, soft_blocks=blocks, valid=_LIMITS)
    _call(_Q_SET, fd, project, quota)


def usage(fd: int, project: int) -> tuple[int, int]:
    """(bytes that the project has, its limit in bytes or 0)"""
    quota = _Quota()
    _call(_Q_GET, fd, project, quota)
    return quota.space, quota.hard_blocks * _BLOCK


def _call(command: int, fd: int, project: int, quota: _Quota) -> None:
    libc.syscall(
        "quotactl_fd", fd, command << 8 | _PROJECT, project, ctypes.byref(quota), subject="project quota"
    )


def open_directory(path: str | os.PathLike[str]) -> int:
    """For the calls above; the caller closes it."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
