"""Effects: control groups of both versions behind one class; which controller lives where is read from the
mount table, never guessed.

A path ("stead.slice/<id>") is relative to the root of each hierarchy; every method covers all hierarchies in
use and may be repeated. cgroups(7), Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/.
"""

from __future__ import annotations

import errno
import os
import select
import time

from runtime.linux import mounts, pidfd
from runtime.linux.cgroups_v1 import V1
from runtime.linux.cgroups_v2 import V2, _read, write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Any

    from runtime.linux.limits import IoLimit as IoLimit
    from runtime.linux.limits import Limits as Limits
    from runtime.linux.limits import Stats as Stats

CONTROLLERS = ("cpu", "cpuset", "memory", "io", "pids")
HUGEPAGES = "hugetlb"
_PERIOD = 100_000
_FROZEN = ("FREEZING", "FROZEN")  # cgroup-v1/freezer-subsystem.rst
_REMOVE_TIMEOUT = 5.0


def __getattr__(name: str) -> object:
    """Limits, IoLimit and Stats are loaded when asked for: a shim never asks."""
    if name in ("Limits", "IoLimit", "Stats"):
        from runtime.linux import limits

        return getattr(limits, name)
    raise AttributeError(name)


def detect(table: Sequence[mounts.Mount] | None = None) -> Cgroups:
    """What is mounted on this host: v1 controllers, the v2 hierarchy, or both (hybrid)."""
    v1: dict[str, str] = {}
    v2 = ""
    for entry in mounts.table() if table is None else table:
        if entry.type == "cgroup2":
            v2 = v2 or entry.target
        elif entry.type == "cgroup":
            for option in entry.super_options:
                if option in V1.KNOWN or option.startswith("name="):
                    v1.setdefault(option, entry.target)
    if not v1 and not v2:
        raise OSError(errno.ENOTSUP, "find cgroups: no hierarchy is mounted", "/sys/fs/cgroup")
    return Cgroups(V1(v1) if v1 else None, V2(v2) if v2 else None)


