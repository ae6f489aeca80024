"""Values: what is wanted, with every name resolved. The output of specs.resolve, an input of the planner.

Frozen, compared by content. Names are full names: `project/name` (`shop/db`). A field that is None or empty
was not set by the
user and the image's or the engine's default holds. Durations are seconds (float), sizes are bytes (int).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from specs.schedule import Schedule
from specs.values import EVERYTHING, ImageRef, Keep, MountPoint, PortBinding

_EMPTY: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where a person wrote it. `line` and `column` count from 1; `str()` is file:line."""

    file: str
    line: int
    column: int = 1

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class BuildSecret:
    """What RUN --mount=type=secret,id=ID sees: a file (absolute, on this machine), else `value`."""

    id: str
    file: str = ""
    value: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class DesiredBuild:
    """How an image is made from files of the source. Paths are absolute, on this machine.

    `dockerfile` is relative to `context`; with `inline` that text stands for it. A change of anything here,
    of a file of the context that its ignore file lets through, or of a base image is another build.
    """

    context: str
    dockerfile: str = "Dockerfile"
    inline: str = ""
    name: str = ""  # what messages call the Dockerfile: its path in the source
    target: str = ""
    args: tuple[tuple[str, str], ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    contexts: tuple[tuple[str, str], ...] = ()  # additional_contexts: (name, directory or docker-image://...)
    extra_hosts: tuple[tuple[str, str], ...] = ()
    network: str = ""
    no_cache: bool = False
    pull: bool = False
    secrets: tuple[BuildSecret, ...] = ()
    ssh: tuple[tuple[str, str], ...] = ()  # (id, socket of an ssh agent)
    shm_size: int = 0
    ulimits: tuple[tuple[str, int, int], ...] = ()  # (name, soft, hard)
    tags: tuple[ImageRef, ...] = ()  # further names
    # what base images are, as the lock file says: (canonical reference, digest; empty: an image of this
    # machine). None: no lock names bases, and they are free.
    locked: tuple[tuple[str, str], ...] | None = None
    cache_from: tuple[str, ...] = ()  # images whose steps may be used; no part of what the build is
    inline_cache: bool = False  # the image gets its steps


@dataclass(frozen=True, slots=True)
class DesiredImage:
    """One reference that containers use or that [image.NAME] declares. Keyed by str(ref)."""

    ref: ImageRef
    pull: str = "missing"  # always | missing | never
    platform: str = ""  # os/arch[/variant]; empty: this machine's
    place: Place | None = None
    interval: float = 0.0  # seconds after which the tag is looked up again; 0: never
    digest: str = ""  # sha256:...: the only content that may run under this tag, as the lock file says
    build: DesiredBuild | None = None  # it is built, never pulled


@dataclass(frozen=True, slots=True)
class DesiredNetwork:
    name: str
    subnet: str = ""  # CIDR (IPv4); empty: from the node's pool
    gateway: str = ""
    internal: bool = False
    mtu: int = 0  # 0: the host's default
    labels: Mapping[str, str] = field(default_factory=lambda: _EMPTY)
    fingerprint: str = ""
    place: Place | None = None
    ipv6: bool = False
    subnet6: str = ""  # empty, with ipv6: from the node's pool
    gateway6: str = ""
    driver: str = "bridge"  # bridge | macvlan
    parent: str = ""  # of macvlan: the host's interface
    mode: str = ""  # of macvlan; empty: bridge
    icc: bool = True  # whether members reach each other
    masquerade: bool = True  # whether packets leave with the host's address
    ip_range: str = ""  # CIDR that addresses are taken from; empty: the whole subnet
    ip_range6: str = ""
    reserved: tuple[str, ...] = ()  # addresses that nobody is given


@dataclass(frozen=True, slots=True)
class DesiredBackup:
    """When a volume is backed up, and where to. `to` is an absolute path on this machine; `quiesce` is
    freeze, stop or none. `drill` is when the newest backup is restored aside and compared."""

    schedule: Schedule
    to: str
    keep: Keep = EVERYTHING
    quiesce: str = "freeze"
    drill: Schedule | None = None


@dataclass(frozen=True, slots=True)
class DesiredVolume:
    name: str  # a full name; with `name` in the spec, what it says
    labels: Mapping[str, str] = field(default_factory=lambda: _EMPTY)
    fingerprint: str = ""
    place: Place | None = None
    options: Mapping[str, str] = field(
        default_factory=lambda: _EMPTY
    )  # driver_opts: type, device, o, size, loop
    keep: bool = False  # no command removes it
    prune: float | None = None  # seconds after which an orphan goes; inf: never; None: as the node has it
    backup: DesiredBackup | None = None


@dataclass(frozen=True, slots=True)
class Attachment:
    """Membership of one network (full name). `aliases` are further names for the container there. Of several
    networks the one with the highest `gw_priority` has the default route."""

    network: str
    aliases: tuple[str, ...] = ()
    ipv4_address: str = ""
    mac_address: str = ""
    ipv6_address: str = ""
    gw_priority: int = 0
    interface_name: str = ""
    link_local_ips: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Probe:
    """At most one of exec (argv run in the container), shell, http (URL; host part empty = 127.0.0.1 of the
    container), tcp.

    `tcp` is "host:port" or ":port". After `retries` failures in a row the container is unhealthy and
    on_failure acts.
    """

    exec: tuple[str, ...] = ()
    shell: str = ""
    http: str = ""
    tcp: str = ""
    disabled: bool = False  # test = ["NONE"]: switches the image's HEALTHCHECK off
    interval: float = 30.0
    timeout: float = 30.0
    retries: int = 3
    start_period: float = 0.0
    start_interval: float = 5.0
    on_failure: str = "restart"  # restart | stop | none
    given: tuple[str, ...] = ()  # without a test: these fields change the image's own HEALTHCHECK
    method: str = ""  # of http, as the three below; empty: GET
    headers: tuple[tuple[str, str], ...] = ()
    expect_status: str = ""  # such as 200-299,401; empty: 200-399
    tls_verify: bool = False


@dataclass(frozen=True, slots=True)
class Restart:
    policy: str = "always"  # no | always | on-failure | unless-stopped
    max_retries: int = 0  # for on-failure; 0: no limit
    initial: float = 0.1  # the first restart is at once, the second after `initial`, then doubling
    max: float = 60.0
    reset_after: float = 10.0


@dataclass(frozen=True, slots=True)
class IoLimit:
    """Limits of one block device, in bytes or operations a second; 0: none."""

    device: str  # path or major:minor
    read_bps: int = 0
    write_bps: int = 0
    read_iops: int = 0
    write_iops: int = 0


@dataclass(frozen=True, slots=True)
class Limits:
    """None or 0 means: no limit of our own."""

    cpus: float = 0.0
    cpu_weight: int = 0  # 1..10000, 100 is the kernel's default
    cpuset: str = ""
    memory: int = 0
    memory_reservation: int = 0
    memory_swap: int = 0  # memory + swap together, as in Compose; -1: unlimited swap
    pids: int = 0
    io_weight: int = 0
    io: tuple[IoLimit, ...] = ()
    hugepages: tuple[tuple[str, int], ...] = ()  # (size of a page as the kernel has it: "2MB", bytes)
    swappiness: int = -1  # 0..100; -1: the machine's


@dataclass(frozen=True, slots=True)
class Ulimit:
    name: str
    soft: int
    hard: int


@dataclass(frozen=True, slots=True)
class Device:
    source: str
    target: str
    permissions: str = "rwm"


@dataclass(frozen=True, slots=True)
class DesiredFile:
    """A secret or a config: a file of the source (path in it), else `content`, else the name of a file on the
    node. `place` is that of the key that says which."""

    kind: str  # secret | config
    name: str  # full name
    file: str = ""
    content: str | None = field(default=None, repr=False)
    external: str = ""
    place: Place | None = None


@dataclass(frozen=True, slots=True)
class FileMount:
    """A secret or a config (full name) in a container. `digest` tells that its bytes changed; the agent fills
    it in."""

    kind: str
    name: str
    target: str
    uid: int = 0
    gid: int = 0
    mode: int = 0o444
    digest: str = ""


@dataclass(frozen=True, slots=True)
class LogLimits:
    max_size: int = 10 * 1024 * 1024
    max_files: int = 3


@dataclass(frozen=True, slots=True)
class Logger:
    """Where output goes: local (our own files), none, or on to journald or syslog. Tags are templates; sizes
    are bytes."""

    driver: str = "local"
    tag: str = ""
    mode: str = ""  # non-blocking, or empty: the program waits for a logger that is slow
    max_buffer_size: int = 0  # of what waits in non-blocking mode
    address: str = ""  # of syslog, as the two below
    facility: int = 3
    format: str = ""


@dataclass(frozen=True, slots=True)
class Dependency:
    """`required`: where it fails, the dependent does not start. `restart`: the dependent is started anew
    after it was."""

    container: str  # full name
    condition: str = "started"  # started | healthy | completed
    required: bool = True
    restart: bool = False


@dataclass(frozen=True, slots=True)
class DesiredJob:
    """When a container runs to its end, and what becomes of runs that meet, fail or are missed. Durations are
    seconds; a `deadline` of 0: none. The first retry comes after `retry_delay`, each later one after twice as
    long."""

    schedule: Schedule
    concurrency_policy: str = "skip"  # skip | queue | replace
    deadline: float = 0.0
    retries: int = 0
    retry_delay: float = 10.0
    history: int = 10  # runs that are told of
    catch_up: str = "once"  # once | skip


@dataclass(frozen=True, slots=True)
class Update:
    """How the replicas of a container are replaced. Durations are seconds; `parallelism` 0: all at once."""

    order: str = "stop-first"  # stop-first | start-first
    parallelism: int = 1
    delay: float = 0.0  # between two batches
    monitor: float = 0.0  # that a new one must do well after it is ready
    drain: float = 5.0  # that connections have to end, where others take the new ones
    failure_action: str = "rollback"  # rollback | pause | continue
    max_failure_ratio: float = 0.0  # the part of the replicas that may fail, 0 to 1


@dataclass(frozen=True, slots=True)
class DesiredContainer:
    name: str
    image: str  # key of Desired.images
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
    service: str = ""  # the full name that was declared: replicas have it in common, and share ports
    update: Update = Update()  # how a changed one is replaced
    way_back: Update = Update()  # how one that is rolled back is replaced
    image_id: str = ""  # that very image, whatever `image` stands for by now; empty: what it stands for
    expose: tuple[str, ...] = ()
    mounts: tuple[MountPoint, ...] = ()  # a volume's source is a full name; a bind's source is absolute
    networks: tuple[Attachment, ...] = ()
    network_mode: str = "bridge"  # bridge | none | host | container:PROJECT/NAME
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_opt: tuple[str, ...] = ()
    extra_hosts: tuple[tuple[str, str], ...] = ()  # (name, address or "host-gateway")
    probe: Probe | None = None  # of liveness
    startup: Probe | None = None  # before it has succeeded no other probe runs
    readiness: Probe | None = None  # decides who has names and gets connections
    restart: Restart = Restart()
    stop_signal: str = ""
    stop_grace_period: float = 10.0
    depends_on: tuple[Dependency, ...] = ()
    read_only: bool = False
    privileged: bool = False
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    no_new_privileges: bool = False
    seccomp_unconfined: bool = False
    seccomp_profile: str = ""  # JSON in Docker's format, canonical; empty: the default filter
    apparmor: str = ""  # a profile's name | unconfined; empty: ours, where the machine has AppArmor
    unmasked: bool = False  # nothing of /proc and /sys is masked or read-only
    userns: str = ""  # "" | auto: ids of its own
    userns_size: int = 0
    devices: tuple[Device, ...] = ()
    ulimits: tuple[Ulimit, ...] = ()
    sysctls: Mapping[str, str] = field(default_factory=lambda: _EMPTY)
    shm_size: int = 0
    pid_mode: str = ""  # "" | host | container:PROJECT/NAME
    ipc_mode: str = ""  # "" | host | shareable | none | container:PROJECT/NAME
    uts_mode: str = ""  # "" | host | container:PROJECT/NAME
    cgroup_mode: str = ""  # "" | host
    init: bool = False  # a small init is PID 1
    oom_score_adj: int = 0
    device_rules: tuple[str, ...] = ()  # "c 1:3 rwm"
    volumes_from: tuple[tuple[str, bool], ...] = ()  # (full name, read only)
    files: tuple[FileMount, ...] = ()  # secrets and configs
    tty: bool = False
    stdin_open: bool = False
    logging: LogLimits = LogLimits()
    logger: Logger = Logger()
    limits: Limits = Limits()
    desired: str = "running"  # running | stopped
    job: DesiredJob | None = None  # it runs at these times, and not always
    suspend: str = ""  # a reason: nothing is done to this container while it stands
    identity: str = ""  # fingerprint: a change is a replacement
    adjustable: str = ""  # fingerprint: a change is made in place
    facets: str = ""  # canonical JSON of what was fingerprinted, for "field: old -> new"
    place: Place | None = None


@dataclass(frozen=True, slots=True)
class Desired:
    """All that one source wants. Two sources are planned side by side and never touch each other's things."""

    source: str = ""
    images: Mapping[str, DesiredImage] = field(default_factory=dict)
    networks: Mapping[str, DesiredNetwork] = field(default_factory=dict)
    volumes: Mapping[str, DesiredVolume] = field(default_factory=dict)
    containers: Mapping[str, DesiredContainer] = field(default_factory=dict)
    externals: Mapping[str, DesiredVolume] = field(default_factory=dict)  # volumes that somebody else makes
    external_networks: Mapping[str, Place] = field(default_factory=dict)  # likewise
    files: Mapping[str, DesiredFile] = field(default_factory=dict)  # secrets and configs by `kind full/name`
