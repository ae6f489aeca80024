"""Values: what exists, as one look at kernel, disk and shims found it.

Names are full names (`project/name`), sizes are bytes, times are seconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from runtime.shim.supervise import OWNER
from runtime.shim.supervise import PROBE_STOPPED as PROBE_STOPPED
from specs.values import PortBinding

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
    PAUSED = "paused"  # by a person, until it is unpaused
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
    started_ticks: int = 0  # of its process, in clock ticks since boot; 0: there is none
    finished_at: float = 0.0
    exit_code: int | None = None  # of the last run that ended
    oom_killed: bool = False
    restarts: int = 0  # by the shim, since creation
    restart_reasons: tuple[tuple[str, int], ...] = ()  # the same, by runtime.shim.supervise.REASONS
    next_start_at: float = 0.0
    health: Health = Health.NONE
    ready: bool = True  # what its readiness probe says; True where there is none
    log_dropped: int = 0  # bytes of output lost: to a full disk, or because a logger did not take them
    crash_loop: bool = False  # whatever the phase: it was restarted in a row and has not done well since
    error: str = ""  # why the last start failed
    log_tail: str = ""  # last lines of a crash-looping container
    networks: tuple[tuple[str, str], ...] = ()  # (network, address)
    ports: tuple[PortBinding, ...] = ()
    volumes: tuple[str, ...] = ()
    mounted_images: tuple[tuple[str, str], ...] = ()  # (reference, id) of images that it mounts
    privileged: bool = False
    loosened: tuple[str, ...] = ()  # walls that it was asked to be without: runtime.loosened
    owns_network: bool = False
    defects: tuple[Defect, ...] = ()
    restart_policy: str = ""  # as it was asked for
    auto_remove: str = ""  # as in ContainerRequest
    busy: bool = False  # this process acted on it while it was looked at

    @property
    def completed(self) -> bool:
        """Its program ran to its end and that was good; not where it was told to end, as by its probe."""
        return self.phase is Phase.EXITED and self.exit_code == 0 and not self.error

    @property
    def own_restarts(self) -> int:
        """Without those because the owner of its pid namespace ended, which are no fault of its own."""
        return self.restarts - dict(self.restart_reasons).get(OWNER, 0)


@dataclass(frozen=True, slots=True)
class HandStop:
    """A person stopped a declared container. `who` is a name of an account, `terminal` where that was typed
    (empty: nowhere), `reason` what was said."""

    at: float
    who: str
    terminal: str = ""
    reason: str = ""


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
    image_ids: frozenset[str] = frozenset()  # of every image, also of those that have no name
    networks: Mapping[str, ObservedNetwork] = field(default_factory=dict)
    volumes: Mapping[str, ObservedVolume] = field(default_factory=dict)
    containers: Mapping[str, ObservedContainer] = field(default_factory=dict)
    firewall: tuple[Defect, ...] = ()  # of the table as a whole, and of host settings that forwarding needs
    leftovers: tuple[
        str, ...
    ] = ()  # half-made things of a crash (cgroups, mounts, directories) that no record knows
    disk: Disk = Disk()
    names_pid: int = 0  # of the name server of containers; 0: there is none
    hand_stops: Mapping[str, HandStop] = field(default_factory=dict)  # by full name, there or not
    booted_at: float = 0.0  # when this machine was started; 0.0: not known


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
