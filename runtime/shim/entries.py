"""Effects: the mounts of a config.json, each with every option that the specification and mount(8) have.

Destinations are opened with openat2 inside the root, so that no link of the image leads a mount out of it.
Mounts are made detached and put on the opened descriptor (move_mount(2)). OCI runtime-spec, config.md.
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat

from runtime.linux import mounts, namespaces, openat2
from runtime.shim import copyup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    Config = dict[str, Any]

_ATIME = mounts.MOUNT_ATTR__ATIME
#: option -> (attributes to set, attributes to clear); with an `r` before, of the mounts below as well.
_BASE = {
    "ro": (mounts.MOUNT_ATTR_RDONLY, 0),
    "rw": (0, mounts.MOUNT_ATTR_RDONLY),
    "nosuid": (mounts.MOUNT_ATTR_NOSUID, 0),
    "suid": (0, mounts.MOUNT_ATTR_NOSUID),
    "nodev": (mounts.MOUNT_ATTR_NODEV, 0),
    "dev": (0, mounts.MOUNT_ATTR_NODEV),
    "noexec": (mounts.MOUNT_ATTR_NOEXEC, 0),
    "exec": (0, mounts.MOUNT_ATTR_NOEXEC),
    "nodiratime": (mounts.MOUNT_ATTR_NODIRATIME, 0),
    "diratime": (0, mounts.MOUNT_ATTR_NODIRATIME),
    "nosymfollow": (mounts.MOUNT_ATTR_NOSYMFOLLOW, 0),
    "symfollow": (0, mounts.MOUNT_ATTR_NOSYMFOLLOW),
    "noatime": (mounts.MOUNT_ATTR_NOATIME, _ATIME),
    "strictatime": (mounts.MOUNT_ATTR_STRICTATIME, _ATIME),
    "relatime": (0, _ATIME),
    "atime": (0, _ATIME),
    "norelatime": (0, _ATIME),
    "nostrictatime": (0, _ATIME),
}
ATTRIBUTES = {**_BASE, **{f"r{word}": bits for word, bits in _BASE.items()}}
#: Files of /proc that may be covered: runc's list, which is what lxcfs gives.
COVERED = frozenset(
    f"/proc/{name}"
    for name in (
        "cpuinfo diskstats loadavg meminfo slabinfo stat swaps uptime sys/crypto/fips_enabled"
        " sys/kernel/ns_last_pid"
    ).split()
)
#: Words that ask for what is the case anyway, or that are handled apart.
WORDS = frozenset(
    ("bind", "rbind", "defaults", "remount", "tmpcopyup", "idmap", "ridmap", "loud", "silent", "async")
) | frozenset(mounts.PROPAGATION)


def options_of(entry: Config) -> list[str]:
    return [str(word) for word in entry.get("options") or ()]


def is_bind(entry: Config) -> bool:
    options = options_of(entry)
    return str(entry.get("type") or "bind") == "bind" or "bind" in options or "rbind" in options


def is_mapped(entry: Config) -> bool:
    """Whether the mount shows other owners than its file system has."""
    options = options_of(entry)
    return bool(entry.get("uidMappings")) or "idmap" in options or "ridmap" in options


def propagates(entry: Config) -> bool:
    return any(word.endswith(("slave", "shared")) for word in options_of(entry))


def need_peers(source: str) -> None:
    """Nothing would propagate from or to a private mount, and nobody would see why."""
    path = os.path.realpath(source)
    above = [mount for mount in mounts.table() if f"{path}/".startswith(f"{mount.target.rstrip('/')}/")]
    nearest = max(reversed(above), key=lambda mount: len(mount.target))  # the last one is on top
    if not nearest.propagation:
        text = f"it lies on {nearest.target}, a private mount of the host; see mount --make-shared"
        raise OSError(22, text, source)


def mount(root: int, entry: Config, fd: int = -1, *, kind: str = "rprivate") -> None:
    """`fd`: the mount itself, where it is made already; `kind`: how binds propagate that do not say it."""
    options, destination = options_of(entry), str(entry["destination"])
    if "remount" in options:
        _remount(root, entry)
        return
    if is_bind(entry):
        fd = open_bind(entry, {}, kind) if fd < 0 else fd
        directory = openat2.is_directory(fd)
    else:
        fd, directory = new(root, entry), True
    try:
        put(root, destination, fd, directory=directory)
        below = [word for word in options if word in mounts.PROPAGATION]
        if below and not is_bind(entry):
            bits = mounts.PROPAGATION[below[-1]]
            mounts.set_attributes(fd, propagation=bits & ~mounts.MS_REC, recursive=bool(bits & mounts.MS_REC))
    finally:
        os.close(fd)


def put(root: int, destination: str, fd: int, *, directory: bool = True) -> None:
    """A detached mount on its place, which is made where it is missing. OSError EINVAL inside of /proc."""
    path = "/" + posixpath.normpath(destination).lstrip("/")
    if path.startswith("/proc/") and path not in COVERED:
        raise OSError(errno.EINVAL, "it is inside of /proc")
    target = openat2.make_target(root, destination, directory=directory)
    try:
        if _is_of_a_process(root, target):
            raise OSError(errno.EINVAL, "it leads to a process's directory in /proc")
        mounts.attach(fd, target)
    finally:
        os.close(target)


def _is_of_a_process(root: int, target: int) -> bool:
    """What is mounted there would be gone with the process, and is under no name but its number."""
    top, path = (os.readlink(f"/proc/self/fd/{fd}") for fd in (root, target))
    first, _, rest = path.removeprefix(top).strip("/").partition("/")
    return first == "proc" and rest.partition("/")[0].isdigit()


# ---------------------------------------------------------------- what the host has


def open_bind(entry: Config, linux: Mapping[str, Any], kind: str = "rprivate") -> int:
    """A detached copy of what a bind mount shows, with all that its options say. `linux` has the mappings
    of a container whose mounts say `idmap` without any of their own."""
    options = options_of(entry)
    recursive = "bind" not in options or "rbind" in options
    fd = mounts.open_tree(entry["source"], recursive=recursive)
    try:
        if is_mapped(entry):
            _map(fd, entry, linux, options, recursive)
        _set_all(fd, options, recursive)
        kinds = [word for word in options if word in mounts.PROPAGATION]
        bits = mounts.PROPAGATION[kinds[-1] if kinds else kind] & ~mounts.MS_REC
        mounts.set_attributes(fd, propagation=bits, recursive=recursive)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _set_all(fd: int, options: list[str], recursive: bool) -> None:
    """Of the mount itself what may be cleared and what the mounts below keep; else of all of them. `rw` is
    no wish to write where the host's own mount does not let it."""
    if [word for word in options if word in ("ro", "rw")][-1:] == ["rw"]:
        options = [word for word in options if word != "ro"]  # the last one holds
    alone = [word for word in options if word in _BASE and word != "rw"]
    if recursive:  # what makes it safer holds for what lies below, too, but `ro`, which has its `rro`
        plain = [word for word in alone if _BASE[word][0] and word != "ro"]
        alone = [word for word in alone if word not in plain]
    else:
        plain = []
    everywhere = plain + [word for word in options if word in ATTRIBUTES and word not in _BASE]
    for words, deep in ((everywhere, True), (alone, False)):
        bits, cleared = bits_of(words)
        if bits or cleared:
            mounts.set_attributes(fd, set=bits, clear=cleared, recursive=deep)


