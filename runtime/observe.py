"""Effects: one Observed snapshot, read from records, shims' state, cgroups, mounts, netlink, nftables and
the store.

Nothing here is remembered between two snapshots but decoded requests, which never change under their
fingerprints.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace

from runtime import frozen, logs, secrets, sightings, spares
from runtime.backups import leftovers as left_backups
from runtime.backups.holds import Holds
from runtime.build import leftovers
from runtime.database import Database
from runtime.faults import Fault
from runtime.images.store import ImageStore
from runtime.inside import same_process
from runtime.joining import namespace_file
from runtime.linux import mounts
from runtime.linux.cgroups import Cgroups, normalize
from runtime.linux.limits import IoLimit, Limits
from runtime.loosened import loosened
from runtime.net.fabric import Fabric, NetObservation
from runtime.observations import (
    NETWORK_KINDS,
    Defect,
    Disk,
    Health,
    Observed,
    ObservedContainer,
    ObservedImage,
    ObservedVolume,
    Phase,
    Sample,
)
from runtime.paths import Paths
from runtime.prepare import SLICE, cgroup_path, kernel_limits
from runtime.records import CREATED, RUNNING, STOPPED, ContainerRecord, read_containers
from runtime.requests import encode
from runtime.shim import client, documents
from runtime.shim.supervise import OWNER_ENDED, is_crash_loop
from runtime.stops import read_stops
from runtime.volumes import Volumes
from runtime.volumes.fates import Fate, read_fates
from runtime.volumes.mounting import PREFIX, helpers
from runtime.volumes.records import read_claims
from runtime.wishes import ContainerRequest, joined, owner_of_network

#: Lines and bytes of output shown of a container that does not stay up.
TAIL_LINES = 10
TAIL_BYTES = 4096

LIMITS = tuple(field.name for field in fields(Limits))


@dataclass(frozen=True, slots=True)
class _Known:
    """What follows from a request alone; kept until the record's request changes."""

    text: str
    request: ContainerRequest
    limits: Limits
    loosened: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Life:
    """A record beside its shim's last word."""

    record: ContainerRecord
    state: client.State | None
    phase: Phase
    alive: bool  # the shim lives


@dataclass(frozen=True, slots=True)
class _Seen:
    """What one look found for all containers at once. `mounts`: mount point -> root of the mount."""

    mounts: Mapping[str, str]
    cgroups: set[str]  # ids with a cgroup in every hierarchy
    net: NetObservation
    claims: Mapping[str, tuple[str, ...]]  # container -> its anonymous volumes
    images: Mapping[str, tuple[tuple[str, str], ...]]  # container id -> (reference, image id) that it mounts
    unmounted: frozenset[str]  # volumes that lack the mount they are to have
    broken: Mapping[str, bool]  # image id -> a layer is missing
    ids: Mapping[str, str]  # of containers, by name
    busy: set[str]  # names of those on which this process acted meanwhile