class Cgroups:
    """All hierarchies of a host. `v2` has the controllers that no v1 hierarchy took."""

    def __init__(self, v1: V1 | None, v2: V2 | None) -> None:
        self.v1 = v1
        self.v2 = v2

    def __repr__(self) -> str:
        return f"Cgroups(v1={self.v1 and sorted(self.v1.mounted)}, v2={self.v2 and self.v2.root!r})"

    def roots(self) -> list[str]:
        """The mount point of each hierarchy, once."""
        found = self.v1.roots() if self.v1 else []
        return [*found, self.v2.root] if self.v2 else found

    def owner(self, controller: str) -> V1 | V2 | None:
        """Where a controller (by its v2 name) is on this host."""
        if self.v1 and self.v1.has(controller):
            return self.v1
        return self.v2 if self.v2 and self.v2.has(controller) else None

    # ------------------------------------------------------------ life

    def create(self, path: str) -> None:
        for version in (self.v1, self.v2):
            if version:
                version.create(path)

    def exists(self, path: str) -> bool:
        """In every hierarchy."""
        return all(os.path.isdir(f"{root}/{path}") for root in self.roots())

    def present(self, parent: str, names: Iterable[str]) -> set[str]:
        """Those of `names` that are cgroups below `parent` in every hierarchy: `exists` for all at once."""
        found = set(names)
        for root in self.roots():
            try:
                found.intersection_update(os.listdir(f"{root}/{parent}"))
            except FileNotFoundError:
                return set()
        return found

    def add(self, path: str, pid: int) -> None:
        """Move the process (0: the caller) in. ProcessLookupError when it is gone."""
        for root in self.roots():
            write(f"{root}/{path}/cgroup.procs", str(pid))

    def enter(self, path: str, *, born: bool = False) -> None:
        """Move the calling process, which has one thread, in; `born`: it is in the v2 hierarchy's already.

        v1's `tasks` moves one thread without the grace period that cgroup.procs waits for (cgroup_procs_write
        in kernel/cgroup/cgroup.c).
        """
        if self.v1:
            for root in self.v1.roots():
                write(f"{root}/{path}/tasks", "0")
        if self.v2 and not born:
            write(f"{self.v2.root}/{path}/cgroup.procs", "0")

    def open_v2(self, path: str) -> int:
        """A descriptor of the cgroup's directory, for a process to be born in; -1 where v2 is not mounted."""
        if self.v2 is None:
            return -1
        return os.open(f"{self.v2.root}/{path}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def pids(self, path: str) -> list[int]:
        """Processes in the tree in any hierarchy; none where there is no such cgroup."""
        found: set[int] = set()
        for root in self.roots():
            for directory in tree(f"{root}/{path}"):
                found.update(int(line) for line in (read(f"{directory}/cgroup.procs") or "").split())
        found.discard(0)  # processes of an outer pid namespace
        return sorted(found)

    def children(self, path: str) -> list[str]:
        """Names of the cgroups directly below, in any hierarchy."""
        found: set[str] = set()
        for root in self.roots():
            found.update(subdirectories(f"{root}/{path}"))
        return sorted(found)

    def kill(self, path: str, timeout: float = 5.0) -> None:
        """SIGKILL until the tree is empty. TimeoutError when something survives `timeout` seconds.

        Not by cgroup.kill: on some kernels (6.18 is one) a process that is born in a cgroup after that, see
        runtime.linux.fork, is killed as well.
        """
        deadline = time.monotonic() + timeout
        if not self.pids(path):
            return
        if self.v1:
            self.v1.thaw(path)
        if self.v2:
            self.v2.freeze(path, True)
        try:
            while members := self.pids(path):
                if time.monotonic() > deadline:
                    text = f"kill cgroup: processes {members[:5]} do not end"
                    raise TimeoutError(errno.ETIMEDOUT, text, path)
                self._kill_once(path, members, deadline)
        finally:
            if self.v2:
                self.v2.freeze(path, False)

    def _kill_once(self, path: str, members: list[int], deadline: float) -> None:
        """Held by pidfd first, then looked up again: a pid that was recycled in between is not in the
        tree.
        """
        held: dict[int, int] = {}
        try:
            for pid in members:
                try:
                    held[pid] = pidfd.open_pidfd(pid)
                except OSError:
                    continue
            for pid in set(self.pids(path)) & held.keys():
                try:
                    pidfd.send_signal(held[pid], 9)
                except ProcessLookupError:
                    continue
            for fd in held.values():
                pidfd.wait(fd, max(0.0, min(0.5, deadline - time.monotonic())))
        finally:
            for fd in held.values():
                os.close(fd)
        if not held:
            _pause()

    def freeze(self, path: str, timeout: float = 10.0) -> None:
        """Stop all processes of the tree until `thaw`. TimeoutError when one has not stopped within `timeout`
        seconds (it waits for a disk, perhaps): then all go on. ENOTSUP where nothing can freeze."""
        deadline = time.monotonic() + timeout
        if self.v2:
            self.v2.freeze(path, True)
        try:
            while not (self.v2.is_frozen(path) if self.v2 else self.v1 and self.v1.freeze(path)):
                if time.monotonic() > deadline:
                    raise TimeoutError(errno.ETIMEDOUT, "freeze cgroup: processes do not stop", path)
                _pause()
        except BaseException:
            self.thaw(path)
            raise

    def thaw(self, path: str) -> None:
        """Let them go on. Repeatable."""
        if self.v2:
            self.v2.freeze(path, False)
        elif self.v1:
            self.v1.thaw(path)

    def is_frozen(self, path: str) -> bool:
        """Whether somebody said `freeze` of it, and not yet `thaw`."""
        if self.v2:
            return (read(f"{self.v2.root}/{path}/cgroup.freeze") or "").strip() == "1"
        if self.v1 and "freezer" in self.v1.mounted:
            return (read(f"{self.v1.mounted['freezer']}/{path}/freezer.state") or "").strip() in _FROZEN
        return False

    def thawing(self, path: str) -> list[tuple[str, str]]:
        """What `thaw` does, for a process that has nothing of this: (file, what is to be written)."""
        if self.v2:
            return [(f"{self.v2.root}/{path}/cgroup.freeze", "0")]
        if self.v1 and "freezer" in self.v1.mounted:
            return [(f"{self.v1.mounted['freezer']}/{path}/freezer.state", "THAWED")]
        return []

    def remove(self, path: str) -> None:
        """Remove the tree from every hierarchy. Kills nothing; an ending process is waited for."""
        deadline = time.monotonic() + _REMOVE_TIMEOUT
        for root in self.roots():
            try:
                os.rmdir(f"{root}/{path}")
            except OSError:  # it has others below, an ending process, or is gone
                for directory in reversed(list(tree(f"{root}/{path}"))):
                    _rmdir(directory, deadline)

    # ------------------------------------------------------------ limits

    def apply(self, path: str, limits: Limits) -> None:
        """Make the kernel's limits these; a field that is 0 or "" is lifted.

        OSError(ENOTSUP) names a limit whose controller this host does not have.
        """
        wanted = normalize(limits)
        needs = {
            "cpu": wanted.cpus or wanted.cpu_weight,
            "cpuset": wanted.cpuset,
            "memory": wanted.memory or wanted.memory_reservation or wanted.memory_swap,
            "io": wanted.io_weight or wanted.io,
            "pids": wanted.pids,
            "hugetlb": wanted.hugepages,
        }
        for controller in (*CONTROLLERS, HUGEPAGES):
            owner = self.owner(controller)
            if owner is not None:
                owner.apply(path, controller, wanted)
            elif needs[controller]:
                text = f"limit {controller}: this host has no {controller} controller"
                raise OSError(errno.ENOTSUP, text, path)

    def read_limits(self, path: str, *, io: bool = True, like: Limits | None = None) -> Limits:
        """As the kernel has them; without `io`, which is many files, none of those; of hugepages and
        swappiness, which few have, only what `like` says anything of. FileNotFoundError when there is no such
        cgroup."""
        from runtime.linux.limits import Limits

        fields: dict[str, Any] = {}
        for controller in CONTROLLERS if io else [name for name in CONTROLLERS if name != "io"]:
            owner = self.owner(controller)
            if owner is not None:
                fields.update(owner.read_limits(path, controller))
        if like is not None and like.hugepages and (pages := self.owner(HUGEPAGES)) is not None:
            fields["hugepages"] = pages.read_hugepages(path)
        if like is not None and like.swappiness >= 0 and self.v1 and self.v1.has("memory"):
            fields["swappiness"] = self.v1.read_swappiness(path)
        return Limits(**fields)

    def allow_devices(self, path: str, rules: Sequence[Mapping[str, Any]]) -> None:
        """Deny every device but the default set and `rules` (OCI: allow, type, major, minor, access; or a
        `path` on the host). A rule without a device and with access "rwm" allows all."""
        from runtime.linux import devices

        allowed = devices.cgroup_rules(rules)
        if self.v1 and self.v1.has("devices"):
            self.v1.allow_devices(path, allowed)
        elif self.v2:
            directory = os.open(f"{self.v2.root}/{path}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                devices.attach_program(directory, allowed)
            finally:
                os.close(directory)

    # ------------------------------------------------------------ looking

    def stats(self, path: str) -> Stats:
        """Use of the whole tree. FileNotFoundError when there is no such cgroup."""
        from runtime.linux.limits import Stats

        fields: dict[str, Any] = {}
        for controller in ("cpu", "memory", "io", "pids"):
            owner = self.owner(controller)
            if owner is not None:
                fields.update(owner.stats(path, controller))
        fields["oom_events"] = self.oom_kills(path)
        return Stats(**fields)

    def oom_kills(self, path: str) -> int:
        """Processes of the tree that the kernel killed for memory since the cgroup was made."""
        owner = self.owner("memory")
        return owner.oom_kills(path) if owner is not None else 0


def normalize(limits: Limits) -> Limits:
    """What read_limits returns after apply: rounding, canonical lists and devices, defaults as "no limit"."""
    from runtime.linux.limits import IoLimit, Limits

    page = os.sysconf("SC_PAGESIZE")

    def pages(size: int) -> int:
        return max(0, size) // page * page

    memory = pages(limits.memory)
    quota = max(1000, round(limits.cpus * _PERIOD)) if limits.cpus > 0 else 0
    swap = limits.memory_swap or 2 * memory
    cpus = canonical_cpus(limits.cpuset)
    io = [
        IoLimit(device_number(item.device), item.read_bps, item.write_bps, item.read_iops, item.write_iops)
        for item in limits.io
    ]
    return Limits(
        cpus=quota / _PERIOD,
        cpu_weight=0 if limits.cpu_weight in (0, 100) else min(10000, max(1, limits.cpu_weight)),
        cpuset="" if cpus == online_cpus() else cpus,
        memory=memory,
        memory_reservation=pages(limits.memory_reservation),
        memory_swap=max(memory, pages(swap)) if swap > 0 else 0,
        pids=max(0, limits.pids),
        io_weight=0 if limits.io_weight in (0, 100) else min(10000, max(1, limits.io_weight)),
        io=tuple(sorted((i for i in io if i != IoLimit(i.device)), key=lambda item: item.device)),
        hugepages=tuple(
            sorted((size, limit // page_size(size) * page_size(size)) for size, limit in limits.hugepages)
        ),
        swappiness=limits.swappiness,
    )


def page_size(text: str) -> int:
    """Bytes of a page that the kernel calls "64KB", "2MB" or "1GB"."""
    return int(text[:-2]) << {"KB": 10, "MB": 20, "GB": 30}[text[-2:]]


def online_cpus() -> str:
    return (read("/sys/devices/system/cpu/online") or "").strip()


def canonical_cpus(text: str) -> str:
    """A list of CPUs as the kernel writes it: "3,0,1" becomes "0-1,3". ValueError for another text."""
    numbers: set[int] = set()
    for part in filter(None, (word.strip() for word in text.split(","))):
        first, _, last = part.partition("-")
        numbers.update(range(int(first), int(last or first) + 1))
    words: list[str] = []
    start = previous = -2
    for number in [*sorted(numbers), -1]:
        if number == previous + 1:
            previous = number
            continue
        if start >= 0:
            words.append(str(start) if start == previous else f"{start}-{previous}")
        start = previous = number
    return ",".join(words)


def device_number(device: str) -> str:
    """ "major:minor" of a block device given by path (or already so)."""
    if not device.startswith("/"):
        return device
    status = os.stat(device)
    if status.st_mode & 0o170000 != 0o060000:
        raise OSError(errno.ENOTBLK, "limit io: not a block device", device)
    return f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"


# ---------------------------------------------------------------- files


def read(path: str) -> str | None:
    """A small file of the kernel; None when it is not there, or not any more."""
    try:
        return _read(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:  # a threaded cgroup
            return None
        raise


def subdirectories(directory: str) -> list[str]:
    try:
        with os.scandir(directory) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []


def tree(directory: str) -> Iterator[str]:
    """`directory` and all below, parents first; nothing when it is not there."""
    try:
        links = os.stat(directory).st_nlink
    except (FileNotFoundError, NotADirectoryError):
        return
    yield directory
    if links <= 2:  # the directory's own; a cgroup with just those has no child
        return
    for name in subdirectories(directory):
        yield from tree(f"{directory}/{name}")


def _rmdir(directory: str, deadline: float) -> None:
    while True:
        try:
            os.rmdir(directory)
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
        _pause()


def _pause() -> None:
    """A cgroup stays busy for moments after its last process; the kernel offers nothing to wait on for v1."""
    select.select([], [], [], 0.002)
