"""Effects: a container's view of files: its mounts, /dev, masks, and the switch of the root.

OCI runtime-spec config.md (Mounts), config-linux.md; pivot_root(2), mount_setattr(2), cgroup_namespaces(7).
Until the root is switched every target is opened by openat2(2) inside the new root and mounted on by
descriptor: a link in an image never leads a mount out of it.
"""

from __future__ import annotations

import errno
import os
import stat

from runtime.linux import devices, libc, mounts, openat2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

_ATTRIBUTES = {
    "ro": mounts.MOUNT_ATTR_RDONLY,
    "rro": mounts.MOUNT_ATTR_RDONLY,
    "nosuid": mounts.MOUNT_ATTR_NOSUID,
    "nodev": mounts.MOUNT_ATTR_NODEV,
    "noexec": mounts.MOUNT_ATTR_NOEXEC,
    "nodiratime": mounts.MOUNT_ATTR_NODIRATIME,
    "nosymfollow": mounts.MOUNT_ATTR_NOSYMFOLLOW,
}
_TIMES = {
    "noatime": mounts.MOUNT_ATTR_NOATIME,
    "strictatime": mounts.MOUNT_ATTR_STRICTATIME,
    "relatime": 0,
}
_WITHOUT_EFFECT = frozenset(["rw", "suid", "dev", "exec", "atime", "defaults", "bind", "rbind"])
_CGROUP_OPTIONS = mounts.MOUNT_ATTR_NOSUID | mounts.MOUNT_ATTR_NODEV | mounts.MOUNT_ATTR_NOEXEC


def build(config: Mapping[str, Any], root: str) -> None:
    """Put everything under `root` and make it "/". The caller is in its new mount namespace."""
    # Slave, not private: a bind with rslave propagation goes on to hear of the host's mounts. Nothing here
    # reaches the host.
    mounts.make_private("/", kind="rslave")
    tree = mounts.open_tree(root)
    mounts.set_attributes(tree, propagation=mounts.MS_PRIVATE, recursive=True)
    mounts.attach(tree, root)
    foreign_dev = False
    for mount in config.get("mounts") or ():
        try:
            _mount(tree, mount)
        except OSError as error:
            where, what = mount["destination"], mount.get("source") or mount.get("type")
            text = f"mount {what} on {where}: {error.strerror}"
            raise OSError(error.errno, text, error.filename) from None
        if mount["destination"].rstrip("/") == "/dev":
            foreign_dev = _is_bind(mount)
    _make_devices(tree, config["linux"], foreign_dev)
    _switch(tree)
    kind = str(config["linux"].get("rootfsPropagation") or "private")
    mounts.make_private("/", kind=kind)
    os.close(tree)


def seal(config: Mapping[str, Any]) -> None:
    """What must be the last: masks, read-only paths, and a read-only root."""
    linux = config["linux"]
    for path in linux.get("readonlyPaths") or ():
        _make_read_only(path)
    for path in linux.get("maskedPaths") or ():
        _mask(path)
    if config["root"].get("readonly"):
        root = os.open("/", openat2.O_PATH | os.O_DIRECTORY)
        mounts.set_attributes(root, set=mounts.MOUNT_ATTR_RDONLY)
        os.close(root)


def bind_console(terminal: int) -> None:
    """Show the terminal as /dev/console."""
    try:
        os.close(os.open("/dev/console", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o620))
    except FileExistsError:
        pass
    # open_tree(2) follows the link of /proc to the slave in the container's own devpts.
    fd = mounts.open_tree(f"/proc/self/fd/{terminal}", recursive=False)
    mounts.attach(fd, "/dev/console")
    os.close(fd)


# ---------------------------------------------------------------- one mount


def _is_bind(mount: Mapping[str, Any]) -> bool:
    options = mount.get("options") or ()
    return mount.get("type") == "bind" or "bind" in options or "rbind" in options


