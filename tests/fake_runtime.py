"""Values and effects in memory: a Runtime without a machine. `tests/contract` proves it against LocalRuntime.

Tests steer it by `available` (what registries hold), `faults` (what fails next), `crash` (where the process
dies) and the methods of FakeWorld, which are what the world does to a machine: kill, flush, unplug.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from runtime.backups.request import BackupRequest, BackupResult, DrillResult
from runtime.build.request import BuildCallback, BuildEvent, BuildInputs, BuildRequest, BuildResult, quiet
from runtime.faults import Fault
from runtime.images.garbage import Limits, Removed
from runtime.interface import ProgressCallback, Transfer
from runtime.observations import (
    NETWORK_KINDS,
    Defect,
    Disk,
    HandStop,
    Health,
    ImageSize,
    Observed,
    ObservedContainer,
    ObservedImage,
    ObservedNetwork,
    ObservedVolume,
    Phase,
    Sample,
    retired,
    successor,
)
from runtime.wishes import ContainerRequest, NetworkRequest, VolumeRequest
from specs.fingerprint import same_but_networks
from specs.values import ImageRef
from tests.fake_container import FakeContainer, observed
from tests.fake_world import UP, FakeWorld


class Crash(BaseException):
    """The process died here. Nothing may catch it but the test."""


def _service(request: ContainerRequest) -> str:
    """Those of one service may share ports."""
    return request.service or successor(request.name) or request.name


@dataclass
class _Network:
    request: NetworkRequest
    index: int
    defects: tuple[Defect, ...] = ()
    leased: int = 1


@dataclass
class FakeRuntime(FakeWorld):
    """Thread-safe. `calls` is every effect in the order in which it succeeded, as "verb kind name"."""

    available: dict[str, str] = field(default_factory=dict)  # canonical reference -> image id and digest
    older: set[str] = field(default_factory=set)  # digests that registries have besides
    offline: bool = False  # no registry answers
    sizes: dict[str, ImageSize] = field(default_factory=dict)  # canonical reference -> of its pull
    disk: Disk = field(default_factory=Disk)
    recipes: dict[str, str] = field(default_factory=dict)  # canonical reference -> key of its files
    key_of: Callable[[BuildRequest], str] | None = None  # instead of `recipes`
    faults: dict[str, list[Fault]] = field(default_factory=dict)  # "start container x" -> raised one by one
    crash: Callable[[str, str], bool] | None = None  # (call, "before" | "after") -> die here?
    calls: list[str] = field(default_factory=list)
    looks: int = 0  # at networks alone
    clock: float = 1.0  # seconds since the epoch
    gate: Callable[[str], None] | None = None  # called before each effect, without the lock held

    def __post_init__(self) -> None:
        self._lock = threading.RLock()
        self._images: dict[str, str] = {}
        self._platforms: dict[str, str] = {}
        self._digests: dict[str, str] = {}
        self._ids: set[str] = set()  # unnamed ones, too
        self._broken: set[str] = set()
        self.interrupted = threading.Event()
        self.cancelled: list[str] = []
        self._transferred: Callable[[Transfer], None] = lambda _: None
        self._heard: Callable[[], None] = lambda: None
        self._networks: dict[str, _Network] = {}
        self._volumes: dict[str, VolumeRequest] = {}
        self._claims: dict[str, tuple[str, str]] = {}  # anonymous volume -> (container, target)
        self._orphans: dict[str, float] = {}
        self._made: dict[str, float] = {}
        self.held: dict[str, str] = {}  # volume -> what is done with it
        self._backups: dict[tuple[str, str], list[float]] = {}
        self._containers: dict[str, FakeContainer] = {}
        self._firewall: tuple[Defect, ...] = ()
        self._leftovers: set[str] = set()
        self.hand_stops: dict[str, HandStop] = {}
        self.busy: set[str] = set()  # names on which somebody acts
        self.booted_at = 0.0
        self._count = 0
        self._starts = 0

    @contextmanager
    def _effect(self, call: str) -> Iterator[None]:
        if self.gate is not None:
            self.gate(call)
        with self._lock:
            if self.crash is not None and self.crash(call, "before"):
                raise Crash(call)
            pending = self.faults.get(call)
            if pending:
                raise pending.pop(0)
            yield
            self.calls.append(call)
            if self.crash is not None and self.crash(call, "after"):
                raise Crash(call)

    # ------------------------------------------------------------ look

    def observe(self) -> Observed:
        with self._lock:
            images: dict[str, list[str]] = {}
            for name, id in self._images.items():
                images.setdefault(id, []).append(name)
            by_id = {id: self._observed_image(id, sorted(names)) for id, names in images.items()}
            return Observed(
                images={name: by_id[id] for name, id in self._images.items()},
                image_ids=frozenset(self._ids),
                networks={name: self._observed_network(n) for name, n in self._networks.items()},
                volumes={name: self._observed_volume(v) for name, v in self._volumes.items()},
                containers={name: self._observed_container(c) for name, c in self._containers.items()},
                firewall=self._firewall,
                leftovers=tuple(sorted(self._leftovers)),
                disk=self.disk,
                hand_stops=dict(self.hand_stops),
                booted_at=self.booted_at,
            )

    def observe_networks(self, last: Observed) -> Observed:
        with self._lock:
            self.looks += 1
        now = self.observe()
        found = {}
        for name, item in last.containers.items():
            new = now.containers.get(name, item)
            kept = [defect for defect in item.defects if defect.kind not in NETWORK_KINDS]
            found[name] = replace(
                item,
                defects=(*kept, *(defect for defect in new.defects if defect.kind in NETWORK_KINDS)),
            )
        return replace(last, networks=now.networks, containers=found, firewall=now.firewall)

    def watch_networks(self, heard: Callable[[], None]) -> Callable[[], None]:
        self._heard = heard

        def end() -> None:
            self._heard = lambda: None

        return end

    def _observed_container(self, container: FakeContainer) -> ObservedContainer:
        seen = replace(observed(container), busy=container.request.name in self.busy)
        if container.image_id not in self._broken or container.phase not in UP:
            return seen
        defect = Defect("layer", "a layer of its image is missing", restart=True)
        return replace(seen, defects=(*seen.defects, defect))

    def _observed_image(self, id: str, names: list[str]) -> ObservedImage:
        return ObservedImage(
            id,
            tuple(names),
            platform=self._platforms.get(id, ""),
            digests=tuple(self._digests.get(name, "") for name in names),
            broken="a layer of it is missing" if id in self._broken else "",
        )

    def _observed_network(self, network: _Network) -> ObservedNetwork:
        request = network.request
        subnet = request.subnet or f"10.88.{network.index}.0/24"
        members = [c.request.name for c in self._containers.values() if self._attached(c, request.name)]
        return ObservedNetwork(
            request.name,
            request.source,
            request.fingerprint,
            f"st{network.index}",
            subnet,
            request.gateway or subnet.rsplit(".", 1)[0] + ".1",
            tuple(sorted(members)),
            network.defects,
            dict(request.labels),
        )

    @staticmethod
    def _attached(container: FakeContainer, network: str) -> bool:
        return any(item.network == network for item in container.request.networks)

    def _observed_volume(self, request: VolumeRequest) -> ObservedVolume:
        path = f"/fake/volumes/{request.name}"
        owner = self._claims.get(request.name, ("", ""))[0]
        return ObservedVolume(
            request.name,
            request.source,
            request.fingerprint,
            path,
            self._users(request.name),
            dict(request.labels),
            dict(request.options),
            request.keep,
            anonymous=request.name.startswith("anonymous-"),
            container=owner,
            created_at=self._made.get(request.name, 0.0),
            prune=request.prune,
            orphaned_at=self._orphans.get(request.name, 0.0),
            orphan_size=1000 if request.name in self._orphans else 0,
            held=self.held.get(request.name, ""),
        )

    def _users(self, volume: str) -> tuple[str, ...]:
        return tuple(
            sorted(
                c.request.name
                for c in self._containers.values()
                if any(m.kind == "volume" and m.source == volume for m in c.request.mounts)
                or self._claims.get(volume, ("", ""))[0] == c.request.name
            )
        )

    def sample(self) -> tuple[Sample, ...]:
        with self._lock:
            return tuple(
                Sample(c.id, name, str(c.request.image))
                for name, c in sorted(self._containers.items())
                if c.phase is Phase.RUNNING
            )

    def interrupt(self) -> None:
        self.interrupted.set()

    def watch_transfers(self, callback: Callable[[Transfer], None]) -> None:
        self._transferred = callback

    # ------------------------------------------------------------ images

    def pull_image(
        self,
        ref: ImageRef,
        *,
        platform: str = "",
        digest: str = "",
        progress: ProgressCallback | None = None,
    ) -> str:
        with self._effect(f"pull image {ref}"):
            if digest and digest in self._ids:
                return self._name(ref, digest, digest)
            id = self._ask("pull image", ref, digest)
            self._transferred(Transfer("pull", ref.host, 1000, 0.5))
            self._platforms[id] = platform
            self._broken.discard(id)
            return self._name(ref, id, id)

    def _ask(self, operation: str, ref: ImageRef, digest: str = "") -> str:
        """What the registry has."""
        if self.offline:
            raise Fault("registry-unreachable", operation, str(ref), "connection refused")
        found = self.available.get(str(ref), "")
        if digest or ref.digest:
            wanted = digest or ref.digest
            found = (
                wanted if wanted in {*self.available.values(), *self.older} else found if ref.digest else ""
            )
        if not found:
            raise Fault("image-not-found", operation, str(ref), "no such image")
        return found

    def _name(self, ref: ImageRef, id: str, digest: str) -> str:
        """As in the store: an image whose tag moves on keeps the digest that it was pulled by."""
        name, former = str(ref), self._digests.get(str(ref), "")
        if ref.tag and former and former != digest and name in self._images:
            by_digest = f"{ref.name}@{former}"
            self._images[by_digest], self._digests[by_digest] = self._images[name], former
        self._images[name], self._digests[name] = id, digest
        self._ids.add(id)
        return id

    def look_up_image(self, ref: ImageRef) -> str:
        with self._effect(f"look-up image {ref}"):
            return self._ask("look up image", ref)

    def measure_image(self, ref: ImageRef, *, platform: str = "", digest: str = "") -> ImageSize:
        with self._effect(f"measure image {ref}"):
            if digest and digest in self._ids:
                return ImageSize()
            self._ask("measure image", ref, digest)
            return self.sizes.get(str(ref), ImageSize())

    def repair_image(self, ref: ImageRef, *, platform: str = "", digest: str = "") -> str:
        with self._effect(f"repair image {ref}"):
            id = self._images[str(ref)]
            if any(c.image_id == id and c.phase in UP for c in self._containers.values()):
                raise Fault("image-in-use", "repair image", str(ref), "a container runs from it")
            self._broken.discard(id)
            return id

    def build_inputs(self, request: BuildRequest) -> BuildInputs:
        with self._lock:
            name = str(request.names[0])
            if self.key_of is not None:
                key = self.key_of(request)
            elif name not in self.recipes:
                raise Fault("request-invalid", "build image", name, "Dockerfile: no such file")
            else:
                key = self.recipes[name]
            return BuildInputs(key, {"context file app.py": key})

    def build_image(self, request: BuildRequest, progress: BuildCallback = quiet) -> BuildResult:
        with self._effect(f"build image {request.names[0]}"):
            progress(BuildEvent(1, "output", "built"))
            key = self.build_inputs(request).key
            for name in request.names:
                self._name(name, f"sha256:{key}", "")
            return BuildResult(f"sha256:{key}", steps=3, cached_steps=2)

    def cancel_build(self, ref: ImageRef) -> None:
        self.cancelled.append(str(ref))

    def collect_images(self, keep: Collection[str], limits: Limits) -> tuple[Removed, ...]:
        with self._effect("collect store"):
            tagged = {id for name, id in self._images.items() if "@" not in name}
            used = {c.image_id for c in self._containers.values()} | tagged
            gone = sorted(self._ids - used - set(keep))
            self._ids -= set(gone)
            self._images = {name: id for name, id in self._images.items() if id in self._ids}
            return tuple(Removed(id, (), 1, "no name and not used for 8.0 days") for id in gone)

    def import_image(self, path: Path, name: ImageRef) -> str:
        with self._effect(f"import image {name}"):
            if not path.exists():
                raise Fault("archive-invalid", "import image", str(path), "no such file or directory")
            return self._name(name, f"sha256:{path.name}", "")

    def remove_image(self, name: str) -> tuple[str, ...]:
        with self._effect(f"remove image {name}"):
            id = self._images.get(name)
            if id is None:
                raise Fault("image-not-found", "remove image", name, "it is not in the store")
            if any(c.image_id == id for c in self._containers.values()):
                raise Fault("image-in-use", "remove image", name, "a container uses it")
            del self._images[name]
            return (f"Untagged: {name}", f"Deleted: {id}")

    # ------------------------------------------------------------ networks, volumes

    def create_network(self, request: NetworkRequest) -> None:
        with self._effect(f"create network {request.name}"):
            if request.name not in self._networks:
                self._count += 1
                self._networks[request.name] = _Network(request, self._count)
            self._networks[request.name].request = request

    def repair_network(self, name: str) -> None:
        with self._effect(f"repair network {name}"):
            if name not in self._networks:
                raise Fault("network-not-found", "repair network", name, "it does not exist")
            self._networks[name].defects = ()

    def remove_network(self, name: str) -> None:
        with self._effect(f"remove network {name}"):
            if any(self._attached(c, name) for c in self._containers.values()):
                raise Fault("network-in-use", "remove network", name, "containers are attached")
            self._networks.pop(name, None)

    def create_volume(self, request: VolumeRequest) -> None:
        with self._effect(f"create volume {request.name}"):
            self._volumes[request.name] = request
            self._made.setdefault(request.name, self.clock)
            self._orphans.pop(request.name, None)

    def orphan_volume(self, name: str) -> None:
        with self._effect(f"orphan volume {name}"):
            if name in self._volumes:
                self._orphans.setdefault(name, self.clock)

    def backup_volume(self, request: BackupRequest) -> BackupResult:
        with self._effect(f"run backup {request.volume}"):
            if request.volume not in self._volumes:
                raise Fault("volume-not-found", "back up volume", request.volume, "there is no such volume")
            self._backups.setdefault((request.volume, request.into), []).append(self.clock)
            return BackupResult(f"{request.into}/{self.clock:.0f}", self.clock, 2.0, 100, 1000, 3)

    def drill_backup(self, volume: str, directory: str) -> DrillResult:
        with self._effect(f"drill backup {volume}"):
            made = self._backups.get((volume, directory))
            if not made:
                raise Fault("backup-invalid", "drill backup of", volume, f"{directory} has none")
            return DrillResult(f"{directory}/{made[-1]:.0f}", made[-1], self.clock, 2.0, 3)

    def remove_volume(self, name: str) -> None:
        with self._effect(f"remove volume {name}"):
            if self._users(name):
                raise Fault("volume-in-use", "remove volume", name, "a container uses it")
            if name in self._volumes and self._volumes[name].keep:
                raise Fault("volume-kept", "remove volume", name, "it is marked to be kept")
            self._volumes.pop(name, None)
            self._claims.pop(name, None)
            self._orphans.pop(name, None)

    # ------------------------------------------------------------ containers

    def create_container(self, request: ContainerRequest) -> str:
        with self._effect(f"create container {request.name}"):
            what = ("create container", request.name)
            image = self._images.get(str(request.image))
            if request.image_id:
                image = request.image_id if request.image_id in self._ids else None
            if image is None:
                raise Fault("image-not-found", *what, f"image {request.image} is not in the store")
            if request.name in self._containers:
                raise Fault("container-exists", *what, "the name is taken")
            addresses = self._leased(request, "create container", {})
            mounted = [m.source for m in request.mounts if m.kind == "image"]
            for reference in mounted:
                if reference not in self._images:
                    raise Fault("image-not-found", *what, f"image {reference}, which it mounts, is gone")
            self._count += 1
            made = FakeContainer(f"{self._count:032x}", request, image, addresses=addresses)
            made.created_at = self.clock
            made.mounted = tuple((reference, self._images[reference]) for reference in sorted(mounted))
            self._containers[request.name] = made
            self._claim(request)
            return made.id

    def _leased(
        self, request: ContainerRequest, operation: str, kept: Mapping[str, str]
    ) -> tuple[tuple[str, str], ...]:
        """(network, address) for each network of the request; `kept` are those that it has."""
        what, found = (operation, request.name), []
        others = [c for name, c in self._containers.items() if name != request.name]
        for attachment in request.networks:
            network = self._networks.get(attachment.network)
            if network is None:
                raise Fault("network-not-found", *what, f"no network {attachment.network}")
            address = attachment.ipv4_address or kept.get(attachment.network, "")
            if not address:
                network.leased += 1
                address = f"10.88.{network.index}.{network.leased}"
            if any((attachment.network, address) in c.addresses for c in others):
                raise Fault("address-taken", *what, f"{address} is leased")
            found.append((attachment.network, address))
        return tuple(found)

    def _find(self, name: str, operation: str) -> FakeContainer:
        if name not in self._containers:
            raise Fault("container-not-found", operation, name, "it does not exist")
        return self._containers[name]

    def start_container(self, name: str) -> None:
        with self._effect(f"start container {name}"):
            container = self._find(name, "start container")
            if container.phase in UP:
                return
            for other in self._containers.values():
                taken = set(other.request.ports) & set(container.request.ports)
                shared = _service(other.request) == _service(container.request)
                if not shared and other.phase in UP and taken:
                    port = min(taken).host_port
                    raise Fault("port-taken", "start container", name, f"port {port} is in use")
            for mount in container.request.mounts:
                if mount.kind == "bind" and not mount.create_source and not Path(mount.source).exists():
                    why = f"{mount.source} does not exist"
                    raise Fault("mount-source-missing", "start container", name, why)
            self._broken.discard(container.image_id)  # its layers are unpacked anew
            container.phase, container.defects = Phase.RUNNING, ()
            self._starts += 1
            container.started_at = self.clock + self._starts * 1e-3
            container.started_ticks = self._starts
            probe = container.request.probe
            container.health = Health.STARTING if probe and not probe.disabled else Health.NONE
            container.ready = container.request.readiness is None

    def stop_container(self, name: str) -> None:
        with self._effect(f"stop container {name}"):
            container = self._find(name, "stop container")
            container.phase, container.health, container.defects = Phase.STOPPED, Health.NONE, ()

    def adjust_container(self, request: ContainerRequest) -> None:
        with self._effect(f"adjust container {request.name}"):
            container = self._find(request.name, "adjust container")
            before = container.request
            if before.identity != request.identity and not same_but_networks(before.facets, request.facets):
                raise Fault("request-invalid", "adjust container", request.name, "it needs a replacement")
            if before.networks != request.networks:
                kept = dict(container.addresses)
                container.addresses = self._leased(request, "adjust container", kept)
            container.request = request

    def repair_container(self, name: str) -> None:
        with self._effect(f"repair container {name}"):
            container = self._find(name, "repair container")
            container.defects = tuple(d for d in container.defects if d.restart)

    def retire_container(self, name: str) -> None:
        with self._effect(f"retire container {name}"):
            if retired(name) in self._containers:
                if name not in self._containers:
                    return
                raise Fault("container-exists", "retire container", name, f"there is {retired(name)} already")
            container = self._find(name, "retire container")
            container.request = replace(container.request, name=retired(name))
            self._containers[retired(name)] = self._containers.pop(name)

    def remove_container(self, name: str, *, replaced: bool = False, volumes: bool = True) -> None:
        with self._effect(f"remove container {name}"):
            gone = self._containers.pop(name, None) is not None
            if not replaced:
                self.hand_stops.pop(name, None)
            for volume in self._claimed(name) if gone and not replaced else ():
                del self._claims[volume]
                if volumes:
                    del self._volumes[volume]

    def _claimed(self, container: str) -> list[str]:
        return sorted(volume for volume, (owner, _) in self._claims.items() if owner == container)

    def _claim(self, request: ContainerRequest) -> None:
        """The anonymous volumes of a container: its predecessor's, where they are at the same place."""
        targets = {m.target: dict(m.labels) for m in request.mounts if m.kind == "volume" and not m.source}
        for volume in self._claimed(request.name):
            if self._claims[volume][1] not in targets:
                del self._claims[volume]
        have = {self._claims[volume][1] for volume in self._claimed(request.name)}
        for target in targets.keys() - have:
            name = f"anonymous-{len(self._volumes)}-{self._count}"
            self._volumes[name] = VolumeRequest(name, request.source, "", targets[target])
            self._claims[name] = (request.name, target)

    def repair_firewall(self) -> None:
        with self._effect("repair firewall"):
            self._firewall = ()

    def sweep(self) -> tuple[str, ...]:
        with self._effect("sweep leftovers"):
            removed = tuple(sorted(self._leftovers))
            self._leftovers.clear()
            return removed


__all__ = ["Crash", "FakeRuntime", "replace"]