class Observer:
    """Thread-safe; snapshots may be taken at the same time."""

    def __init__(
        self,
        paths: Paths,
        database: Database,
        images: ImageStore,
        fabric: Fabric,
        volumes: Volumes,
        cgroups: Cgroups,
        busy: Callable[[float], set[str]],
    ) -> None:
        """`busy`: as Containers.busy."""
        self._busy = busy
        self._paths = paths
        self._database = database
        self._images = images
        self._fabric = fabric
        self._volumes = volumes
        self._holds = Holds(paths)
        self._cgroups = cgroups
        self._known: dict[str, _Known] = {}
        self._states, self._lives = sightings.States(), sightings.Lives()
        # as text: pathlib costs more than reading the files
        self._live, self._homes = f"{paths.run}/containers", f"{paths.root}/containers"
        self._pool = ThreadPoolExecutor(1, "stead-observe-net")

    def close(self) -> None:
        self._pool.shutdown()
        self._lives.forget_but(set())

    def observe(self) -> Observed:
        """A directory without a record is a leftover; records are read last, since they are made first."""
        begun = time.monotonic()
        network = self._pool.submit(self._fabric.observe)
        directories = self.directories() - spares.waiting(self._paths)
        records = read_containers(self._database.read())
        table = mounts.roots("/containers/")
        images = self._images.list()
        broken = {image.id: not self._images.check(image.id) for image in images}
        self._lives.refresh()
        lives = [self._life(record) for record in records]
        self._states.forget_but({f"{self._live}/{record.id}" for record in records})
        self._lives.forget_but({(it.state.shim_pid, it.state.shim_start) for it in lives if it.state})
        claims = read_claims(self._database.read())
        seen = _Seen(
            table,
            self._cgroups.present(SLICE, [record.id for record in records]),
            network.result(),
            broken=broken,
            claims=_by_container(claims),
            images=self._images.mounted(),
            unmounted=self._volumes.unmounted(),
            ids={record.name: record.id for record in records},
            busy=self._busy(begun),
        )
        net = seen.net
        containers = {life.record.name: self._container(life, seen) for life in lives}
        return Observed(
            images=_by_reference(images, broken),
            image_ids=frozenset(broken),
            networks={item.name: item for item in net.networks},
            volumes=self._observed_volumes(records, claims),
            containers=containers,
            firewall=net.firewall,
            names_pid=net.names_pid,
            leftovers=tuple(
                sorted(
                    (directories - {record.id for record in records})
                    | net.strays
                    | self._dead_builds()
                    | self._volumes.leftovers(directories)
                    | left_backups.found(self._paths, self._volumes.list(), self._holds)
                )
            ),
            disk=_disk(self._paths, self._images.layer_bytes()),
            hand_stops=read_stops(self._database.read()),
            booted_at=_booted_at(),
        )

    def observe_networks(self, last: Observed) -> Observed:
        net = self._fabric.observe(ask=False)
        return replace(
            last,
            networks={item.name: item for item in net.networks},
            containers={
                name: _with_network(item, net) if item.shim_pid else item
                for name, item in last.containers.items()
            },
            firewall=net.firewall,
            names_pid=net.names_pid,
        )

    def _dead_builds(self) -> set[str]:
        return {f"build {id}" for id in leftovers.dead(self._paths)}

    def directories(self) -> set[str]:
        """Ids that have a directory under run or root."""
        found: set[str] = set()
        for parent in (self._paths.run / "containers", self._paths.root / "containers"):
            if parent.is_dir():
                found.update(os.listdir(parent))
        return found

    def sample(self) -> tuple[Sample, ...]:
        """Resource use of every running container."""
        counters = self._fabric.counters()
        self._lives.refresh()
        samples = []
        for record in read_containers(self._database.read()):
            life = self._life(record)
            if life.alive and life.state is not None and life.state.pid:
                samples.append(self._sample(record, counters.get(record.id) or {}))
        return tuple(samples)

    def _sample(self, record: ContainerRecord, network: Mapping[str, int]) -> Sample:
        try:
            stats = self._cgroups.stats(cgroup_path(record.id))._asdict()
        except OSError:
            stats = {}
        return Sample(id=record.id, name=record.name, image=record.image, **stats, **network)

    # ------------------------------------------------------------ containers

    def _life(self, record: ContainerRecord) -> _Life:
        state = self._states.read(f"{self._live}/{record.id}")
        alive = state is not None and self._lives.is_alive(state)
        if alive:
            assert state is not None
            phase = frozen.phase(f"{self._live}/{record.id}", state.phase)
            return _Life(record, state, Phase(phase), True)
        ended = client.read_exit(f"{self._homes}/{record.id}")
        if record.wanted == CREATED:
            return _Life(record, ended, Phase.CREATED, False)  # how its only start failed
        if record.wanted == STOPPED:
            return _Life(record, ended or state, Phase.STOPPED, False)
        return _Life(record, ended or state, Phase.EXITED if ended else Phase.LOST, False)

    def _container(self, life: _Life, seen: _Seen) -> ObservedContainer:
        known = self._decode(life.record)
        life, defects = self._checked(life, known, seen)
        record, state = life.record, life.state
        up = life.alive and state is not None and state.pid > 0
        if seen.broken.get(record.image_id, False):
            defects += (Defect("layer", "a layer of its image is missing", restart=True),)
        return ObservedContainer(
            id=record.id,
            name=record.name,
            source=record.source,
            identity=record.identity,
            adjustable=record.adjustable,
            facets=known.request.facets,
            image=record.image,
            image_id=record.image_id,
            phase=life.phase,
            project=record.project,
            pid=state.pid if up and state is not None else 0,
            shim_pid=state.shim_pid if life.alive and state is not None else 0,
            created_at=record.created_at,
            started_at=state.started_at if state else 0.0,
            started_ticks=state.pid_start if up and state is not None else 0,
            finished_at=state.finished_at if state else 0.0,
            exit_code=state.exit_code if state else None,
            oom_killed=state.oom_killed if state else False,
            restarts=state.restarts if state else 0,
            restart_reasons=tuple(sorted(state.restart_reasons.items())) if state else (),
            next_start_at=state.next_start_at if state and life.phase is Phase.BACKOFF else 0.0,
            health=Health(state.health) if life.alive and state and state.health else Health.NONE,
            ready=state.ready if life.alive and state else True,
            log_dropped=state.log_dropped if state else 0,
            crash_loop=bool(state and life.alive and is_crash_loop(life.phase, state.streak)),
            error=state.error if state else "",
            log_tail=self._tail(life),
            networks=seen.net.addresses.get(record.id, ()),
            ports=seen.net.ports.get(record.id, ()),
            volumes=_volumes(known.request) + seen.claims.get(record.name, ()),
            mounted_images=seen.images.get(record.id, ()),
            privileged=known.request.privileged,
            loosened=known.loosened,
            owns_network=known.request.owns_network,
            defects=defects,
            restart_policy=known.request.restart.policy,
            auto_remove=known.request.auto_remove,
            busy=record.name in seen.busy,
        )

    def _checked(self, life: _Life, known: _Known, seen: _Seen) -> tuple[_Life, tuple[Defect, ...]]:
        """Its defects; none when it ended or began anew in the meantime: the files and links that were
        compared were not of one moment. The next look sees the one that it has now."""
        if not life.alive or life.state is None:
            return life, ()
        record = life.record
        defects = self._defects(life, life.state, known, seen)
        defects += network_defects(record.id, known.request.owns_network, seen.net)
        if not defects:
            return life, ()
        now = self._life(record)
        same = now.state is not None and _run_of(now.state) == _run_of(life.state) and now.phase == life.phase
        return (life, defects) if same else (now, ())

    def _decode(self, record: ContainerRecord) -> _Known:
        known = self._known.get(record.id)
        if known is None or known.text != record.request:
            request = record.decode()
            limits = normalize(kernel_limits(request.limits))
            known = _Known(record.request, request, limits, tuple(loosened(encode(request))))
            self._known[record.id] = known
        return known

    def _defects(self, life: _Life, state: client.State, known: _Known, seen: _Seen) -> tuple[Defect, ...]:
        """What is missing around a living shim, in the order in which it would be mended."""
        id, request = life.record.id, known.request
        live = f"{self._live}/{id}"
        found = []
        if life.record.wanted != RUNNING:
            found.append(Defect("record", "its stop was begun and never done"))
        if id not in seen.cgroups:
            found.append(Defect("cgroup", "its cgroup is gone"))
        else:
            found += self._limit_defects(cgroup_path(id), known.limits)
        if f"{live}/rootfs" not in seen.mounts:
            found.append(Defect("rootfs", "its root filesystem is not mounted"))
        found += self._mount_defects(id, request, seen)
        if request.network_mode != "host":
            bound = seen.mounts.get(f"{live}/netns")
            if bound is None:
                found.append(Defect("netns", "its network namespace is not bound"))
            elif (own := _namespace(state.pid)) and bound != own and same_process(state.pid, state.pid_start):
                found.append(Defect("netns", "its process is in another network namespace", restart=True))
            owner = owner_of_network(request.network_mode)
            theirs = seen.mounts.get(f"{self._live}/{seen.ids[owner]}/netns") if owner in seen.ids else None
            if theirs is not None and bound is not None and bound != theirs:
                text = f"container {owner}, whose network it has, has been given another one"
                found.append(Defect("netns", text, restart=True))
        if not self._awaits_owner(id, state, request, seen):
            found += self._joined_defects(id, request, seen)
        if request.files and str(secrets.mounted_at(self._paths, id)) not in seen.mounts:
            found.append(Defect("secrets", "the files of its secrets and configs are gone"))
        joined = {network for network, _ in seen.net.addresses.get(id, ())}
        for attachment in request.networks:
            if attachment.network not in joined:
                found.append(Defect("link", f"it is not on network {attachment.network}, as is declared"))
        if state.pid == 0:  # between two runs there is no process to mend it around
            found = [Defect(item.kind, item.text, restart=True) for item in found]
        return tuple(found)

    def _joined_defects(self, id: str, request: ContainerRequest, seen: _Seen) -> list[Defect]:
        """Its namespaces that are another container's, and what that one has now. One that is down has
        none to be compared with."""
        found = []
        for kind, owner in joined(request):
            bound = seen.mounts.get(str(namespace_file(self._paths, id, kind)))
            state = client.read_state(self._paths.live(seen.ids[owner])) if owner in seen.ids else None
            theirs = _namespace(state.pid, kind) if state is not None and state.pid else ""
            if bound is None:
                found.append(Defect("joined", f"its {kind} namespace is not bound", restart=True))
            elif theirs and bound != theirs:
                text = f"container {owner}, whose {kind} namespace it has, has been given another one"
                found.append(Defect("joined", text, restart=True))
        return found

    def _awaits_owner(self, id: str, state: client.State, request: ContainerRequest, seen: _Seen) -> bool:
        """Whether its shim joins what the owners have next: they are still the ones that it knows."""
        if state.pid or state.error != OWNER_ENDED:
            return False
        try:
            known = documents.read(f"{self._homes}/{id}", "supervise.json").get("joins") or {}
        except (OSError, ValueError):
            return False
        return all(
            known.get(kind) == f"{self._live}/{seen.ids.get(owner)}" for kind, owner in joined(request)
        )

    def _mount_defects(self, id: str, request: ContainerRequest, seen: _Seen) -> list[Defect]:
        """What was mounted for the container itself, and what its volumes lie on."""
        found = []
        for name in helpers(request):
            if f"{self._live}/{id}/{name}" not in seen.mounts:
                target = request.mounts[int(name.removeprefix(PREFIX))].target
                found.append(Defect("volume", f"what it has at {target} is not mounted"))
        for name in _volumes(request):
            if name in seen.unmounted:
                found.append(Defect("volume", f"volume {name} is not mounted"))
        return found

    def _limit_defects(self, path: str, wanted: Limits) -> list[Defect]:
        """Limits of block devices are looked at where there are to be some: they are many files."""
        try:
            found = self._cgroups.read_limits(path, io=bool(wanted.io or wanted.io_weight), like=wanted)
        except OSError as error:
            return [Defect("limits", f"its limits cannot be read: {error.strerror}".lower())]
        return [
            Defect("limits", f"{name} is {_said(have)} instead of {_said(want)}")
            for name, have, want in ((name, getattr(found, name), getattr(wanted, name)) for name in LIMITS)
            if have != want
        ]

    def _tail(self, life: _Life) -> str:
        """The last output of a container that failed, or ends again and again; empty while all is well."""
        state = life.state
        if state is None:
            return ""
        failed = state.exit_code and life.phase in (Phase.BACKOFF, Phase.EXITED)
        if not failed and not is_crash_loop(life.phase, state.streak):
            return ""
        try:
            lines = list(logs.read(self._paths.container(life.record.id) / "log", tail=TAIL_LINES))
        except (OSError, Fault):
            return ""
        text = b"".join(line + b"\n" * logs.has_no_end(line) for _, _, line in lines)
        return text[-TAIL_BYTES:].decode("utf-8", "replace").rstrip("\n")

    # ------------------------------------------------------------ the rest

    def _observed_volumes(
        self, records: list[ContainerRecord], claims: Mapping[str, str]
    ) -> dict[str, ObservedVolume]:
        users: dict[str, list[str]] = {}
        for record in records:
            for name in _volumes(self._decode(record).request):
                users.setdefault(name, []).append(record.name)
        names = {record.name for record in records}
        fates, held = read_fates(self._database.read()), self._holds.held()
        users.update({volume: [owner] for volume, owner in claims.items() if owner in names})
        return {
            volume.name: ObservedVolume(
                name=volume.name,
                source=volume.source,
                fingerprint=volume.fingerprint,
                path=str(volume.path),
                users=tuple(users.get(volume.name, ())),
                labels=volume.labels,
                options=volume.options,
                keep=volume.keep,
                anonymous=volume.anonymous,
                created_at=volume.created,
                container=claims.get(volume.name, ""),
                prune=(fate := fates.get(volume.name, Fate())).prune,
                orphaned_at=fate.orphaned,
                orphan_size=fate.size,
                held=held.get(volume.name, ""),
                empty=self._volumes.is_empty(volume),
            )
            for volume in self._volumes.list()
        }


