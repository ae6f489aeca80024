"""Effects: a worker enters a container: the mount namespace of one that runs, else what that would be.

Of a container that does not run, the root file system is mounted in a mount namespace of the worker's own,
with its volumes and binds where they would be; all that is gone with the worker, however it ends.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.cp.worker import Entered, Failed
from runtime.inside import same_process
from runtime.linux import mounts, namespaces, openat2, overlay

#: types of OCI mounts whose files are the kernel's, and no data
_KERNEL = frozenset({"proc", "sysfs", "cgroup", "cgroup2", "devpts", "mqueue"})


@dataclass(frozen=True, slots=True)
class Bound:
    """A directory or file of the host that is at `target` in the container."""

    source: str
    target: str
    read_only: bool
    subpath: str = ""


@dataclass(frozen=True, slots=True)
class Still:
    """The file system of a container that does not run. `layers` are from the top down; `mounted`: it is
    still mounted at `rootfs`, with the ids of the user namespace bound to `userns` if there is one. `place`
    is a directory that may be covered."""

    upper: Path
    work: Path
    layers: tuple[Path, ...]
    rootfs: Path
    mounted: bool
    place: Path
    bound: tuple[Bound, ...]
    read_only: bool
    userns: Path | None = None


def kernels_own(mounts_of_config: Sequence[dict[str, object]]) -> list[str]:
    """Destinations in config.json that have nothing to copy."""
    return [str(item["destination"]) for item in mounts_of_config if item.get("type") in _KERNEL]


def running(pid: int, start: int, bare: Sequence[str]) -> Callable[[], Entered]:
    """Of the container whose first process is `pid`, begun at `start` (clock ticks since boot)."""

    def enter() -> Entered:
        opened = {}
        for name in ("user", "mnt"):
            opened[name] = os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)
        own_users = os.readlink(f"/proc/{pid}/ns/user") != os.readlink("/proc/self/ns/user")
        root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        if not same_process(pid, start):
            raise Failed("the container ended meanwhile")
        if own_users:  # files get the numbers that they have in there
            _become_root_of(opened["user"])
        namespaces.setns(opened["mnt"], namespaces.CLONE_NEWNS)
        os.fchdir(root)
        os.chroot(".")
        inside = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        return Entered(inside, bare=[*bare, "/dev"])

    return enter


def still(found: Still) -> Callable[[], Entered]:
    """Of one that does not run."""

    def enter() -> Entered:
        namespaces.unshare(namespaces.CLONE_NEWNS)
        mounts.make_private()
        users = os.open(found.userns, os.O_RDONLY | os.O_CLOEXEC) if found.userns is not None else -1
        binds = [(item, _source(item, users)) for item in found.bound]  # before anything is covered
        if found.mounted:
            mounts.bind(found.rootfs, found.place)
        else:
            overlay.mount(list(found.layers), found.upper, found.work, found.place)
        root = os.open(found.place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        for item, source in binds:
            if source is not None:
                _bind(root, item, source)
        if users >= 0:
            _become_root_of(users)
        os.fchdir(root)
        os.chroot(".")
        inside = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        return Entered(inside, read_only=found.read_only)

    return enter


def _become_root_of(users: int) -> None:
    """Files have the numbers from now on that they have in that user namespace."""
    namespaces.setns(users, namespaces.CLONE_NEWUSER)
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)


def _source(item: Bound, users: int) -> tuple[int, bool] | None:
    """(a detached mount of what is bound, whether it is a directory); None where it is not there. With the
    ids of the user namespace `users`, as the container has it, if that is one."""
    try:
        fd = os.open(item.source, os.O_PATH | os.O_CLOEXEC)
        if item.subpath:
            fd = openat2.open_in_root(fd, item.subpath, os.O_PATH)
    except FileNotFoundError:
        return None
    tree = mounts.open_tree("", dirfd=fd, recursive=True)
    if item.read_only:
        mounts.set_attributes(tree, set=mounts.MOUNT_ATTR_RDONLY, recursive=True)
    if users >= 0:
        mounts.set_attributes(tree, set=mounts.MOUNT_ATTR_IDMAP, userns=users)
    return tree, openat2.is_directory(fd)


def _bind(root: int, item: Bound, source: tuple[int, bool]) -> None:
    tree, directory = source
    mounts.attach(tree, openat2.make_target(root, item.target, directory=directory))
