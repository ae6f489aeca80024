"""Effects: a container's view of its control groups, on hosts of both versions: cgroup_namespaces(7).

Mounts of the kernel's own kind where the container has a cgroup namespace; else binds of its own directories.
"""

from __future__ import annotations

import os

from runtime.linux import mounts
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


class Made:
    """Detached: the mount of all, and those on directories of it, by their names."""

    __slots__ = ("parts", "top")

    def __init__(self, top: int, parts: dict[str, int]) -> None:
        self.top, self.parts = top, parts

    def close(self) -> None:
        for fd in (self.top, *self.parts.values()):
            os.close(fd)


def make(entry: Config) -> Made:
    """For a process with the container's cgroup namespace, in its cgroup."""
    options = entries.options_of(entry)
    sealed, _ = entries.bits_of([word for word in options if word in entries.ATTRIBUTES])
    hierarchies, unified = host_hierarchies()
    if not hierarchies:
        return Made(_new_v2(sealed), {})
    made = Made(_new_top(options), {})
    for one in hierarchies:
        name = os.path.basename(one.target)
        if name not in made.parts:
            os.mkdir(name, 0o755, dir_fd=made.top)
            made.parts[name] = _new_v1(one, sealed)
            _link_aliases(name, made.top)
    if unified is not None:
        os.mkdir("unified", 0o755, dir_fd=made.top)
        made.parts["unified"] = _new_v2(sealed)
    return made


def put(root: int, entry: Config, made: Made) -> None:
    """Mount it where `entry` says. It is closed."""
    entries.put(root, str(entry["destination"]), made.top)
    for name, fd in made.parts.items():
        place = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=made.top)
        mounts.attach(fd, place)
        os.close(place)
    if made.parts and "ro" in entries.options_of(entry):
        mounts.set_attributes(made.top, set=mounts.MOUNT_ATTR_RDONLY)
    made.close()


def mount(root: int, entry: Config, *, private: bool) -> None:
    """The container's own part of each hierarchy; `private`: it has a cgroup namespace."""
    if private:
        put(root, entry, make(entry))
        return
    destination, options = str(entry["destination"]), entries.options_of(entry)
    sealed = [word for word in options if word in entries.ATTRIBUTES]
    hierarchies, unified = host_hierarchies()
    own = _own_paths()
    if not hierarchies:
        _mount_v2(root, destination, unified, own, sealed)
        return
    top = _new_top(options)
    entries.put(root, destination, top)
    seen: set[str] = set()
    for one in hierarchies:
        name = os.path.basename(one.target)
        if name not in seen:
            seen.add(name)
            _bind_own(root, f"{destination}/{name}", one, own, sealed)
            _link_aliases(name, top)
    if unified is not None:
        _mount_v2(root, f"{destination}/unified", unified, own, sealed)
    if "ro" in sealed:
        mounts.set_attributes(top, set=mounts.MOUNT_ATTR_RDONLY)
    os.close(top)


def _new_top(options: list[str]) -> int:
    """A directory for those of cgroup v1, still to be written to."""
    bits, _ = entries.bits_of([word for word in options if word in entries.ATTRIBUTES and word != "ro"])
    return mounts.new_filesystem("tmpfs", (("mode", "755"), ("size", "65536")), attributes=bits)


def _new_v1(mount: mounts.Mount, sealed: int) -> int:
    """The same controllers as the host's mount: the options that are not about all file systems."""
    general = {"rw", "ro", "xattr", "clone_children", "noprefix", "cpuset_v2_mode", "nsdelegate"}
    words = [word for word in mount.super_options if word not in general and "release_agent" not in word]
    if any(word.startswith("name=") for word in words):
        words.insert(0, "none")
    data: list[tuple[str, str | None]] = [("source", "cgroup")]
    for word in words:
        key, given, value = word.partition("=")
        data.append((key, value if given else None))
    safe = mounts.MOUNT_ATTR_NOSUID | mounts.MOUNT_ATTR_NODEV | mounts.MOUNT_ATTR_NOEXEC
    return mounts.new_filesystem("cgroup", data, attributes=safe | sealed)


def _new_v2(sealed: int) -> int:
    return mounts.new_filesystem("cgroup2", (("source", "cgroup"),), attributes=sealed)


def _mount_v2(
    root: int, path: str, unified: mounts.Mount | None, own: dict[str, str], sealed: list[str]
) -> None:
    """The host's cgroup namespace is nothing that a user namespace may mount."""
    try:
        entries.mount(root, {"destination": path, "type": "cgroup2", "source": "cgroup", "options": sealed})
    except PermissionError:
        if unified is None:
            raise
        _bind_own(root, path, unified, own, sealed)


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


def _link_aliases(name: str, directory: int) -> None:
    """cpu,cpuacct is known by either name, too."""
    for alias in name.split(",") if "," in name else ():
        try:
            os.symlink(name, alias, dir_fd=directory)
        except FileExistsError:
            pass
