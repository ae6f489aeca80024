"""Effects: what on this machine belongs to one state directory, and which of it nobody accounts for.

`strays` holds the kernel against the records: each mount, link, bridge, cgroup, table, process, descriptor
and directory with the mark of this root must belong to a container or network that is recorded. After
everything was removed, nothing may be left at all. Other roots on the machine are never looked at.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from runtime import spares
from runtime.database import connect
from runtime.linux import cgroups, mounts
from runtime.net import addresses, links
from runtime.paths import Paths

SLICE = "stead.slice"
#: descriptors that a shim may hold: its own, its log, its child's, one client's
SHIM_DESCRIPTORS = 32
#: what is mounted below a container's own directory while it runs
OWN_MOUNTS = ("rootfs", "netns", "pidns", "ipcns", "utsns", "shm")


@dataclass
class Records:
    """What the state database says should be there."""

    running: set[str] = field(default_factory=set)  # ids
    known: set[str] = field(default_factory=set)
    bridges: set[str] = field(default_factory=set)
    links: set[str] = field(default_factory=set)
    endpoints: set[str] = field(default_factory=set)


class Inventory:
    """Of one root. `ids` are all containers that it was ever seen to have: a cgroup bears no other mark."""

    def __init__(self, paths: Paths) -> None:
        self.paths = paths
        self.root = str(paths.root.resolve())
        self.ids: set[str] = set()
        self.agents: set[int] = set()  # processes that may have files of ours open
        self.cgroups = cgroups.detect()

    def records(self) -> Records:
        found = Records()
        if not self.paths.database.exists():
            return found
        with closing(connect(self.paths.database, readonly=True)) as database:
            for id, wanted in database.execute("SELECT id, wanted FROM containers"):
                found.known.add(id)
                if wanted == "running":
                    found.running.add(id)
            found.bridges = {row[0] for row in database.execute("SELECT bridge FROM networks")}
            for id, network in database.execute("SELECT container, network FROM leases"):
                found.links.add(addresses.link_name(self.root, id, network))
            found.endpoints = {row[0] for row in database.execute("SELECT container FROM endpoints")}
        waiting = spares.waiting(self.paths)  # for the next container
        found.known |= waiting
        found.running |= waiting
        self.ids |= found.known | set(self._directories())
        return found

    def subnets(self) -> list[str]:
        with closing(connect(self.paths.database, readonly=True)) as database:
            return [row[0] for row in database.execute("SELECT subnet FROM networks")]

    def strays(self) -> list[str]:
        """Lines for people; empty when every thing of this root belongs to a record."""
        records = self.records()
        return sorted(
            [
                *self._mounts(records),
                *self._links(records),
                *self._table(records),
                *self._cgroups(records),
                *self._processes(records),
                *self._files(records),
                *(f"leases of {id}" for id in records.endpoints - records.known),
            ]
        )

    # ------------------------------------------------------------ one kind each

    def _mounts(self, records: Records) -> Iterator[str]:
        live = str(self.paths.run / "containers") + "/"
        seen: set[str] = set()
        for mount in mounts.table():
            if mount.target == str(self.paths.root):
                continue  # a file system of its own
            if not mount.target.startswith((str(self.paths.root) + "/", str(self.paths.run) + "/")):
                continue
            id, _, what = mount.target.removeprefix(live).partition("/")
            ours = what in OWN_MOUNTS or what.startswith("mount-")
            if mount.target in seen:
                yield f"a second mount at {mount.target}"
            elif not (id in records.running and ours) and not self._held(mount.target, records):
                yield f"mount {mount.target}"
            seen.add(mount.target)

    def _held(self, target: str, records: Records) -> bool:
        """Whether it is what a volume lies on that running containers use, and nobody else."""
        name, _, rest = target.removeprefix(f"{self.paths.volumes}/").rpartition("/")
        holders = self.paths.run / "volumes" / name.replace("/", ",")
        if rest != "_data" or not holders.is_dir():
            return False
        ids = set(os.listdir(holders))
        return bool(ids) and ids <= records.running

    def _links(self, records: Records) -> Iterator[str]:
        ours = (addresses.bridge_prefix(self.root), addresses.link_prefix(self.root))
        for name in links.links():
            if name.startswith(ours) and name not in records.bridges | records.links:
                yield f"link {name}"

    def _table(self, records: Records) -> Iterator[str]:
        table = addresses.table_name(self.root)
        done = subprocess.run(["nft", "list", "table", "inet", table], capture_output=True)
        if done.returncode == 0 and not records.bridges:
            yield f"nftables table {table}"

    def _cgroups(self, records: Records) -> Iterator[str]:
        for top in self.cgroups.roots():
            for id in self.ids - records.running:
                if os.path.isdir(f"{top}/{SLICE}/{id}"):
                    yield f"cgroup {top}/{SLICE}/{id}"

    def _processes(self, records: Records) -> Iterator[str]:
        marks = (str(self.paths.root) + "/", str(self.paths.run) + "/")
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                command = Path(f"/proc/{pid}/comm").read_text().strip()
                places = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
                id = self._member(Path(f"/proc/{pid}/cgroup").read_text())
            except OSError:
                continue  # it has ended
            held = sorted({place for place in places if place.startswith(marks)})
            if int(pid) in self.agents:
                continue
            if command == "stead-names" and records.bridges and held == [f"{self.paths.run}/names/lock"]:
                continue  # it ends with the last network
            if command == "stead-outputs" and held == [f"{self.paths.run}/outputs.lock"]:
                continue  # it ends soon after the last container
            if command == "stead-shim" and held:
                yield from self._shim(pid, held, len(places), records)
            elif id:
                if id not in records.running:
                    yield f"process {pid} ({command}) in cgroup {id}"
                elif held:
                    yield f"descriptor {held[0]} in process {pid} ({command}) of container {id}"
            elif held and not self._is_copy(int(pid)):
                yield f"descriptor {held[0]} in process {pid} ({command})"

    def _is_copy(self, pid: int) -> bool:
        """Whether it is an agent's child that is about to become another program: execve(2) closes them."""
        try:
            parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            words = [Path(f"/proc/{one}/cmdline").read_bytes() for one in (pid, parent)]
        except OSError:
            return True  # it has ended
        return parent in self.agents and words[0] == words[1]

    def programs(self) -> dict[int, tuple[str, bytes]]:
        """By pid: the container that a process is in, and its words."""
        self.records()
        found = {}
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes()
                id = self._member(Path(f"/proc/{pid}/cgroup").read_text())
            except OSError:
                continue  # it has ended
            if id and words:
                found[int(pid)] = (id, words)
        return found

    def _member(self, text: str) -> str:
        """Which container's cgroup a process is in, by /proc/<pid>/cgroup."""
        names = {
            line.rpartition(f"/{SLICE}/")[2].split("/")[0] for line in text.splitlines() if SLICE in line
        }
        return next(iter(sorted(names & self.ids)), "")

    def _shim(self, pid: str, held: list[str], count: int, records: Records) -> Iterator[str]:
        containers = str(self.paths.root / "containers") + "/"
        ids = {place.removeprefix(containers).split("/")[0] for place in held if place.startswith(containers)}
        for id in ids - records.running:
            yield f"shim {pid} of container {id}"
        if count > SHIM_DESCRIPTORS:
            yield f"{count} descriptors in shim {pid}"

    def _directories(self) -> list[str]:
        parents = (self.paths.root / "containers", self.paths.run / "containers")
        return [name for parent in parents if parent.is_dir() for name in os.listdir(parent)]

    def _files(self, records: Records) -> Iterator[str]:
        for id in set(self._directories()) - records.known:
            yield f"directory of container {id}"
        for top in (self.paths.root, self.paths.run):
            for folder, folders, files in os.walk(top):
                if folder == str(top):  # what containers and images hold is theirs
                    folders[:] = [name for name in folders if name in ("containers", "sources", "layers")]
                if os.path.basename(folder) == "layers":
                    yield from (f"unpacked {folder}/{name}" for name in folders if name.startswith("."))
                    folders[:] = []
                if os.path.basename(folder) == "containers":  # files of a container go with it
                    folders[:] = []
                yield from (f"file {folder}/{name}" for name in files if name.endswith((".tmp", ".new")))
