"""Values and the one door: what the agent may ask of the runtime. `Runtime` is implemented by LocalRuntime
and FakeRuntime.

Every call is synchronous, thread-safe, an "ensure" (repeating it is harmless), does one thing and raises
Fault when it cannot.
Names are full names (`project/name`), sizes are bytes, durations are seconds, times are seconds since the
epoch.
`source` marks who declared a thing; only things whose source matches are ever changed on that source's
behalf.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from runtime.backups.request import BackupRequest, BackupResult, DrillResult
from runtime.build.request import BuildCallback, BuildInputs, BuildRequest, BuildResult, quiet
from runtime.images.garbage import Limits, Removed
from specs.values import ImageRef, MountPoint, PortBinding

_EMPTY: Mapping[str, str] = MappingProxyType({})

# ---------------------------------------------------------------- requests


@dataclass(frozen=True, slots=True)
class NetworkOptions:
    """What few networks have. `parent` is the host's interface that a macvlan network is on."""

    driver: str = "bridge"  # bridge | macvlan
    parent: str = ""
    mode: str = ""  # of macvlan: bridge | private | vepa | passthru; empty: bridge
    icc: bool = True  # False: members do not reach each other
    masquerade: bool = True  # False: packets leave with the container's own address
    ip_range: str = ""  # CIDR within the subnet that addresses are taken from; empty: all of it
    ip_range6: str = ""
    reserved: tuple[str, ...] = ()  # addresses that nobody is given


@dataclass(frozen=True, slots=True)
class NetworkRequest:
    name: str
    source: str
    fingerprint: str
    subnet: str = ""  # CIDR; empty: the next free one of the node's pool
    gateway: str = ""
    internal: bool = False
    mtu: int = 0
    labels: Mapping[str, str] = field(default_factory=lambda: _EMPTY)
    ipv6: bool = False
    subnet6: str = ""  # CIDR; empty: with `ipv6` the next free one of the node's IPv6 pool
    gateway6: str = ""
    options: NetworkOptions = NetworkOptions()


@dataclass(frozen=True, slots=True)
class VolumeRequest:
    """`options` are those of Docker's local driver (type, device, o, size) and loop: runtime.volumes.options.
    `source` is empty for one that a person made."""

    name: str
    source: str
    fingerprint: str
    labels: Mapping[str, str] = field(default_factory=lambda: _EMPTY)
    options: Mapping[str, str] = field(default_factory=lambda: _EMPTY)
    keep: bool = False  # no command removes it
    prune: float | None = (
        None  # seconds after which it goes once nothing declares it; None: as the node has it
    )


@dataclass(frozen=True, slots=True)
class Attachment:
    network: str  # full name
    aliases: tuple[str, ...] = ()
    ipv4_address: str = ""
    mac_address: str = ""
    ipv6_address: str = ""
    gw_priority: int = 0  # the highest one has the default route
    interface_name: str = ""  # empty: eth and a number
    link_local_ips: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ProbeRequest:
    """One of exec, shell, http, tcp; the rest as in specs.desired.Probe.

    With none of them and not disabled, the image's own test is meant, changed in the fields `given`.
    """

    exec: tuple[str, ...] = ()
    shell: str = ""
    http: str = ""
    tcp: str = ""
    disabled: bool = False
    interval: float = 30.0
    timeout: float = 30.0
    retries: int = 3
    start_period: float = 0.0
    start_interval: float = 5.0
    on_failure: str = "restart"
    given: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RestartRequest:
    policy: str = "always"
    max_retries: int = 0
    initial: float = 0.1
    max: float = 60.0
    reset_after: float = 10.0


@dataclass(frozen=True, slots=True)
class IoLimit:
    device: str
    read_bps: int = 0
    write_bps: int = 0
    read_iops: int = 0
    write_iops: int = 0


@dataclass(frozen=True, slots=True)
class LimitsRequest:
    cpus: float = 0.0
    cpu_weight: int = 0
    cpuset: str = ""
    memory: int = 0
    memory_reservation: int = 0
    memory_swap: int = 0
    pids: int = 0
    io_weight: int = 0
    io: tuple[IoLimit, ...] = ()


