"""Effects: a container's view of its control groups, on hosts of both versions: cgroup_namespaces(7).

Mounts of the kernel's own kind where the container has a cgroup namespace; else binds of its own directories.
Only cgroup v1 needs mount(2).
"""

from __future__ import annotations

import os

from runtime.linux import mounts, openat2
from runtime.shim import entries

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Config = dict[str, Any]


_found: list[tuple[list[mounts.Mount], mounts.Mount | None]] = []


def host_hierarchies() -> tuple[list[mounts.Mount], mounts.Mount | None]:
    """The host's mounts of cgroup v1, and that of v2. Read once, by the zygote: a mount table is long where
    there are many containers, and each would read it."""
    if not _found:
        found = mounts.table(naming=" cgroup")
        v1 = [mount for mount in found if mount.type == "cgroup"]
        _found.append((v1, next((mount for mount in found if mount.type == "cgroup2"), None)))
    return _found[0]


def mount(root: int, entry: Config, *, private: bool) -> None:
    """The container's own part of each hierarchy; `private`: it has a cgroup namespace."""
    destination, options = str(entry["destination"]), entries.options_of(entry)
    sealed = [word for word in options if word in entries.ATTRIBUTES]
    hierarchies, unified = host_hierarchies()
    own = {} if private else _own_paths()
    if not hierarchies:
        _mount_v2(root, destination, unified, own, sealed)
        return
    loose = [word for word in sealed if word != "ro"]
    entries.mount(
        root, {"destination": destination, "type": "tmpfs", "options": [*loose, "mode=755", "size=65536"]}
    )
    place = openat2.open_in_root(root, destination, os.O_PATH | os.O_DIRECTORY)
    os.fchdir(place)
    seen: set[str] = set()
    for one in hierarchies:
        name = os.path.basename(one.target)
        if name not in seen:
            seen.add(name)
            if private:
                _mount_v1(name, one, options)
            else:
                _bind_own(root, f"{destination}/{name}", one, own, sealed)
            for alias in name.split(",") if "," in name else ():
                _link(alias, name)
    if unified is not None:
        _mount_v2(root, f"{destination}/unified", unified, own, sealed)
    if "ro" in sealed:
        mounts.set_attributes(place, set=mounts.MOUNT_ATTR_RDONLY)
    os.fchdir(root)
    os.close(place)


def _mount_v2(
    root: int, path: str, unified: mounts.Mount | None, own: dict[str, str], sealed: list[str]
) -> None:
    """The host's cgroup namespace is nothing that a user namespace may mount."""
    try:
        entries.mount(root, {"destination": path, "type": "cgroup2", "source": "cgroup", "options": sealed})
    except PermissionError:
        if unified is None or not own:
            raise
        _bind_own(root, path, unified, own, sealed)


def _mount_v1(name: str, mount: mounts.Mount, options: list[str]) -> None:
    """The same controllers as the host's mount: the options that are not about all file systems. The working
    directory is the file system that was just made for all of them, into which nobody else has looked yet."""
    flags = mounts.MS_NOSUID | mounts.MS_NODEV | mounts.MS_NOEXEC
    flags |= mounts.MS_RDONLY if "ro" in options else 0
    general = {"rw", "ro", "xattr", "clone_children", "noprefix", "cpuset_v2_mode", "nsdelegate"}
    words = [word for word in mount.super_options if word not in general and "release_agent" not in word]
    data = ",".join(["none", *words] if any(word.startswith("name=") for word in words) else words)
    os.mkdir(name, 0o755)
    mounts.mount("cgroup", name, "cgroup", flags, data)


def _own_paths() -> dict[str, str]:
    """Controller or "name=..." to this process's path in its hierarchy: cgroups(7), /proc/[pid]/cgroup."""
    found = {}
    with open("/proc/self/cgroup", "rb") as file:
        for line in file.read().decode(errors="surrogateescape").splitlines():
            _, names, path = line.split(":", 2)
            found.update(dict.fromkeys(names.split(","), path))
    return found


def _bind_own(root: int, path: str, mount: mounts.Mount, own: dict[str, str], sealed: list[str]) -> None:
    """The directory of this process's own cgroup; `mount` may show a part of the hierarchy only."""
    named = [word for word in mount.super_options if word in own]
    here = own.get("", "/") if mount.type == "cgroup2" else own[named[0]] if named else "/"
    part = mount.root.rstrip("/")
    if part and here.startswith(f"{part}/"):
        here = here[len(part) :]
    source = f"{mount.target}/{here.strip('/')}"
    entries.mount(root, {"destination": path, "type": "bind", "source": source, "options": ["bind", *sealed]})


def _link(name: str, target: str) -> None:
    try:
        os.symlink(target, name)
    except FileExistsError:
        pass
