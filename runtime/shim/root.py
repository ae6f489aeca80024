"""Effects: a container's view of files: mounts, /dev, masked and read-only paths, and the change of root.

The mounts are made by runtime.shim.entries. All paths are opened with openat2 inside the root.
"""

from __future__ import annotations

import os
import stat

from runtime.linux import libc, mounts, openat2
from runtime.shim import entries, hierarchies, identity, tty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    Config = dict[str, Any]
    from runtime.shim.ahead import Ahead
    from runtime.shim.init import Gates, Stage

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


class Prepared:
    """What was opened for a container before its namespaces were entered, while the host's files were in
    reach: its root, its binds by their place in the list, whether it is in a user namespace, its filter."""

    __slots__ = ("binds", "program_filter", "tree", "userns")

    def __init__(self, tree: int, binds: dict[int, int], *, userns: bool, program_filter: bytes) -> None:
        self.tree, self.binds, self.userns, self.program_filter = tree, binds, userns, program_filter


def prepare(config: Config, rootfs: str, *, userns: bool, strict: bool) -> Prepared:
    """With the rights and the mounts of the host. The working directory is `rootfs` afterwards, whatever
    mount namespace follows. `strict`: what is to propagate must be able to. OSError names the mount."""
    kind = _default_kind(config)
    binds = {}
    for at, entry in enumerate(config.get("mounts") or ()):
        if entries.is_bind(entry) and "remount" not in entries.options_of(entry):
            try:
                if strict and entries.propagates(entry):
                    entries.need_peers(str(entry["source"]))
                binds[at] = entries.open_bind(entry, config["linux"], kind)
            except OSError as error:
                text = f"mount {entry['destination']}: {error.strerror or error}"
                raise OSError(error.errno, text, error.filename) from None
    os.chdir(rootfs)
    program_filter = identity.read_filter(config)
    return Prepared(mounts.open_tree("."), binds, userns=userns, program_filter=program_filter)


def build(
    config: Config,
    rootfs: str,
    console_socket: int | None,
    stage: Stage,
    settle: Callable[[int], None],
    prepared: Prepared | None = None,
    gates: Gates | None = None,
    made: Ahead | None = None,
) -> int | None:
    """Make `rootfs` this mount namespace's root, complete. Returns the slave of the terminal, if one
    is wanted. `settle` is called with the root in which all is mounted and nothing masked. `gates`: who
    asks for the container; without them the rules of our own bundles hold. `made`: what is there already.
    """
    listed, kind = config.get("mounts") or [], _default_kind(config)
    # A copy has the peers of what it was copied from: to be taken before all that is here loses them.
    tied = dict(prepared.binds) if prepared is not None else {}
    for at, entry in enumerate(listed):
        if at not in tied and entries.propagates(entry) and entries.is_bind(entry):
            stage.name = f"mount {entry['destination']}"
            if gates is None:
                entries.need_peers(str(entry["source"]))
            tied[at] = entries.open_bind(entry, config["linux"])
    stage.name = "root filesystem"
    root = _take_root(rootfs, prepared, "rprivate" if kind == "rprivate" else "rslave")
    os.umask(0)
    userns = prepared is not None and prepared.userns
    filled = False
    for at, entry in enumerate(listed):
        stage.name = f"mount {entry['destination']}"
        if made is not None and made.put(root, entry):
            filled = filled or entry["destination"] == "/dev"
        elif entry.get("type") == "cgroup":
            private = any(space["type"] == "cgroup" for space in config["linux"]["namespaces"])
            hierarchies.mount(root, entry, private=private)
        elif entry["destination"] == "/dev":  # read-only once its nodes are there
            options = [word for word in entries.options_of(entry) if word not in ("ro", "rro")]
            entries.mount(root, {**entry, "options": options}, tied.get(at, -1), kind=kind)
        else:
            entries.mount(root, entry, tied.get(at, -1), kind=kind)
    stage.name = "devices"
    _devices(root, config, gates, userns=userns, filled=filled)
    slave = None
    if config["process"].get("terminal") and console_socket is not None:
        stage.name = "terminal"
        slave = tty.open_terminal(root, console_socket)
        _console(root, slave)
    _seal_dev(root, listed)
    settle(root)
    stage.name = "paths"
    for path in config["linux"].get("readonlyPaths") or ():
        _seal(root, path)
    _mask(root, config["linux"].get("maskedPaths") or ())
    stage.name = "root"
    change = _pivot if gates is None or gates.pivots else _move
    change(root)
    if config["root"].get("readonly"):
        mounts.set_attributes(libc.AT_FDCWD, set=mounts.MOUNT_ATTR_RDONLY, path="/")
    said = str(config["linux"].get("rootfsPropagation") or "private")
    if said not in ("private", "rprivate"):
        mounts.make_private("/", kind=said)
    return slave


def _default_kind(config: Config) -> str:
    """How mounts propagate that do not say it: as the root does; runc's default is rslave."""
    said = str(config["linux"].get("rootfsPropagation") or "rslave")
    return "rprivate" if said in ("private", "rprivate", "unbindable", "runbindable") else "rslave"