@dataclass(frozen=True, slots=True)
class ContainerRequest:
    """A container as its owner wants it; what is empty or None comes from the image's config, then
    from defaults.
    """

    name: str
    source: str
    identity: str  # fingerprint: another one means replacement
    adjustable: str  # fingerprint of what `adjust_container` changes in place
    facets: str  # canonical JSON behind both fingerprints
    image: ImageRef
    project: str = ""
    command: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    environment: Mapping[str, str] = field(default_factory=lambda: _EMPTY)
    working_dir: str = ""
    user: str = ""
    group_add: tuple[str, ...] = ()
    hostname: str = ""
    domainname: str = ""
    labels: Mapping[str, str] = field(default_factory=lambda: _EMPTY)
    annotations: Mapping[str, str] = field(default_factory=lambda: _EMPTY)
    ports: tuple[PortBinding, ...] = ()
    publish_all: bool = False  # beside `ports`: every exposed port, each on a random port of the host
    service: str = ""  # containers of one service may have the same published ports; empty: `name`
    expose: tuple[str, ...] = ()  # said to people (inspect); every port is open to peers anyway
    mounts: tuple[MountPoint, ...] = ()
    networks: tuple[Attachment, ...] = ()
    network_mode: str = "bridge"  # bridge | none | host | container:PROJECT/NAME
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_opt: tuple[str, ...] = ()
    extra_hosts: tuple[tuple[str, str], ...] = ()
    probe: ProbeRequest | None = None
    restart: RestartRequest = RestartRequest()
    stop_signal: str = ""
    stop_grace_period: float = 10.0
    read_only: bool = False
    privileged: bool = False
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    no_new_privileges: bool = False
    seccomp_unconfined: bool = False
    devices: tuple[tuple[str, str, str], ...] = ()  # (host path, container path, "rwm")
    ulimits: tuple[tuple[str, int, int], ...] = ()  # (name, soft, hard)
    sysctls: Mapping[str, str] = field(default_factory=lambda: _EMPTY)
    shm_size: int = 0
    pid_mode: str = ""
    ipc_mode: str = ""
    uts_mode: str = ""
    tty: bool = False
    stdin_open: bool = False
    log_max_size: int = 10 * 1024 * 1024
    log_max_files: int = 3
    limits: LimitsRequest = LimitsRequest()

    @property
    def owns_network(self) -> bool:
        """Whether it may change addresses and routes in its network namespace: capabilities(7)."""
        granted = {word.upper().removeprefix("CAP_") for word in self.cap_add}
        return self.privileged or bool(granted & {"ALL", "NET_ADMIN"})


def owner_of_network(network_mode: str) -> str:
    """Full name of the container whose network namespace such a container is in; empty: its own, or the
    host's."""
    kind, _, name = network_mode.partition(":")
    return name if kind == "container" else ""


# ---------------------------------------------------------------- observations


#: What a container's name ends with while another one of its name takes its place; no spec can say that.
_RETIRED = "~old"


def retired(name: str) -> str:
    """What a container is called while the one that replaces it has its name."""
    return name + _RETIRED


def successor(name: str) -> str:
    """The name that a retired container had; empty when it is none."""
    return name.removesuffix(_RETIRED) if name.endswith(_RETIRED) else ""


class Phase(StrEnum):
    CREATED = "created"  # never started
    STARTING = "starting"  # the shim is about to run the program
    RUNNING = "running"
    BACKOFF = "backoff"  # the shim will restart it at `next_start_at`
    STOPPING = "stopping"
    EXITED = "exited"  # ended, and the policy says: leave it
    STOPPED = "stopped"  # stopped on request
    LOST = "lost"  # should have a shim and has none: killed, crashed, or the machine rebooted


class Health(StrEnum):
    NONE = "none"  # no probe
    STARTING = "starting"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


