"""Values: what the runtime is asked for: networks, volumes, containers as their owners want them.

Names are full names (`project/name`), sizes are bytes, durations are seconds. `source` marks who declared a
thing; only things whose source matches are ever changed on that source's behalf.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from specs.values import ImageRef, MountPoint, PortBinding

_EMPTY: Mapping[str, str] = MappingProxyType({})


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
    method: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    expect_status: str = ""
    tls_verify: bool = False


@dataclass(frozen=True, slots=True)
class LoggerRequest:
    """As specs.desired.Logger."""

    driver: str = "local"
    tag: str = ""
    mode: str = ""
    max_buffer_size: int = 0
    address: str = ""
    facility: int = 3
    format: str = ""


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
    hugepages: tuple[tuple[str, int], ...] = ()  # (size of a page as the kernel has it: "2MB", bytes)
    swappiness: int = -1  # 0..100, cgroup v1 only; -1: the machine's


@dataclass(frozen=True, slots=True)
class FileRequest:
    """A secret or a config as a file; its bytes are kept by runtime.secrets under `digest`."""

    kind: str  # secret | config
    name: str
    target: str
    uid: int = 0
    gid: int = 0
    mode: int = 0o444
    digest: str = ""


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
    image_called: str = ""  # what a person wrote for it on the command line, which people are shown
    image_id: str = ""  # that very image, whatever `image` is the name of by now; empty: what it names
    drain: float = 5.0  # seconds that connections have to end, where others take the new ones
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
    startup: ProbeRequest | None = None
    readiness: ProbeRequest | None = None
    restart: RestartRequest = RestartRequest()
    stop_signal: str = ""
    stop_grace_period: float = 10.0
    read_only: bool = False
    privileged: bool = False
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    no_new_privileges: bool = False
    seccomp_unconfined: bool = False
    seccomp_profile: str = ""  # JSON in Docker's format; empty: the default filter
    apparmor: str = ""  # a profile's name | unconfined; empty: ours, where the machine has AppArmor
    unmasked: bool = False  # nothing of /proc and /sys is masked or read-only
    userns: str = ""  # "" | auto: a range of ids of its own, `userns_size` of them
    userns_size: int = 0
    devices: tuple[tuple[str, str, str], ...] = ()  # (host path, container path, "rwm")
    ulimits: tuple[tuple[str, int, int], ...] = ()  # (name, soft, hard)
    sysctls: Mapping[str, str] = field(default_factory=lambda: _EMPTY)
    shm_size: int = 0
    pid_mode: str = ""  # "" | host | container:PROJECT/NAME
    ipc_mode: str = ""  # "" | host | shareable | none | container:PROJECT/NAME
    uts_mode: str = ""  # "" | host | container:PROJECT/NAME
    cgroup_mode: str = ""  # "" | host: no cgroup namespace
    init: bool = False  # a small init is PID 1, and the program its child
    oom_score_adj: int = 0
    device_rules: tuple[str, ...] = ()  # "c 1:3 rwm", as the device cgroup has it
    volumes_from: tuple[tuple[str, bool], ...] = ()  # (full name, read only): what that container mounts, too
    files: tuple[FileRequest, ...] = ()  # secrets and configs
    tty: bool = False
    stdin_open: bool = False
    log_max_size: int = 10 * 1024 * 1024
    log_max_files: int = 3
    logger: LoggerRequest = LoggerRequest()
    limits: LimitsRequest = LimitsRequest()
    #: whether it goes when it has ended: "" no, "now", "attended" (not before who waits for it had time to
    #: look)
    auto_remove: str = ""

    @property
    def owns_network(self) -> bool:
        """Whether it may change addresses and routes in its network namespace: capabilities(7)."""
        granted = {word.upper().removeprefix("CAP_") for word in self.cap_add}
        return self.privileged or bool(granted & {"ALL", "NET_ADMIN"})


def shared_namespaces(request: ContainerRequest) -> list[str]:
    """Words for the namespaces of others in which a user namespace of its own would have no power."""
    modes = {"network_mode": request.network_mode, "pid": request.pid_mode, "ipc": request.ipc_mode}
    modes |= {"uts": request.uts_mode, "cgroup": request.cgroup_mode}
    shared = [f"{key} {mode}" for key, mode in modes.items() if mode == "host" or ":" in mode]
    return [*shared, *(["privileged"] if request.privileged else [])]


def owner_of_network(network_mode: str) -> str:
    """Full name of the container whose network namespace such a container is in; empty: its own, or the
    host's."""
    return owner_in(network_mode)


def owner_in(mode: str) -> str:
    """Full name of the container that a mode `container:NAME` speaks of; empty for any other mode."""
    kind, _, name = mode.partition(":")
    return name if kind == "container" else ""


def joined(request: ContainerRequest) -> tuple[tuple[str, str], ...]:
    """(namespace in the words of the OCI runtime-spec, full name of its owner) of each namespace but the
    network's that is another container's."""
    modes = {"pid": request.pid_mode, "ipc": request.ipc_mode, "uts": request.uts_mode}
    return tuple((kind, owner_in(mode)) for kind, mode in modes.items() if owner_in(mode))