def _options(mount: Mapping[str, Any]) -> tuple[int, int, int, list[tuple[str, str | None]]]:
    """(attributes, atime, propagation, options of the filesystem)."""
    attributes = atime = propagation = 0
    data: list[tuple[str, str | None]] = []
    for option in mount.get("options") or ():
        if option in _ATTRIBUTES:
            attributes |= _ATTRIBUTES[option]
        elif option in _TIMES:
            atime = _TIMES[option]
        elif option in mounts.PROPAGATION:
            propagation = mounts.PROPAGATION[option]
        elif option not in _WITHOUT_EFFECT and option != "newinstance":
            key, separator, value = option.partition("=")
            data.append((key, value if separator else None))
    return attributes, atime, propagation, data


def _mount(tree: int, mount: Mapping[str, Any]) -> None:
    attributes, atime, propagation, data = _options(mount)
    destination = str(mount["destination"])
    if _is_bind(mount):
        fd = _bind(mount, attributes, propagation)
        directory = stat.S_ISDIR(os.fstat(fd).st_mode)
    else:
        directory = True
        kind = str(mount["type"])
        if kind == "cgroup":
            _mount_cgroups(tree, destination, attributes)
            return
        fd = mounts.new_filesystem(kind, _with_source(mount, data), attributes=attributes | atime)
        if propagation:
            mounts.set_attributes(fd, propagation=propagation & ~mounts.MS_REC)
    try:
        made = openat2.make_directories(tree, destination) if directory else _file(tree, destination)
        mounts.attach(fd, made)
        os.close(made)
    finally:
        os.close(fd)


def _file(tree: int, destination: str) -> int:
    return openat2.make_file(tree, destination)


def _with_source(
    mount: Mapping[str, Any], data: list[tuple[str, str | None]]
) -> list[tuple[str, str | None]]:
    return [("source", str(mount.get("source") or mount["type"])), *data]


def _bind(mount: Mapping[str, Any], attributes: int, propagation: int) -> int:
    """A detached copy of the source with its mounts below (unless plain `bind`), read-only all the way down."""
    options = mount.get("options") or ()
    recursive = "rbind" in options or "bind" not in options
    fd = mounts.open_tree(str(mount["source"]), recursive=recursive)
    try:
        kind = propagation or mounts.MS_PRIVATE | mounts.MS_REC
        deep = bool(kind & mounts.MS_REC)
        mounts.set_attributes(fd, propagation=kind & ~mounts.MS_REC, recursive=deep)
        if attributes:
            mounts.set_attributes(fd, set=attributes, recursive=recursive)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _mount_cgroups(tree: int, destination: str, attributes: int) -> None:
    """The cgroup namespace's own part. Pure v2: one mount; hybrid and v1: a tmpfs with one directory a
    hierarchy, as runc has it."""
    target = openat2.make_directories(tree, destination)
    hierarchies = _hierarchies()
    if len(hierarchies) == 1 and not hierarchies[0]:
        fd = mounts.new_filesystem("cgroup2", [("source", "cgroup")], attributes=attributes)
        mounts.attach(fd, target)
        os.close(fd)
        os.close(target)
        return
    options: list[tuple[str, str | None]] = [("source", "tmpfs"), ("mode", "755"), ("size", "64k")]
    base = mounts.new_filesystem("tmpfs", options, attributes=_CGROUP_OPTIONS)
    mounts.attach(base, target)
    for hierarchy in hierarchies:
        name = hierarchy.removeprefix("name=") or "unified"
        os.mkdir(name, 0o755, dir_fd=base)
        fd = _hierarchy(hierarchy)
        if fd is None:
            continue
        below = os.open(name, openat2.O_PATH | os.O_DIRECTORY, dir_fd=base)
        mounts.attach(fd, below)
        os.close(below)
        os.close(fd)
        if "," in name:
            for controller in name.split(","):
                os.symlink(name, controller, dir_fd=base)
    if attributes & mounts.MOUNT_ATTR_RDONLY:
        mounts.set_attributes(base, set=mounts.MOUNT_ATTR_RDONLY, recursive=True)
    os.close(base)
    os.close(target)