def _take_root(rootfs: str, prepared: Prepared | None, kind: str) -> int:
    """A descriptor of the root to be, a mount of its own that nothing propagates from or to."""
    mounts.make_private("/", kind=kind)
    if prepared is not None:
        below = mounts.PROPAGATION[kind] & ~mounts.MS_REC
        mounts.set_attributes(prepared.tree, propagation=below, recursive=True)
        mounts.set_attributes(prepared.tree, propagation=mounts.MS_PRIVATE)
        mounts.attach(prepared.tree, ".")
        return prepared.tree
    if not mounts.is_mounted(rootfs):
        mounts.bind(rootfs, rootfs)
    mounts.make_private(rootfs, kind="private")  # pivot_root(2) refuses a shared one
    return os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def _pivot(root: int) -> None:
    """The old root ends up on top of the new one and is detached: no directory is needed for it
    (pivot_root(2)).
    """
    os.fchdir(root)
    libc.syscall("pivot_root", b".", b".", subject="root filesystem")
    libc.call("umount2", b".", mounts.MNT_DETACH, subject="old root")
    os.chdir("/")
    os.close(root)


def _move(root: int) -> None:
    """Where the host's root cannot be changed (it is the initramfs): chroot(2) says why this is weaker."""
    os.fchdir(root)
    mounts.mount(".", "/", None, mounts.MS_MOVE)
    os.chroot(".")
    os.chdir("/")
    os.close(root)


# ---------------------------------------------------------------- /dev


def fill_dev(dev: int, *, nodes: bool = True, core: bool = True) -> None:
    """What every /dev has, in its open directory: links; its `nodes`; with `core` that link, too."""
    for name, major, minor in NODES if nodes else ():
        _make(dev, name, stat.S_IFCHR | 0o666, os.makedev(major, minor))
    for name, target in LINKS:
        if core or name != "core":
            _point(dev, name, target)


def _devices(root: int, config: Config, gates: Gates | None, *, userns: bool, filled: bool) -> None:
    """Nothing where the user mounted a /dev of the host's own; `filled`: it has what it is to have always."""
    over = [entry for entry in config.get("mounts") or () if entry["destination"] == "/dev"]
    own = any(entry.get("type") == "tmpfs" for entry in over)
    if not filled and (own or (gates is not None and not any(entries.is_bind(entry) for entry in over))):
        dev = openat2.make_directory(root, "/dev")
        for name, _, _ in NODES if userns else ():
            _bind_node(root, f"/dev/{name}", f"/dev/{name}")
        fill_dev(dev, nodes=not userns, core=gates is None or os.path.exists("/proc/kcore"))  # as runc has it
        os.close(dev)
    devices = _wanted(config) if gates is None else config["linux"].get("devices") or ()
    for device in devices:
        source, path = str(device.get("source") or device["path"]), str(device["path"])
        if userns:
            _bind_node(root, source, path)
        elif "source" in device:
            _node(root, source, path)
        else:
            _described(root, device)


def _make(directory: int, name: str, mode: int, number: int) -> None:
    try:
        os.mknod(name, mode, number, dir_fd=directory)
    except FileExistsError:
        pass


def _point(directory: int, name: str, target: str) -> None:
    """A link that every container has; a node of the image with the name `ptmx` is the host's and goes."""
    try:
        os.symlink(target, name, dir_fd=directory)
    except FileExistsError:
        if name == "ptmx" and not stat.S_ISLNK(os.lstat(name, dir_fd=directory).st_mode):
            os.unlink(name, dir_fd=directory)
            os.symlink(target, name, dir_fd=directory)


def _bind_node(root: int, source: str, path: str) -> None:
    """No node is made in a user namespace (mknod(2)): the host's own is shown."""
    fd = mounts.open_tree(source, recursive=False)
    try:
        target = openat2.make_target(root, path, directory=False)
        mounts.attach(fd, target)
        os.close(target)
    finally:
        os.close(fd)


def _described(root: int, device: Config) -> None:
    """As config-linux.md has it: numbers, mode and owner."""
    kind = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}[str(device["type"])]
    path = str(device["path"])
    parent, _, name = path.rpartition("/")
    fd = openat2.make_directory(root, parent or "/")
    try:
        mode = device.get("fileMode")
        mode = 0o666 if mode is None else int(mode)
        number = os.makedev(int(device.get("major") or 0), int(device.get("minor") or 0))
        _make(fd, name, kind | mode, number)
        os.chown(
            name, int(device.get("uid") or 0), int(device.get("gid") or 0), dir_fd=fd, follow_symlinks=False
        )
    finally:
        os.close(fd)


def _seal_dev(root: int, listed: list[Config]) -> None:
    for entry in listed:
        words = {"ro", "rro"} & set(entries.options_of(entry))
        if entry["destination"] == "/dev" and words:
            fd = openat2.open_in_root(root, "/dev", os.O_PATH | os.O_DIRECTORY)
            mounts.set_attributes(fd, set=mounts.MOUNT_ATTR_RDONLY, recursive="rro" in words)
            os.close(fd)


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


def _mask(root: int, paths: Iterable[str]) -> None:
    """/dev/null over files, over directories an empty read-only one, the same for all."""
    empty = -1
    for path in paths:
        found = _look(root, path)
        if found is None:
            continue
        if not openat2.is_directory(found):
            mounts.mount("/dev/null", f"/proc/self/fd/{found}", None, mounts.MS_BIND)
        elif empty < 0:
            empty = mounts.new_filesystem("tmpfs", (("size", "0"),), attributes=mounts.MOUNT_ATTR_RDONLY)
            mounts.attach(empty, found)
        else:
            fd = mounts.open_tree("", dirfd=empty)
            mounts.attach(fd, found)
            os.close(fd)
        os.close(found)
    if empty >= 0:
        os.close(empty)


def _look(root: int, path: str) -> int | None:
    try:
        return openat2.open_in_root(root, path, os.O_PATH)
    except (FileNotFoundError, NotADirectoryError):
        return None