@dataclass(frozen=True, slots=True)
class Defect:
    """One way in which the kernel differs from the record: drift. `kind` is stable (metrics), `text` is for
    people.

    Kinds: record, cgroup, limits, rootfs, netns, link, address, route, resolv, bridge, firewall, port,
    forwarding, hosts, names, layer, volume, parent. `port`: not drift, but a port that is to lead elsewhere.
    `restart` says that the repair needs the container's process to be started anew.
    """

    kind: str
    text: str
    restart: bool = False


#: those that are found in the kernel's network, and in what containers are told of it
NETWORK_KINDS = frozenset({"link", "address", "route", "resolv", "hosts", "names"})


@dataclass(frozen=True, slots=True)
class ObservedContainer:
    id: str
    name: str
    source: str
    identity: str
    adjustable: str
    facets: str
    image: str  # str(ImageRef) it was created from
    image_id: str
    phase: Phase
    project: str = ""
    pid: int = 0  # of the container's init, 0 when not running
    shim_pid: int = 0  # of its supervisor, 0 when there is none
    created_at: float = 0.0
    started_at: float = 0.0
    finished_at: float = 0.0
    exit_code: int | None = None  # of the last run that ended
    oom_killed: bool = False
    restarts: int = 0  # by the shim, since creation
    restart_reasons: tuple[tuple[str, int], ...] = ()  # the same, by runtime.shim.supervise.REASONS
    next_start_at: float = 0.0
    health: Health = Health.NONE
    error: str = ""  # why the last start failed
    log_tail: str = ""  # last lines of a crash-looping container
    networks: tuple[tuple[str, str], ...] = ()  # (network, address)
    ports: tuple[PortBinding, ...] = ()
    volumes: tuple[str, ...] = ()
    mounted_images: tuple[tuple[str, str], ...] = ()  # (reference, id) of images that it mounts
    privileged: bool = False
    owns_network: bool = False
    defects: tuple[Defect, ...] = ()


@dataclass(frozen=True, slots=True)
class ObservedNetwork:
    name: str
    source: str
    fingerprint: str
    bridge: str
    subnet: str
    gateway: str
    members: tuple[str, ...] = ()  # container names with a lease
    defects: tuple[Defect, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    subnet6: str = ""  # empty: it has no IPv6
    gateway6: str = ""


@dataclass(frozen=True, slots=True)
class ObservedVolume:
    """`source` is empty where a person made it. `anonymous`: a container made it for a path of its own."""

    name: str
    source: str
    fingerprint: str
    path: str
    users: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)
    keep: bool = False
    anonymous: bool = False
    created_at: float = 0.0
    container: str = ""  # of an anonymous one: whose it is, also while that is being replaced
    prune: float | None = None  # as in VolumeRequest, of the last one
    orphaned_at: float = 0.0  # since when nothing declares it; 0.0: it is declared
    orphan_size: int = 0  # bytes that it had then; -1: not known
    held: str = ""  # who has it for himself: "being backed up by process 12"
    empty: bool = False  # there is surely nothing in it


@dataclass(frozen=True, slots=True)
class ObservedImage:
    id: str
    names: tuple[str, ...]  # canonical references, str(ImageRef)
    size: int = 0
    created: str = ""
    platform: str = ""  # os/arch[/variant] that it says it is for
    digests: tuple[str, ...] = ()  # beside each name: what the registry calls it; empty: none does
    broken: str = ""  # what of it is missing or rotten; empty: it is whole

    def digest_of(self, name: str) -> str:
        return dict(zip(self.names, self.digests, strict=False)).get(name, "")


@dataclass(frozen=True, slots=True)
class Disk:
    """The file system of the state directory, in bytes; `total` 0: not known."""

    path: str = ""
    total: int = 0
    free: int = 0  # for root
    layers: int = 0  # what unpacked layers of images have

    @property
    def used(self) -> float:
        """The part in use, 0 to 1."""
        return 1 - self.free / self.total if self.total else 0.0