def _map(fd: int, entry: Config, linux: Mapping[str, Any], options: list[str], recursive: bool) -> None:
    """Owners as the mappings say, MOUNT_ATTR_IDMAP; a file system that cannot is named in the error."""
    uids = entry.get("uidMappings") or linux.get("uidMappings") or ()
    gids = entry.get("gidMappings") or linux.get("gidMappings") or ()
    if not uids or not gids:
        raise OSError(22, "an id-mapped mount needs mappings of both users and groups", entry["source"])
    userns = namespaces.open_user_namespace(uids, gids)
    deep = recursive and ("ridmap" in options or "idmap" not in options)
    try:
        mounts.set_attributes(fd, set=mounts.MOUNT_ATTR_IDMAP, userns=userns, recursive=deep)
    except OSError as error:
        text = f"its file system ({_filesystem(entry['source'])}) takes no id-mapped mounts: {error.strerror}"
        raise OSError(error.errno, text, entry["source"]) from None
    finally:
        os.close(userns)


def _filesystem(source: str) -> str:
    device = os.stat(source).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    return next((found.type for found in mounts.table(naming=f" {number} ")), number)


# ---------------------------------------------------------------- new file systems, and changed mounts


def new(root: int, entry: Config) -> int:
    """A file system of its own, detached. `root` has the directory that it is to cover."""
    kind, options = str(entry["type"]), options_of(entry)
    data: list[tuple[str, str | None]] = []
    for word in options:
        if word not in ATTRIBUTES and word not in WORDS:
            key, given, value = word.partition("=")
            data.append((key, value if given else None))
    source = str(entry.get("source") or "")
    if source:
        data.insert(0, ("source", source))
    if is_mapped(entry):
        raise OSError(22, "only a bind mount can be id-mapped", entry["destination"])
    bits, _ = bits_of([word for word in options if word in ATTRIBUTES])
    if kind != "tmpfs":
        return mounts.new_filesystem(kind, data, attributes=bits)
    return _new_tmpfs(root, entry, data, bits)


def _new_tmpfs(root: int, entry: Config, data: list[tuple[str, str | None]], bits: int) -> int:
    """Its mode is that of the directory below it, unless one is given: as runc has it."""
    if any(key == "mode" for key, _ in data) and "tmpcopyup" not in options_of(entry):
        return mounts.new_filesystem("tmpfs", data, attributes=bits)
    try:
        below = openat2.open_in_root(root, str(entry["destination"]), os.O_PATH | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return mounts.new_filesystem("tmpfs", data, attributes=bits)
    try:
        if not any(key == "mode" for key, _ in data):
            data.append(("mode", f"{stat.S_IMODE(os.fstat(below).st_mode):o}"))
        if "tmpcopyup" not in options_of(entry):
            return mounts.new_filesystem("tmpfs", data, attributes=bits)
        fd = mounts.new_filesystem("tmpfs", data)
        copyup.copy(below, fd)
        if bits:
            mounts.set_attributes(fd, set=bits)
        return fd
    finally:
        os.close(below)


def _remount(root: int, entry: Config) -> None:
    """Other attributes for what is mounted there already."""
    options = options_of(entry)
    foreign = [word for word in options if word not in ATTRIBUTES and word not in WORDS]
    if foreign:
        raise OSError(22, f"a remount takes no {foreign[0]}", entry["destination"])
    fd = openat2.open_in_root(root, str(entry["destination"]), os.O_PATH)
    try:
        plain = [word for word in options if word in _BASE]
        bits, cleared = bits_of(plain)
        mounts.set_attributes(fd, set=bits, clear=cleared)
        _set_all(fd, [word for word in options if word not in _BASE], True)
    finally:
        os.close(fd)


def bits_of(words: list[str]) -> tuple[int, int]:
    """What to set and to clear for these options, of which the last word holds."""
    bits = cleared = 0
    for word in words:
        on, off = ATTRIBUTES[word]
        bits, cleared = bits & ~off | on, cleared & ~on | off
    return bits, cleared
