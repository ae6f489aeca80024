"""Effects: what a container needs before its program runs, each an "ensure" that mends what it finds broken.

The cgroup, the network namespace and the overlay mount belong to the container, not to one of its runs.
`Preparation.begun` and `make` build them in the order of dependence, `clear` takes them away in the reverse
order. All may be repeated from any point at which a crash left them. The directory `run/containers/<id>` is
made first and removed last: what a crash leaves is always found through it.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from runtime import bundle, loggers, machine, secrets, supervising
from runtime.bundle import Setting, User
from runtime.confinement import Confinement
from runtime.faults import Fault, faults
from runtime.filters import flags_of
from runtime.ground import Ground
from runtime.ids import IdRange, Ids
from runtime.images.store import ImageStore, StoredImage
from runtime.inside import clone_root, processes_of, read_in_root
from runtime.joining import Joined, Joining
from runtime.linux import capabilities, idmapped, mounts, namespaces, overlay
from runtime.linux.cgroups import Cgroups
from runtime.linux.limits import IoLimit, Limits
from runtime.net.fabric import Fabric
from runtime.net.files import ETC, hostname_of
from runtime.paths import USERNS, Paths, delete_tree, write_atomically
from runtime.records import ContainerRecord
from runtime.restarts import NO_RESTARTS, RESTARTS, Restarts
from runtime.salvage import salvage
from runtime.shim import client
from runtime.users import find_user
from runtime.volumes import Volumes
from runtime.volumes.mounting import PREFIX, Mounting, all_mounts, declared_by
from runtime.volumes.mounting import User as MountUser
from runtime.wishes import (
    ContainerRequest,
    LimitsRequest,
    owner_in,
    owner_of_network,
    shared_namespaces,
)
from specs.values import MountPoint

SLICE = "stead.slice"
#: what is done beside something else at one time
ASIDE = 8


_LIMITS = tuple(field.name for field in fields(LimitsRequest))


def cgroup_path(id: str) -> str:
    """Relative to the root of each hierarchy."""
    return f"{SLICE}/{id}"


def kernel_limits(limits: LimitsRequest) -> Limits:
    """The same values in the kernel layer's type."""
    values = {name: getattr(limits, name) for name in _LIMITS}
    values["io"] = tuple(IoLimit(**asdict(item)) for item in limits.io)
    return Limits(**values)


def userns_file(paths: Paths, id: str) -> Path:
    """Where the user namespace of a container with ids of its own is bound."""
    return paths.live(id) / USERNS