def _volumes(request: ContainerRequest) -> tuple[str, ...]:
    """Named volumes that it mounts, each once."""
    names = (mount.source for mount in request.mounts if mount.kind == "volume" and mount.source)
    return tuple(dict.fromkeys(names))


def _by_container(claims: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for volume, container in sorted(claims.items()):
        found[container] = (*found.get(container, ()), volume)
    return found


def network_defects(id: str, owns_network: bool, net: NetObservation) -> tuple[Defect, ...]:
    """Routes of a container that may change them itself are its own matter: a VPN takes the default route."""
    found = net.containers.get(id, ())
    return tuple(item for item in found if item.kind != "route") if owns_network else found


def _with_network(item: ObservedContainer, net: NetObservation) -> ObservedContainer:
    """As it was but for its network, which is as it is."""
    kept = tuple(defect for defect in item.defects if defect.kind not in NETWORK_KINDS)
    found = network_defects(item.id, item.owns_network, net)
    return replace(
        item,
        defects=kept + found,
        networks=net.addresses.get(item.id, ()),
        ports=net.ports.get(item.id, ()),
    )


def _by_reference(images: list[ObservedImage], broken: Mapping[str, bool]) -> dict[str, ObservedImage]:
    marked = (
        replace(image, broken="a layer of it is missing") if broken[image.id] else image for image in images
    )
    return {name: image for image in marked for name in image.names}


def _disk(paths: Paths, layers: int) -> Disk:
    status, root = os.statvfs(paths.root), str(paths.root)
    return Disk(root, status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize, layers)


def _run_of(state: client.State) -> tuple[int, int, int, int]:
    """What another run of the program has not, and what stays while probes and clients come and go."""
    return state.shim_pid, state.shim_start, state.pid, state.pid_start


def _namespace(pid: int, kind: str = "net") -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/{kind}")
    except OSError:
        return ""


def _booted_at() -> float:
    """proc_stat(5): btime; by the clock as it is now. 0.0 where it cannot be read."""
    try:
        with open("/proc/stat", encoding="ascii") as file:
            return next((float(line.split()[1]) for line in file if line.startswith("btime ")), 0.0)
    except OSError:
        return 0.0


def _said(value: object) -> str:
    """Of one of the fields of Limits."""
    if not isinstance(value, tuple):
        return repr(value)
    return ", ".join(map(_entry_said, value)) or "none"


def _entry_said(entry: IoLimit | tuple[str, int]) -> str:
    if not isinstance(entry, IoLimit):
        return " of ".join(map(str, reversed(entry)))
    limits = {key: limit for key, limit in asdict(entry).items() if key != "device" and limit}
    return " ".join((entry.device, *(f"{key} {limit}" for key, limit in limits.items())))
