"""Effects: a container's view of files: mounts, /dev, masked and read-only paths, and the change of root.

Destinations are opened with openat2 inside the root, so that no link of the image leads a mount out of it.
Mounts
are made detached and put on the opened descriptor (move_mount(2)); only cgroup v1 needs mount(2).
"""

from __future__ import annotations

import os
import stat
from functools import cache
from pathlib import Path

from runtime.linux import libc, mounts, openat2
from runtime.shim import tty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Config = dict[str, Any]
    from runtime.shim.init import Stage

#: name, major, minor: the nodes that every container has (OCI config-linux.md, default devices).
NODES = (
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
)
LINKS = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
    ("ptmx", "pts/ptmx"),
)
ATTRIBUTES = {
    "ro": mounts.MOUNT_ATTR_RDONLY,
    "rro": mounts.MOUNT_ATTR_RDONLY,
    "nosuid": mounts.MOUNT_ATTR_NOSUID,
    "nodev": mounts.MOUNT_ATTR_NODEV,
    "noexec": mounts.MOUNT_ATTR_NOEXEC,
    "noatime": mounts.MOUNT_ATTR_NOATIME,
    "nodiratime": mounts.MOUNT_ATTR_NODIRATIME,
    "strictatime": mounts.MOUNT_ATTR_STRICTATIME,
}
#: Words that ask for what is the case anyway, or that are handled apart.
_PLAIN = {"rw", "suid", "dev", "exec", "relatime", "bind", "rbind", "defaults", *mounts.PROPAGATION}


def build(config: Config, rootfs: Path, console_socket: int | None, stage: Stage) -> int | None:
    """Make `rootfs` this mount namespace's root, complete. Returns the slave of the terminal, if one
    is wanted.
    """
    entries = config.get("mounts") or []
    # A copy has the peers of what it was copied from: to be taken before all that is here loses them.
    tied: dict[int, int] = {}
    for at, entry in enumerate(entries):
        if _propagates(entry):
            stage.name = f"mount {entry['destination']}"
            _need_peers(str(entry["source"]))
            tied[at] = _open_bind(entry)
    stage.name = "root filesystem"
    mounts.make_private("/", kind="rprivate")
    if not mounts.is_mounted(rootfs):
        mounts.bind(rootfs, rootfs)
    mounts.make_private(rootfs, kind="private")  # pivot_root(2) refuses a shared one
    root = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    os.umask(0)
    for at, entry in enumerate(entries):
        stage.name = f"mount {entry['destination']}"
        _mount(root, entry, tied.get(at, -1))
    stage.name = "devices"
    _devices(root, config)
    slave = None
    if config["process"].get("terminal") and console_socket is not None:
        stage.name = "terminal"
        slave = tty.open_terminal(root, console_socket)
        _console(root, slave)
    stage.name = "paths"
    for path in config["linux"].get("readonlyPaths") or ():
        _seal(root, path)
    for path in config["linux"].get("maskedPaths") or ():
        _mask(root, path)
    stage.name = "root"
    _pivot(root, read_only=bool(config["root"].get("readonly")))
    return slave


def _pivot(root: int, *, read_only: bool) -> None:
    """The old root ends up on top of the new one and is detached: no directory is needed for it
    (pivot_root(2)).
    """
    os.fchdir(root)
    libc.syscall("pivot_root", b".", b".", subject="root filesystem")
    libc.call("umount2", b".", mounts.MNT_DETACH, subject="old root")
    os.chdir("/")
    os.close(root)
    if read_only:
        mounts.set_attributes(libc.AT_FDCWD, set=mounts.MOUNT_ATTR_RDONLY, path="/")


# ---------------------------------------------------------------- mounts


def _propagates(entry: Config) -> bool:
    return any(word.endswith(("slave", "shared")) for word in entry.get("options") or ())


def _need_peers(source: str) -> None:
    """Nothing would propagate from or to a private mount, and nobody would see why."""
    path = os.path.realpath(source)
    above = [mount for mount in mounts.table() if f"{path}/".startswith(f"{mount.target.rstrip('/')}/")]
    nearest = max(reversed(above), key=lambda mount: len(mount.target))  # the last one is on top
    if not nearest.propagation:
        text = f"it lies on {nearest.target}, a private mount of the host; see mount --make-shared"
        raise OSError(22, text, source)