def _hierarchies() -> list[str]:
    """Controllers of each hierarchy as proc_pid_cgroup(5) names them; "" is the unified one."""
    with open("/proc/self/cgroup", encoding="ascii") as file:
        return [line.split(":", 2)[1] for line in file]


def _hierarchy(name: str) -> int | None:
    """A detached mount of one hierarchy; None when it is not in use on this host."""
    if not name:
        kind, options = "cgroup2", [("source", "cgroup")]
    else:
        kind, options = "cgroup", [("source", "cgroup")]
    extra: list[tuple[str, str | None]] = [*options]
    if name.startswith("name="):
        extra += [("none", None), ("name", name.removeprefix("name="))]
    elif name:
        extra += [(controller, None) for controller in name.split(",")]
    try:
        return mounts.new_filesystem(kind, extra, attributes=_CGROUP_OPTIONS)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.EBUSY, errno.ENOENT, errno.ENODEV):
            return None
        raise


# ---------------------------------------------------------------- /dev, masks, the switch


def _make_devices(tree: int, linux: Mapping[str, Any], foreign: bool) -> None:
    """Default nodes and links, unless /dev is somebody else's; then what the container was given."""
    directory = openat2.make_directories(tree, "/dev")
    try:
        if not foreign:
            devices.populate(directory)
    finally:
        os.close(directory)
    for given in linux.get("devices") or ():
        _give(tree, given)


def _give(tree: int, given: Mapping[str, Any]) -> None:
    """A device of the host (`source`), or of a whole directory, or of OCI's own form (type, major, minor)."""
    target = str(given["path"])
    if "source" not in given:
        found: Sequence[tuple[str, str, int, int]] = [
            (target, str(given["type"]), int(given["major"]), int(given["minor"]))
        ]
        source = target
    else:
        source = str(given["source"])
        found = devices.host_devices(source)
    for path, kind, major, minor in found:
        inside = target + path[len(source) :]
        parent, name = os.path.split(inside)
        directory = openat2.make_directories(tree, parent)
        try:
            mode = int(given.get("fileMode") or 0)
            if not mode:
                mode = stat.S_IMODE(os.stat(path).st_mode) if "source" in given else 0o666
            devices.make_node(directory, name, kind, major, minor, mode)
        finally:
            os.close(directory)


def _switch(tree: int) -> None:
    """pivot_root(".", "."): the old root ends up on top of the new one, and is taken off."""
    old = os.open("/", openat2.O_PATH | os.O_DIRECTORY)
    os.fchdir(tree)
    libc.syscall("pivot_root", b".", b".", subject="root filesystem")
    os.fchdir(old)
    mounts.make_private(".", kind="rslave")  # so that taking it off does not reach the host
    mounts.unmount(".")
    os.close(old)
    os.chdir("/")


def _make_read_only(path: str) -> None:
    try:
        fd = mounts.open_tree(path)
    except FileNotFoundError:
        return
    mounts.set_attributes(fd, set=mounts.MOUNT_ATTR_RDONLY, recursive=True)
    mounts.attach(fd, path)
    os.close(fd)


def _mask(path: str) -> None:
    """A file reads empty, a directory lists empty; what this kernel does not have needs no mask."""
    try:
        directory = stat.S_ISDIR(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return
    if directory:
        options: list[tuple[str, str | None]] = [("source", "tmpfs"), ("size", "0"), ("nr_inodes", "2")]
        fd = mounts.new_filesystem("tmpfs", options, attributes=mounts.MOUNT_ATTR_RDONLY)
    else:
        fd = mounts.open_tree("/dev/null", recursive=False)
    mounts.attach(fd, path)
    os.close(fd)