class Preparation:
    """Thread-safe for different containers; the caller keeps one step a container at a time."""

    def __init__(
        self,
        paths: Paths,
        images: ImageStore,
        fabric: Fabric,
        volumes: Volumes,
        cgroups: Cgroups,
        find: Callable[[str], ContainerRecord | None],
        ids: Ids,
    ) -> None:
        """`find` gives the record of a container by its name."""
        self._paths = paths
        self._find = find
        self._images = images
        self._fabric = fabric
        self._volumes = volumes
        self._mounting = Mounting(paths, volumes, images)
        self._cgroups = cgroups
        self._joining = Joining(paths, find)
        self._ids = ids
        self._confinement = Confinement(paths)
        self._secrets = secrets.SecretStore(paths)
        self._aside = ThreadPoolExecutor(ASIDE, "stead-aside")

    def close(self) -> None:
        self._aside.shutdown()

    # ------------------------------------------------------------ make

    def place(self, id: str, rules: Sequence[Mapping[str, Any]]) -> None:
        """Of a container that there may be: its directories, its network namespace, its cgroup with these
        device rules. Fault; `clear` takes it away."""
        self.directories(id, id)
        with faults("prepare place", id):
            namespaces.create_netns(self._paths.netns(id))
            self._cgroups.create(cgroup_path(id))
            self._cgroups.allow_devices(cgroup_path(id), rules)

    def directories(self, id: str, name: str) -> None:
        """Where all else is made. Fault."""
        live, home = self._paths.live(id), self._paths.container(id)
        with faults("prepare container", name):
            for directory in (live, home, f"{home}/work", f"{home}/log"):
                os.makedirs(directory, 0o700, exist_ok=True)
            self._fabric.lay_files(home)

    @contextmanager
    def begun(self, record: ContainerRecord, request: ContainerRequest) -> Iterator[Ground]:
        """What `make` builds on: aside, its network namespace and links, much of which waits for the kernel.
        Nothing of it goes on behind the back of who leaves. Raises Fault; the caller clears then."""
        ground = Ground(self._own_ids(record, request))
        ground.network = self._aside.submit(self._network, record, request, ground)
        try:
            yield ground
        finally:
            wait([ground.network])

    def make(
        self,
        record: ContainerRecord,
        request: ContainerRequest,
        image: StoredImage,
        ground: Ground,
        *,
        restarts: Restarts = NO_RESTARTS,
    ) -> Callable[[], None]:
        """Everything up to, and without, the program. What is returned is to be called next: it does what
        may be done while the program is brought up, its links and what is in its files of names; they
        themselves are there. Raises Fault; the caller clears."""
        paths, id, ids = self._paths, record.id, ground.ids
        log = loggers.document(request, id, record.image_id)
        home = paths.container(id)
        with faults("prepare container", record.name):
            (home / "exit.json").unlink(missing_ok=True)
        self.rootfs(record, request, ids)
        with faults("prepare volumes of", record.name):
            given = self.mounts(record, request, image, ids)
        joining = self._joining.prepare(record, request)
        given += secrets.lay_out(paths, id, request.files, self._secrets, ids)
        setting = self._setting(record, request, image, tuple(given), joining, ids)
        config = bundle.oci_config(machine.attainable(request), image.config.get("config") or {}, setting)
        document = supervising.document(paths, record, request, image, restarts, cgroup=cgroup_path(id))
        if joining.owners:
            document["joins"] = joining.owners
        if log is not None:
            document["log"] = log
        with faults("write bundle of", record.name):
            write_atomically(home / "config.json", _json(config), durable=False)
            write_atomically(home / "supervise.json", _json(document), durable=False)
            (home / RESTARTS).unlink(missing_ok=True)  # of the start before: the counts are in the former now
        ground.named.wait()
        if ground.network.done() or any(name.startswith("net.") for name in request.sysctls):
            ground.network.result()  # settings of interfaces are for those that there are
        return lambda: self._complete(record, request, ground)

    def _complete(self, record: ContainerRecord, request: ContainerRequest, ground: Ground) -> None:
        self._fabric.write_files(record.id, request, self._paths.container(record.id))
        ground.network.result()

    def image(self, record: ContainerRecord) -> StoredImage:
        """The image that the record was created from."""
        image = self._images.get(record.image_id)
        if image is None:
            raise Fault(
                "image-not-found",
                "start container",
                record.name,
                f"its image {record.image} is gone",
                "pull it",
            )
        return image

    def cgroup(
        self,
        id: str,
        request: ContainerRequest,
        ground: Ground,
        *,
        fresh: bool = False,
        rules: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        """The container's cgroup with its limits and device rules. Processes of its own are moved back in.
        `fresh`: nothing was ever made for it, but its place with these `rules`, if there are any."""
        path, subject = cgroup_path(id), request.name
        wanted = machine.device_rules(request)
        if rules is None or rules != wanted:
            with faults("make cgroup of", subject):
                self._cgroups.create(path)
                self._cgroups.allow_devices(path, wanted)
        if not fresh or request.limits != LimitsRequest():  # a new cgroup has none
            self.limits(id, request)
        ground.laid()

    def limits(self, id: str, request: ContainerRequest) -> None:
        """Make the kernel's limits equal the request's. Fault limit-unsupported where it cannot."""
        try:
            self._cgroups.apply(cgroup_path(id), kernel_limits(request.limits))
        except OSError as error:
            raise Fault(
                "limit-unsupported",
                "limit container",
                request.name,
                str(error.strerror or error).lower(),
                f"see {error.filename}" if error.filename else "",
            ) from error

    def oom_score(self, id: str, request: ContainerRequest) -> None:
        """Of every process of the container, as low as this machine lets us: proc_pid_oom_score_adj(5)."""
        for pid in self._cgroups.pids(cgroup_path(id)):
            for value in dict.fromkeys((request.oom_score_adj, 0)):
                try:
                    Path(f"/proc/{pid}/oom_score_adj").write_text(str(value))
                    break
                except OSError:
                    continue

    def _own_ids(self, record: ContainerRecord, request: ContainerRequest) -> IdRange | None:
        """Its range of ids, with the namespaces that belong to it; None where it has the host's. Repeatable.
        Fault ids-exhausted, request-invalid."""
        if not request.userns:
            return None
        shared = shared_namespaces(request)
        if shared:
            cause = f"ids of its own (userns) do not go with {shared[0]}"
            raise Fault("request-invalid", "start container", request.name, cause, "leave one of them out")
        ids = self._ids.give(record.id, request.name, request.userns_size)
        with faults("make user namespace of", record.name):
            place = userns_file(self._paths, record.id)
            idmapped.create(place, self._paths.netns(record.id), ids.mappings, ids.mappings)
        return ids

    def try_limits(self, id: str, request: ContainerRequest, before: ContainerRequest) -> None:
        """`limits`, unless memory is in use beyond them (v2 would kill for it, v1 refuses); what the kernel
        does not take is as `before` again."""
        with faults("limit container", request.name):
            used = self._cgroups.stats(cgroup_path(id)).memory_working_set
        if 0 < request.limits.memory < used:
            cause = f"its processes use {used} bytes of memory now, more than {request.limits.memory}"
            raise Fault("request-invalid", "limit container", request.name, cause)
        try:
            self.limits(id, request)
        except Fault:
            with suppress(Fault):
                self.limits(id, before)
            raise

    def _network(self, record: ContainerRecord, request: ContainerRequest, ground: Ground) -> None:
        """The bound network namespace, then its links; nothing for the host's network."""
        netns = self._paths.netns(record.id)
        try:
            if request.network_mode != "host":
                self._netns(record, request, netns)
            ground.laid()
        finally:
            ground.named.set()
        if request.network_mode == "bridge":
            self._fabric.attach(record.id, netns)

    def _netns(self, record: ContainerRecord, request: ContainerRequest, netns: Path) -> None:
        owner = self._network_owner(request)
        with faults("make network namespace of", record.name):
            if owner is not None:
                _bind_namespace(self._paths.netns(owner.id), netns)
            else:
                namespaces.create_netns(netns)

    def _network_owner(self, request: ContainerRequest) -> ContainerRecord | None:
        """The container whose network it has; None where it has one of its own, or the host's. Fault
        container-not-running: there is nothing to share yet."""
        name = owner_of_network(request.network_mode)
        if not name:
            return None
        owner = self._find(name)
        if owner is None or not mounts.is_mounted(self._paths.netns(owner.id)):
            cause = f"container {name}, whose network it is to have, is not running"
            raise Fault("container-not-running", "start container", request.name, cause, "start that first")
        return owner

    def rootfs(self, record: ContainerRecord, request: ContainerRequest, ids: IdRange | None = None) -> None:
        """The image's layers under the container's writable one, mounted at run/containers/<id>/rootfs."""
        target, home = self._paths.rootfs(record.id), self._paths.container(record.id)
        layers = self._images.ensure_lowers(record.image_id)
        with faults("mount root filesystem of", record.name):
            target.mkdir(mode=0o755, exist_ok=True)
            if not mounts.is_mounted(target):
                overlay.make_upper(home / "upper", layers[-1])
                lowers = list(reversed(layers))
                if ids is None:
                    brief = bool(request.auto_remove)
                    overlay.mount(lowers, home / "upper", home / "work", target, volatile=brief)
                    return
                userns = userns_file(self._paths, record.id)
                owner = (ids.first, ids.first)
                idmapped.mount(lowers, (home, "upper", "work"), target, userns=userns, owner=owner)

    def mounts(
        self,
        record: ContainerRecord,
        request: ContainerRequest,
        image: StoredImage,
        ids: IdRange | None = None,
    ) -> list[dict[str, Any]]:
        """What its volumes, binds, tmpfs and images become in config.json, all of them ready."""
        anonymous = self._volumes.anonymous(record.name, record.source, anonymous_of(request, image))
        if inherited := self._inherited(request):
            request = replace(request, mounts=request.mounts + inherited)
        user = self._mount_user(record, request, image)
        if ids is None:
            return self._mounting.prepare(user, anonymous)
        with self._plain(record) as rootfs:  # volumes are filled with the owners that the image has
            return self._mounting.prepare(
                replace(
                    user, rootfs=rootfs, userns=str(userns_file(self._paths, record.id)), owner=ids.first
                ),
                anonymous,
            )

    @contextmanager
    def _plain(self, record: ContainerRecord) -> Iterator[Path]:
        """The layers of the image with their own owners."""
        place = self._paths.live(record.id) / f"{PREFIX}layers"
        place.mkdir(mode=0o700, exist_ok=True)
        overlay.mount(list(reversed(self._images.ensure_layers(record.image_id))), None, None, place)
        try:
            yield place
        finally:
            mounts.unmount(place)
            place.rmdir()

    def _inherited(self, request: ContainerRequest) -> tuple[MountPoint, ...]:
        """What the containers of `volumes_from` mount where it has nothing of its own: all but tmpfs, and
        anonymous volumes by their names. Fault container-not-found."""
        found: dict[str, MountPoint] = {}
        taken = {mount.target for mount in request.mounts}
        for name, read_only in request.volumes_from:
            owner = self._find(name)
            if owner is None:
                cause = f"there is no container {name}, whose volumes it is to have"
                raise Fault("container-not-found", "start container", request.name, cause, "create it")
            theirs, image = owner.decode(), self.image(owner)
            claims = self._volumes.anonymous(name, owner.source, anonymous_of(theirs, image))
            for mount in all_mounts(theirs, declared_by(image.config)):
                if mount.kind in ("volume", "bind") and mount.target not in taken:
                    source = mount.source or claims[mount.target]
                    sealed = read_only or mount.read_only
                    found[mount.target] = replace(mount, source=source, read_only=sealed, labels=())
        return tuple(found.values())

    def _mount_user(
        self, record: ContainerRecord, request: ContainerRequest, image: StoredImage | None
    ) -> MountUser:
        declared = declared_by(image.config) if image is not None else ()
        images = self._images.mounted_by(record.id)
        return MountUser(record.id, request, self._paths.rootfs(record.id), declared, images)

    def _setting(
        self,
        record: ContainerRecord,
        request: ContainerRequest,
        image: StoredImage,
        given: tuple[Mapping[str, Any], ...],
        joining: Joined,
        ids: IdRange | None,
    ) -> Setting:
        rootfs, home = self._paths.rootfs(record.id), self._paths.container(record.id)
        image_user = str((image.config.get("config") or {}).get("User") or "")
        user = self._user(rootfs, request.user or image_user, request)
        if ids is not None and max(user.uid, user.gid, *user.groups) >= ids.size:
            beyond = [f"group {group}" for group in user.groups if group >= ids.size]
            if max(user.uid, user.gid) >= ids.size:
                beyond = [f"user {user.uid}:{user.gid}"]
            cause = f"{beyond[0]} is beyond its {ids.size} ids"
            raise Fault("request-invalid", "start container", request.name, cause, "give more: auto:size=N")
        taken = {mount["destination"] for mount in given}
        owner = self._network_owner(request)
        if owner is not None:  # the files are those of who has the network, so that they follow it
            home = self._paths.container(owner.id)
        files = tuple(
            {"destination": f"/etc/{name}", "type": "bind", "source": f"{home}/{name}", "options": ["bind"]}
            for name in ETC
            if f"/etc/{name}" not in taken and os.path.exists(f"{home}/{name}")
        )
        own, profile = _own_capabilities(), self._confinement.profile(request)
        return Setting(
            id=record.id,
            rootfs=str(rootfs),
            cgroup=cgroup_path(record.id),
            netns=self._netns_of(record.id, request),
            hostname=hostname_of(request if owner is None else owner.decode()),
            user=user,
            mounts=given + files + machine.init_mount(request),
            all_capabilities=own,
            masked=machine.thermal_throttle(),
            devices=machine.devices(request),
            seccomp=self._confinement.filter(request, own),
            seccomp_flags=flags_of(request.seccomp_profile),
            apparmor=profile,
            apparmor_source=self._confinement.source(profile),
            joined=joining.namespaces,
            shm=joining.shm,
            userns="" if ids is None else str(userns_file(self._paths, record.id)),
            ids=() if ids is None else tuple(ids.mappings),
        )

    def _netns_of(self, id: str, request: ContainerRequest) -> str | None:
        return None if request.network_mode == "host" else str(self._paths.netns(id))

    def early(self, id: str, request: ContainerRequest) -> dict[str, Any] | None:
        """For a birth: bundle.early_config."""
        return bundle.early_config(request, str(self._paths.rootfs(id)), self._netns_of(id, request))

    def _user(self, rootfs: Path, spec: str, request: ContainerRequest) -> User:
        with faults("read accounts of", request.name):
            return find_user(
                spec,
                request.group_add,
                read_in_root(rootfs, "etc/passwd"),
                read_in_root(rootfs, "etc/group"),
            )

    # ------------------------------------------------------------ mend, while the program runs

    def mend(self, record: ContainerRecord, request: ContainerRequest, pid: int) -> None:
        """Bring back what was taken away under a running container, without touching its processes."""
        id = record.id
        home, target = self._paths.container(id), self._paths.rootfs(id)
        home.joinpath("log").mkdir(parents=True, exist_ok=True)
        target.mkdir(parents=True, exist_ok=True)
        with faults("mend cgroup of", record.name):
            self._mend_cgroup(id, request, pid)
        with faults("mend network namespace of", record.name):
            self._mend_netns(id, request, pid)
        if request.network_mode == "bridge":
            self._fabric.attach(id, self._paths.netns(id))
        with faults("mend root filesystem of", record.name):
            if not mounts.is_mounted(target):
                clone_root(pid, target)
        self._mounting.mend(self._mount_user(record, request, None), pid)
        if request.files:
            secrets.lay_out(self._paths, id, request.files, self._secrets, self._ids.get(id))
        self._fabric.write_files(id, request, home)

    def _mend_cgroup(self, id: str, request: ContainerRequest, pid: int) -> None:
        path = cgroup_path(id)
        if not self._cgroups.exists(path):
            self._cgroups.create(path)
            self._cgroups.allow_devices(path, machine.device_rules(request))
        self.limits(id, request)
        inside = set(self._cgroups.pids(path))
        for member in processes_of(pid, request.pid_mode == "host" or bool(owner_in(request.pid_mode))):
            if member not in inside:
                _ignore_gone(lambda member=member: self._cgroups.add(path, member))  # type: ignore[misc]

    def _mend_netns(self, id: str, request: ContainerRequest, pid: int) -> None:
        if request.network_mode == "host":
            return
        wanted = [("net", self._paths.netns(id))]
        if request.userns:
            wanted.append(("user", userns_file(self._paths, id)))
        for kind, place in wanted:
            _bind_namespace(Path(f"/proc/{pid}/ns/{kind}"), place)

    def let_go(self, id: str) -> None:
        """Nothing holds the writable layer any more: no process, whoever watches it, and no mount."""
        self._cgroups.kill(cgroup_path(id))
        mounts.unmount(self._paths.rootfs(id))

    def release(self, connection: sqlite3.Connection, id: str) -> None:
        """The container is gone for good."""
        self._ids.release(connection, id)

    # ------------------------------------------------------------ clear

    def clear(self, id: str, *, home: bool = False) -> None:
        """Take away processes, mounts, links, namespace and cgroup; the writable layer and the log stay,
        unless `home` says that they go."""
        live, path = self._paths.live(id), cgroup_path(id)
        try:
            client.wait_free(self._paths.container(id))
        except client.ShimError as error:
            raise Fault("shim-unreachable", "clear container", id, error.message) from error
        with faults("clear container", id):
            self._cgroups.kill(path)
            salvage(self._paths, id)
        aside = self._aside.submit  # which is waiting for the kernel
        others = [aside(self._clear_network, id), aside(self._cgroups.remove, path)]
        try:
            with faults("clear container", id):
                mounts.unmount(self._paths.rootfs(id))
                self._joining.clear(id)
                mounts.unmount(secrets.mounted_at(self._paths, id))
                self._mounting.clear(id)
                if home:  # nothing is mounted from it any more
                    delete_tree(self._paths.container(id))
        finally:
            wait(others)
        with faults("clear container", id):
            for other in others:
                other.result()
            namespaces.delete_netns(userns_file(self._paths, id))
            _remove_live(live)

    def _clear_network(self, id: str) -> None:
        self._fabric.detach(id)
        namespaces.delete_netns(self._paths.netns(id))


@cache
def _own_capabilities() -> tuple[str, ...]:
    """What the agent may give to others: it never drops any of it."""
    return capabilities.bounding()


def anonymous_of(request: ContainerRequest, image: StoredImage) -> dict[str, Mapping[str, str]]:
    """target -> labels of each anonymous volume that the container has. Pure."""
    found = all_mounts(request, declared_by(image.config))
    return {
        mount.target: dict(mount.labels) for mount in found if mount.kind == "volume" and not mount.source
    }


def _bind_namespace(file: Path, place: Path) -> None:
    """Another process's or container's namespace gets a name of this one's. Repeatable."""
    if not mounts.is_mounted(place):
        place.touch(mode=0o600)
        mounts.bind(file, place, recursive=False)


def _remove_live(live: Path) -> None:
    """Files and empty directories only: a root filesystem that is still mounted is never descended into."""
    if not live.is_dir():
        return
    with os.scandir(live) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                os.rmdir(entry.path)
            else:
                os.unlink(entry.path)
    os.rmdir(live)


def _ignore_gone(action: Callable[[], None]) -> None:
    try:
        action()
    except (ProcessLookupError, FileNotFoundError):
        pass


def _json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document).encode()  # without indent: that would not be done by json's C code