@dataclass(frozen=True, slots=True)
class ImageSize:
    """What a pull would need on the disk, in bytes; 0 for what is there already."""

    download: int = 0
    unpacked: int = 0

    @property
    def total(self) -> int:
        return self.download + self.unpacked


@dataclass(frozen=True, slots=True)
class Observed:
    """One snapshot, read from kernel, disk and shims. All sources' things are in it."""

    images: Mapping[str, ObservedImage] = field(default_factory=dict)  # by every canonical reference
    networks: Mapping[str, ObservedNetwork] = field(default_factory=dict)
    volumes: Mapping[str, ObservedVolume] = field(default_factory=dict)
    containers: Mapping[str, ObservedContainer] = field(default_factory=dict)
    firewall: tuple[Defect, ...] = ()  # of the table as a whole, and of host settings that forwarding needs
    leftovers: tuple[
        str, ...
    ] = ()  # half-made things of a crash (cgroups, mounts, directories) that no record knows
    disk: Disk = Disk()
    names_pid: int = 0  # of the name server of containers; 0: there is none


@dataclass(frozen=True, slots=True)
class Sample:
    """Resource use of one running container; counters are since its cgroup was made. Units as
    cAdvisor has them.
    """

    id: str
    name: str
    image: str
    cpu_seconds: float = 0.0
    cpu_user_seconds: float = 0.0
    cpu_system_seconds: float = 0.0
    cpu_throttled_seconds: float = 0.0
    memory_usage: int = 0
    memory_working_set: int = 0
    memory_rss: int = 0
    memory_cache: int = 0
    memory_swap: int = 0
    memory_limit: int = 0
    oom_events: int = 0
    pids: int = 0
    io_read_bytes: int = 0
    io_write_bytes: int = 0
    io_reads: int = 0
    io_writes: int = 0
    rx_bytes: int = 0
    tx_bytes: int = 0
    rx_packets: int = 0
    tx_packets: int = 0
    rx_errors: int = 0
    tx_errors: int = 0
    rx_dropped: int = 0
    tx_dropped: int = 0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a pull is with one layer, in bytes of its archive. `layer` is that archive's digest.

    `what` is exists (nothing is to be done), wait, download, extract (both may go on at once) or ready. Of a
    build it is `build`, and `layer` a line of its output.
    """

    subject: str
    what: str
    done: int
    total: int  # 0: unknown
    layer: str = ""


ProgressCallback = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Transfer:
    """Bytes of one blob that went over the network, and how long they took. `direction` is pull or push,
    `host` the registry or mirror that was talked to.
    """

    direction: str
    host: str
    bytes: int
    seconds: float


class Runtime(Protocol):
    """What the planner's actions become. One method an action; no method decides anything."""

    def observe(self) -> Observed: ...
    def observe_networks(self, last: Observed) -> Observed:
        """`last` with its networks, its firewall and what containers have of the network as they are now. A
        small part of the cost of `observe`."""
        ...

    def watch_networks(self, heard: Callable[[], None]) -> Callable[[], None]:
        """`heard` is called, in any thread, soon after somebody changed what `observe_networks` looks at, we
        ourselves included, from the next look on. Returns what ends it. Where the kernel has no such events,
        nothing is ever heard."""
        ...

    def sample(self) -> tuple[Sample, ...]: ...

    def interrupt(self) -> None:
        """Make pulls and builds that are under way fail soon, before the process ends: they may take long."""
        ...

    def watch_transfers(self, callback: Callable[[Transfer], None]) -> None:
        """`callback` is called, in any thread, after each blob from or to a registry."""
        ...

    def pull_image(
        self,
        ref: ImageRef,
        *,
        platform: str = "",
        digest: str = "",
        progress: ProgressCallback | None = None,
    ) -> str:
        """Bring `ref` into the store, unpacked. With `digest` that is what comes, and what is called `ref`.
        Returns the image id."""
        ...

    def look_up_image(self, ref: ImageRef) -> str:
        """The digest that `ref` stands for in its registry now: one HEAD."""
        ...

    def measure_image(self, ref: ImageRef, *, platform: str = "", digest: str = "") -> ImageSize:
        """What a pull would need. Nothing is asked of a registry when the image is here already."""
        ...

    def repair_image(self, ref: ImageRef, *, platform: str = "", digest: str = "") -> str:
        """Bring back what of the image is missing: from its archives, else from its registry. Returns the
        image id."""
        ...

    def build_inputs(self, request: BuildRequest) -> BuildInputs:
        """What a build would be made from now: Dockerfile, what the ignore file lets through of the context,
        arguments, base images as they are in the store. Cheap enough for every look; brings no image."""
        ...

    def build_image(self, request: BuildRequest, progress: BuildCallback = quiet) -> BuildResult:
        """Build, and call the result by the request's names. `build-failed` with the step's place, exit code
        and last lines; `dockerfile-invalid` with every problem."""
        ...

    def cancel_build(self, ref: ImageRef) -> None:
        """A build whose first name is `ref`, and which is under way, fails soon."""
        ...

    def collect_images(self, keep: Collection[str], limits: Limits) -> tuple[Removed, ...]:
        """Remove images that nothing needs, as far as the limits say; those with the ids `keep` and those of
        containers stay. Nothing while something is brought in or built."""
        ...

    def import_image(self, path: Path, name: ImageRef) -> str:
        """A root filesystem, OCI layout or docker-archive (directory or tar) becomes `name`. Returns
        the image id.
        """
        ...

    def remove_image(self, name: str) -> tuple[str, ...]:
        """Returns the lines to print: `Untagged: ...`, `Deleted: ...`."""
        ...

    def create_network(self, request: NetworkRequest) -> None: ...
    def repair_network(self, name: str) -> None: ...
    def remove_network(self, name: str) -> None: ...

    def create_volume(self, request: VolumeRequest) -> None: ...
    def remove_volume(self, name: str) -> None: ...

    def orphan_volume(self, name: str) -> None:
        """Write down that nothing declares it, since now; not where that is written down already."""
        ...

    def backup_volume(self, request: BackupRequest) -> BackupResult:
        """A backup of the volume, and older ones that are not to be kept go. May take long."""
        ...

    def drill_backup(self, volume: str, directory: str) -> DrillResult:
        """Restore the newest backup aside, and compare it with what it says. `backup-differs`,
        `backup-invalid`, `digest-mismatch`. May take long."""
        ...

    def create_container(self, request: ContainerRequest) -> str:
        """Record, addresses, bundle; nothing runs yet. Returns the id. `container-exists` when the
        name is taken.
        """
        ...

    def start_container(self, name: str) -> None:
        """cgroup, network namespace, links, root filesystem, ports, shim. Returns when the program is
        exec'ed; `start-failed` (with the exit code 125, 126 or 127 in the cause) when it could not be."""
        ...

    def stop_container(self, name: str) -> None:
        """Stop signal, grace period, SIGKILL; the container stays stopped until started."""
        ...

    def adjust_container(self, request: ContainerRequest) -> None:
        """Change in place what `adjustable` covers, without touching the process."""
        ...

    def repair_container(self, name: str) -> None:
        """Mend every defect of the container that needs no new process."""
        ...

    def retire_container(self, name: str) -> None:
        """Give its name free for the one that is to replace it; it runs on, and from now on it is called
        `retired(name)`. Repeatable. Fault container-exists when one is called that already.
        """
        ...

    def remove_container(self, name: str, *, replaced: bool = False, volumes: bool = True) -> None:
        """Stop if need be; unpublish, unmount, release addresses, delete the writable layer and the
        record. Its anonymous volumes are left to the next container of its name when it is `replaced`; else
        they go with it, or without `volumes` are nobody's from now on.
        """
        ...

    def repair_firewall(self) -> None:
        """Our nftables table and the sysctls of forwarding, in one transaction, as the records want them."""
        ...

    def sweep(self) -> tuple[str, ...]:
        """Remove what a crash left half-made. Returns what was removed."""
        ...
