"""Effects: mounts, through the new mount API where it gives safety, and the mount table as values.

mount(2), umount2(2), open_tree(2), move_mount(2), fsopen(2), fsconfig(2), fsmount(2), mount_setattr(2),
proc_pid_mountinfo(5). Descriptors returned here are close-on-exec. Targets are never resolved in another
root than the caller's: inside a container's root open them with runtime.linux.openat2 first.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections import namedtuple

from runtime.linux import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NamedTuple

    StrPath = str | os.PathLike[str]

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_SYNCHRONOUS = 16
MS_REMOUNT = 32
MS_NOATIME = 1024
MS_NODIRATIME = 2048
MS_BIND = 4096
MS_MOVE = 8192
MS_REC = 16384
MS_UNBINDABLE = 1 << 17
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MS_RELATIME = 1 << 21
MS_STRICTATIME = 1 << 24
MNT_DETACH = 2

OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = 0o2000000
MOVE_MOUNT_F_EMPTY_PATH = 4
MOVE_MOUNT_T_EMPTY_PATH = 0x40
FSOPEN_CLOEXEC = 1
FSMOUNT_CLOEXEC = 1
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_CMD_CREATE = 6

MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8
MOUNT_ATTR__ATIME = 0x70
MOUNT_ATTR_NOATIME = 0x10
MOUNT_ATTR_STRICTATIME = 0x20
MOUNT_ATTR_NODIRATIME = 0x80
MOUNT_ATTR_IDMAP = 0x100000
MOUNT_ATTR_NOSYMFOLLOW = 0x200000

_STATX_ATTR_MOUNT_ROOT = 0x2000

PROPAGATION = {
    "private": MS_PRIVATE,
    "rprivate": MS_PRIVATE | MS_REC,
    "slave": MS_SLAVE,
    "rslave": MS_SLAVE | MS_REC,
    "shared": MS_SHARED,
    "rshared": MS_SHARED | MS_REC,
    "unbindable": MS_UNBINDABLE,
    "runbindable": MS_UNBINDABLE | MS_REC,
}

if TYPE_CHECKING:

    class Mount(NamedTuple):
        """One line of mountinfo. `root` is the path inside its filesystem, `target` where it is seen."""

        mount_id: int
        parent_id: int
        device: str  # "major:minor"
        root: str
        target: str
        options: tuple[str, ...]  # of this mount
        propagation: tuple[str, ...]  # "shared:1", "master:2", ...
        type: str
        source: str
        super_options: tuple[str, ...]  # of the filesystem
else:
    Mount = namedtuple(
        "Mount",
        "mount_id parent_id device root target options propagation type source super_options",
    )


class MountAttributes(ctypes.Structure):
    """struct mount_attr of mount_setattr(2)."""

    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


# ---------------------------------------------------------------- the classic call


def mount(
    source: str | None, target: StrPath, kind: str | None = None, flags: int = 0, data: str = ""
) -> None:
    """mount(2) as it is."""
    libc.call(
        "mount",
        None if source is None else os.fsencode(source),
        os.fsencode(target),
        None if kind is None else kind.encode(),
        flags,
        os.fsencode(data) if data else None,
        subject=os.fspath(target),
    )


def unmount(target: StrPath) -> None:
    """Detach what is mounted on `target`, and what lies below it. Repeatable: no error when nothing is."""
    try:
        libc.call("umount2", os.fsencode(target), MNT_DETACH, subject=os.fspath(target))
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOENT):
            raise


def make_private(target: StrPath = "/", *, kind: str = "rprivate") -> None:
    """Set the propagation of `target`; `kind` is one of PROPAGATION."""
    mount(None, target, None, PROPAGATION[kind])


def bind(source: StrPath, target: StrPath, *, read_only: bool = False, recursive: bool = True) -> None:
    """Show `source` at `target` (which exists and is of the same kind). With `recursive`, mounts below come
    along, and read-only holds for them as well."""
    fd = open_tree(source, recursive=recursive)
    try:
        if read_only:
            set_attributes(fd, set=MOUNT_ATTR_RDONLY, recursive=recursive)
        attach(fd, target)
    finally:
        os.close(fd)


# ---------------------------------------------------------------- the new calls


def open_tree(
    path: StrPath, clone: bool = True, dirfd: int = libc.AT_FDCWD, *, recursive: bool = True
) -> int:
    """A descriptor of `path`; with `clone` a detached copy of its mounts. An empty path means `dirfd`."""
    flags = OPEN_TREE_CLOEXEC | (OPEN_TREE_CLONE if clone else 0)
    flags |= libc.AT_RECURSIVE if clone and recursive else 0
    flags |= 0 if os.fspath(path) else libc.AT_EMPTY_PATH
    return libc.syscall(
        "open_tree", dirfd, os.fsencode(path), flags, subject=os.fspath(path) or f"fd {dirfd}"
    )


def attach(fd: int, target: StrPath | int) -> None:
    """Put the detached mount `fd` on `target`: a path, or a descriptor (O_PATH) that was opened safely."""
    flags = MOVE_MOUNT_F_EMPTY_PATH
    to, name = (target, b"") if isinstance(target, int) else (libc.AT_FDCWD, os.fsencode(target))
    if isinstance(target, int):
        flags |= MOVE_MOUNT_T_EMPTY_PATH
    libc.syscall("move_mount", fd, b"", to, name, flags, subject=str(target))


def set_attributes(
    fd: int,
    *,
    set: int = 0,
    clear: int = 0,
    propagation: int = 0,
    userns: int = 0,
    recursive: bool = False,
    path: str = "",
) -> None:
    """mount_setattr(2) on the mount behind `fd` (or `path` below it). `propagation`: MS_PRIVATE, ...;
    `userns`: the user namespace whose mapping MOUNT_ATTR_IDMAP takes."""
    attributes = MountAttributes(set, clear, propagation, userns)
    flags = (0 if path else libc.AT_EMPTY_PATH) | (libc.AT_RECURSIVE if recursive else 0)
    libc.syscall(
        "mount_setattr",
        fd,
        os.fsencode(path),
        flags,
        ctypes.byref(attributes),
        ctypes.sizeof(attributes),
        subject=path or f"fd {fd}",
    )


def new_filesystem(kind: str, options: Sequence[tuple[str, str | None]] = (), *, attributes: int = 0) -> int:
    """A detached mount of a new filesystem: fsopen, fsconfig, fsmount. Options without a value are flags.

    The kernel's own words on a refused option are part of the error.
    """
    context = libc.syscall("fsopen", kind.encode(), FSOPEN_CLOEXEC, subject=kind)
    try:
        for key, value in options:
            configure(context, key, value)
        create(context)
        return libc.syscall("fsmount", context, FSMOUNT_CLOEXEC, attributes, subject=kind)
    except OSError as error:
        text = read_log(context)
        if text:
            raise OSError(error.errno, f"mount {kind}: {error.strerror} ({text})", error.filename) from None
        raise
    finally:
        os.close(context)


def configure(context: int, key: str, value: str | None = None) -> None:
    command = FSCONFIG_SET_FLAG if value is None else FSCONFIG_SET_STRING
    data = None if value is None else os.fsencode(value)
    libc.syscall("fsconfig", context, command, key.encode(), data, 0, subject=f"{key}={value}")


def create(context: int) -> None:
    libc.syscall("fsconfig", context, FSCONFIG_CMD_CREATE, None, None, 0)


def read_log(context: int) -> str:
    """What the kernel had to say on a filesystem context, one message a line; empty when nothing."""
    lines = []
    while True:
        try:
            lines.append(os.read(context, 4096).decode(errors="replace").strip())
        except OSError:
            return "; ".join(lines)


# ---------------------------------------------------------------- looking


def is_mounted(path: StrPath) -> bool:
    """Whether `path` is the root of a mount: statx(2), STATX_ATTR_MOUNT_ROOT. False when there is none."""
    buffer = ctypes.create_string_buffer(256)
    try:
        libc.syscall(
            "statx",
            libc.AT_FDCWD,
            os.fsencode(path),
            libc.AT_SYMLINK_NOFOLLOW,
            0,
            buffer,
            subject=os.fspath(path),
        )
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return False
        raise
    return bool(int.from_bytes(buffer.raw[8:16], "little") & _STATX_ATTR_MOUNT_ROOT)


def table(path: str = "/proc/self/mountinfo", *, naming: str = "") -> list[Mount]:
    """Every mount of this mount namespace, in the kernel's order; with `naming` only those whose line has
    this text in it, which saves reading the others."""
    word = os.fsencode(naming)
    with open(path, "rb") as file:
        return [parse_line(line) for line in file if word in line]


def roots(naming: str) -> dict[str, str]:
    """Mount point -> root of the mount within its filesystem, of the mounts whose line has this text in it:
    the table of a machine with many containers is long."""
    word = os.fsencode(naming)
    fd = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        while part := os.read(fd, 1 << 16):
            parts.append(part)
    finally:
        os.close(fd)
    found = {}
    for line in b"".join(parts).split(b"\n"):
        if word in line:
            _, _, _, root, target, _ = os.fsdecode(line).split(" ", 5)
            found[_unescape(target)] = _unescape(root)
    return found


def parse_line(line: bytes) -> Mount:
    """One line of proc_pid_mountinfo(5): optional fields end at a lone hyphen."""
    words = line.decode(errors="surrogateescape").rstrip("\n").split(" ")
    end = words.index("-", 6)
    return Mount(
        int(words[0]),
        int(words[1]),
        words[2],
        _unescape(words[3]),
        _unescape(words[4]),
        tuple(words[5].split(",")),
        tuple(words[6:end]),
        words[end + 1],
        _unescape(words[end + 2]),
        tuple(words[end + 3].split(",")),
    )


def _unescape(text: str) -> str:
    """Octal escapes for space, tab, newline, backslash and hash."""
    if "\\" not in text:
        return text
    for code in ("040", "011", "012", "043", "134"):
        text = text.replace("\\" + code, chr(int(code, 8)))
    return text