def _mount(root: int, entry: Config, fd: int = -1) -> None:
    """`fd`: the mount itself, where it is made already."""
    kind, options = str(entry.get("type") or "bind"), [str(word) for word in entry.get("options") or ()]
    if kind == "cgroup":
        _mount_cgroups(root, entry["destination"], options)
        return
    if kind == "bind" or "bind" in options or "rbind" in options:
        fd = _open_bind(entry) if fd < 0 else fd
        directory = openat2.is_directory(fd)
    else:
        fd, directory = _new(kind, options), True
    try:
        target = openat2.make_target(root, entry["destination"], directory=directory)
        try:
            mounts.attach(fd, target)
        finally:
            os.close(target)
    finally:
        os.close(fd)


def _open_bind(entry: Config) -> int:
    options = [str(word) for word in entry.get("options") or ()]
    recursive = "bind" not in options or "rbind" in options
    fd = mounts.open_tree(entry["source"], recursive=recursive)
    alone = "ro" in options and "rro" not in options  # of the mount itself, not of those below it
    bits = _attributes([word for word in options if word != "ro" or not recursive])
    kinds = [word for word in options if word in mounts.PROPAGATION]
    kind = mounts.PROPAGATION[kinds[-1] if kinds else "rprivate"] & ~mounts.MS_REC
    atime = mounts.MOUNT_ATTR__ATIME if bits & mounts.MOUNT_ATTR__ATIME else 0
    mounts.set_attributes(fd, set=bits, clear=atime, propagation=kind, recursive=recursive)
    if alone and recursive:
        mounts.set_attributes(fd, set=mounts.MOUNT_ATTR_RDONLY)
    return fd


def _new(kind: str, options: list[str]) -> int:
    data: list[tuple[str, str | None]] = []
    for word in options:
        if word not in ATTRIBUTES and word not in _PLAIN:
            key, given, value = word.partition("=")
            data.append((key, value if given else None))
    return mounts.new_filesystem(kind, data, attributes=_attributes(options))


def _attributes(options: list[str]) -> int:
    bits = 0
    for word in options:
        bits |= ATTRIBUTES.get(word, 0)
    return bits


@cache
def host_hierarchies() -> tuple[list[mounts.Mount], bool]:
    """The host's mounts of cgroup v1, and whether v2 is mounted. Read once, by the zygote: a mount table is
    long where there are many containers, and each would read it."""
    found = mounts.table(naming=" cgroup")
    return [mount for mount in found if mount.type == "cgroup"], any(m.type == "cgroup2" for m in found)


def _mount_cgroups(root: int, destination: str, options: list[str]) -> None:
    """The container's own part of each hierarchy, thanks to its cgroup namespace: cgroup_namespaces(7)."""
    sealed = [word for word in options if word in ATTRIBUTES]
    hierarchies, unified = host_hierarchies()
    if not hierarchies:
        _mount(root, {"destination": destination, "type": "cgroup2", "options": sealed})
        return
    loose = [word for word in sealed if word != "ro"]
    _mount(root, {"destination": destination, "type": "tmpfs", "options": [*loose, "mode=755", "size=65536"]})
    seen: set[str] = set()
    for mount in hierarchies:
        name = os.path.basename(mount.target)
        if name not in seen:
            seen.add(name)
            _mount_v1(root, f"{destination}/{name}", mount, options)
            for alias in name.split(",") if "," in name else ():
                _link(root, destination, alias, name)
    if unified:
        _mount(root, {"destination": f"{destination}/unified", "type": "cgroup2", "options": sealed})
    if "ro" in sealed:
        fd = openat2.open_in_root(root, destination, os.O_PATH | os.O_DIRECTORY)
        mounts.set_attributes(fd, set=mounts.MOUNT_ATTR_RDONLY)
        os.close(fd)


def _mount_v1(root: int, path: str, mount: mounts.Mount, options: list[str]) -> None:
    """The same controllers as the host's mount: the options that are not about all file systems."""
    flags = mounts.MS_NOSUID | mounts.MS_NODEV | mounts.MS_NOEXEC
    flags |= mounts.MS_RDONLY if "ro" in options else 0
    general = {"rw", "ro", "xattr", "clone_children", "noprefix", "cpuset_v2_mode", "nsdelegate"}
    words = [word for word in mount.super_options if word not in general and "release_agent" not in word]
    data = ",".join(["none", *words] if any(word.startswith("name=") for word in words) else words)
    fd = openat2.make_directory(root, path)
    try:
        mounts.mount("cgroup", f"/proc/self/fd/{fd}", "cgroup", flags, data)
    finally:
        os.close(fd)


def _link(root: int, parent: str, name: str, target: str) -> None:
    fd = openat2.open_in_root(root, parent, os.O_PATH | os.O_DIRECTORY)
    try:
        os.symlink(target, name, dir_fd=fd)
    except FileExistsError:
        pass
    finally:
        os.close(fd)


# ---------------------------------------------------------------- /dev


def _devices(root: int, config: Config) -> None:
    """Nothing where the user mounted a /dev of the host's own."""
    own = any(entry["destination"] == "/dev" and entry.get("type") == "tmpfs" for entry in config["mounts"])
    if own:
        dev = openat2.open_in_root(root, "/dev", os.O_PATH | os.O_DIRECTORY)
        for name, major, minor in NODES:
            os.mknod(name, stat.S_IFCHR | 0o666, os.makedev(major, minor), dir_fd=dev)
        for name, target in LINKS:
            os.symlink(target, name, dir_fd=dev)
        os.close(dev)
    for device in _wanted(config):
        _node(root, str(device["source"]), str(device["path"]))


def _wanted(config: Config) -> list[Config]:
    """The devices asked for; every one of the host's for a container that may use all of them."""
    listed = list(config["linux"].get("devices") or ())
    rules = (config["linux"].get("resources") or {}).get("devices") or ()
    if not any(rule.get("allow") and "path" not in rule and "major" not in rule for rule in rules):
        return listed
    taken = {device["path"] for device in listed} | {f"/dev/{name}" for name, _, _ in NODES}
    skipped = taken | {"/dev/console", "/dev/ptmx"}
    for directory, names, files in os.walk("/dev"):
        names[:] = [
            name for name in names if f"{directory}/{name}" not in ("/dev/pts", "/dev/shm", "/dev/mqueue")
        ]
        paths = [f"{directory}/{name}" for name in files]
        listed += [{"source": path, "path": path} for path in paths if path not in skipped and _is_node(path)]
    return listed


def _is_node(path: str) -> bool:
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return False
    return stat.S_ISCHR(mode) or stat.S_ISBLK(mode)


def _node(root: int, source: str, path: str) -> None:
    """A node like the host's `source`, with its owner and mode."""
    found = os.stat(source)
    if not (stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode)):
        raise OSError(19, "not a device", source)
    parent, _, name = path.rpartition("/")
    fd = openat2.make_directory(root, parent or "/")
    try:
        os.mknod(name, found.st_mode, found.st_rdev, dir_fd=fd)
        os.chown(name, found.st_uid, found.st_gid, dir_fd=fd)
    except FileExistsError:
        pass
    finally:
        os.close(fd)


def _console(root: int, slave: int) -> None:
    """/dev/console is the terminal itself, as a bind of its slave."""
    fd = mounts.open_tree(f"/proc/self/fd/{slave}", recursive=False)
    target = openat2.make_target(root, "/dev/console", directory=False)
    mounts.attach(fd, target)
    os.close(fd)
    os.close(target)


# ---------------------------------------------------------------- masks


def _seal(root: int, path: str) -> None:
    """Read-only, with all below; nothing where the kernel has no such path."""
    found = _look(root, path)
    if found is None:
        return
    fd = mounts.open_tree("", dirfd=found)
    mounts.set_attributes(fd, set=mounts.MOUNT_ATTR_RDONLY, recursive=True)
    mounts.attach(fd, found)
    os.close(fd)
    os.close(found)


def _mask(root: int, path: str) -> None:
    """/dev/null over a file, an empty read-only directory over a directory."""
    found = _look(root, path)
    if found is None:
        return
    if openat2.is_directory(found):
        fd = mounts.new_filesystem("tmpfs", (("size", "0"),), attributes=mounts.MOUNT_ATTR_RDONLY)
    else:
        fd = mounts.open_tree("/dev/null", recursive=False)
    mounts.attach(fd, found)
    os.close(fd)
    os.close(found)


def _look(root: int, path: str) -> int | None:
    try:
        return openat2.open_in_root(root, path, os.O_PATH)
    except (FileNotFoundError, NotADirectoryError):
        return None
