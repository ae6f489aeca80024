"""Values: what a person writes in one file. Every field of containers, images, volumes and networks.

The meaning of a field is Compose's (compose-spec) unless the field says otherwise. Models only check and
carry what one file says; names, references and defaults are worked out in specs.resolve.
"""

from __future__ import annotations

import posixpath
import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, Tag, WithJsonSchema

from specs import kernel, shapes, subnets
from specs.jobs import JobItem
from specs.keeping import Backup, Prune
from specs.pairs import Annotations, Environment, ExtraHosts, StringMap, Sysctls
from specs.policies import (
    WHICH,
    Build,
    Deploy,
    Healthcheck,
    IoDevice,
    Logging,
    Model,
    RestartBackoff,
    Ulimits,
    Update,
    later,
)
from specs.problems import nearest
from specs.pulls import Pull
from specs.security import SecurityOptions, Userns
from specs.shapes import (
    Capabilities,
    Command,
    CpuCount,
    Flag,
    ImageName,
    Mistake,
    Mode,
    Name,
    Platform,
    Project,
    ShortPort,
    Size,
    Text,
    Texts,
    one_of,
    whole,
)
from specs.values import NAME, MountPoint

# ---------------------------------------------------------------- ports, volumes, networks of a container


class LongPort(Model):
    target: Annotated[int, *whole(1, 65535)]
    published: Text | None = None
    host_ip: Annotated[str, *shapes.shape(shapes.address, {"type": "string"})] | None = None
    protocol: Annotated[str, *one_of("tcp", "udp", "sctp")] | None = None
    app_protocol: Text | None = None  # of no effect, as `name`: they are words for people
    mode: Annotated[str, *one_of("host", "ingress")] | None = None
    name: Text | None = None


def _subpath(value: Any) -> str:
    found = shapes.text(value)
    if found.startswith("/") or ".." in found.split("/"):
        raise Mistake(f"cannot use subpath {found!r}: write a path below the volume or image, without ..")
    path = posixpath.normpath(found)
    if path == ".":
        raise Mistake("cannot use subpath '.': leave it out for the whole")
    return path


Subpath = Annotated[str, *shapes.shape(_subpath, {"type": "string"}, "a path below the source")]


class BindOptions(Model):
    propagation: (
        Annotated[str, *one_of("private", "rprivate", "shared", "rshared", "slave", "rslave")] | None
    ) = None
    create_host_path: Flag | None = None
    selinux: Annotated[str, *one_of("z", "Z")] | None = None
    recursive: Annotated[str, *one_of("enabled", "disabled", "writable", "readonly")] | None = None


class VolumeOptions(Model):
    nocopy: Flag | None = None
    subpath: Subpath | None = None
    labels: StringMap | None = None


class TmpfsOptions(Model):
    size: Size | None = None
    mode: Mode | None = None
    uid: Annotated[int, *whole(0, 2**32 - 2)] | None = None
    gid: Annotated[int, *whole(0, 2**32 - 2)] | None = None


class ImageOptions(Model):
    subpath: Subpath | None = None


class LongVolume(Model):
    type: Annotated[str, *one_of("volume", "bind", "tmpfs", "image", not_yet=("npipe", "cluster"))]
    source: Text | None = None
    target: Annotated[str, *shapes.shape(lambda v: shapes.parse_target(shapes.text(v)), {"type": "string"})]
    read_only: Flag | None = None
    consistency: Annotated[str, *one_of("consistent", "cached", "delegated")] | None = None
    bind: BindOptions | None = None
    volume: VolumeOptions | None = None
    tmpfs: TmpfsOptions | None = None
    image: ImageOptions | None = None


class NetworkMembership(Model):
    aliases: shapes.Aliases | None = None
    ipv4_address: shapes.Ipv4 | None = None
    ipv6_address: shapes.Ipv6 | None = None
    mac_address: shapes.Mac | None = None
    link_local_ips: subnets.LinkLocals | None = None
    interface_name: subnets.InterfaceName | None = None
    driver_opts: StringMap | None = later()
    gw_priority: Annotated[int, *whole(-1_000_000, 1_000_000)] | None = None
    priority: Annotated[int, *whole(0, 1_000_000)] | None = None


_CONDITIONS = {
    "started": "started",
    "healthy": "healthy",
    "completed": "completed",
    "service_started": "started",
    "service_healthy": "healthy",
    "service_completed_successfully": "completed",
}


_CONDITION_SCHEMA = shapes.words_schema(_CONDITIONS)


def _condition(value: Any) -> str:
    found = shapes.text(value)
    if found not in _CONDITIONS:
        raise Mistake(
            f"cannot use {found!r}: write one of started, healthy, completed",
            nearest(found, _CONDITIONS),
        )
    return _CONDITIONS[found]


class DependencyRule(Model):
    condition: Annotated[str, *shapes.shape(_condition, _CONDITION_SCHEMA)] = "started"
    required: Flag | None = None
    restart: Flag | None = None


class EnvFile(Model):
    path: Text
    required: Flag | None = None
    format: Annotated[str, *one_of("raw")] | None = None


class FileMount(Model):
    """A secret or a config in a container."""

    source: Text
    target: Text | None = None
    uid: Text | None = None
    gid: Text | None = None
    mode: Mode | None = None


ShortVolume = Annotated[
    MountPoint,
    BeforeValidator(lambda value: MountPoint.parse(shapes.text(value))),
    WithJsonSchema({"type": "string", "description": "SOURCE:TARGET[:ro], or /TARGET"}),
]
PortItem = Annotated[Annotated[ShortPort, Tag("@short")] | Annotated[LongPort, Tag("@long")], WHICH]
VolumeItem = Annotated[Annotated[ShortVolume, Tag("@short")] | Annotated[LongVolume, Tag("@long")], WHICH]
EnvFileItem = Annotated[Annotated[Text, Tag("@short")] | Annotated[EnvFile, Tag("@long")], WHICH]
FileMountItem = Annotated[Annotated[Text, Tag("@short")] | Annotated[FileMount, Tag("@long")], WHICH]


_TEXT: dict[str, Any] = {"type": "string"}
_SOME_TEXT: dict[str, Any] = {"anyOf": [_TEXT, {"type": "array", "items": _TEXT}]}
Names = list[Text]
Condition = Annotated[str, WithJsonSchema(_CONDITION_SCHEMA)]


def _table_of(value: Any) -> Any:
    """["a", "b"] -> {"a": {}, "b": {}}; a null body is an empty one."""
    if isinstance(value, list):
        seen: dict[str, Any] = {}
        for index, item in enumerate(value):
            name = shapes.text(item)
            if name in seen:
                raise Mistake(f"{name!r} stands here twice", path=(index,))
            seen[name] = {}
        return seen
    if isinstance(value, dict):
        return {name: {} if body is None else body for name, body in value.items()}
    return value


def _dependencies(value: Any) -> Any:
    found = _table_of(value)
    if isinstance(found, dict):
        return {n: {"condition": body} if isinstance(body, str) else body for n, body in found.items()}
    return found


#: Published ports of one container.
MAX_PORTS = 4096


def _few_ports(value: Any) -> Any:
    """Refuses what would become very many bindings before it does."""
    count = 0
    for index, item in enumerate(value if isinstance(value, list) else ()):
        ranges = re.findall(r"([0-9]{1,5})-([0-9]{1,5})", item) if isinstance(item, str) else []
        count += max((int(last) - int(first) + 1 for first, last in ranges), default=1)
        if count > MAX_PORTS:
            raise Mistake(f"more than {MAX_PORTS} published ports", path=(index,))
    return value


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list) or value is None else [value]


# ---------------------------------------------------------------- container


class Container(Model):
    """One container, or `replicas` of it."""

    image: ImageName
    command: Command | None = None
    entrypoint: Command | None = None
    environment: Environment | None = None
    env_file: (
        Annotated[
            list[EnvFileItem],
            BeforeValidator(_as_list, json_schema_input_type=EnvFileItem | list[EnvFileItem]),
        ]
        | None
    ) = None
    working_dir: Annotated[str, *shapes.shape(shapes.absolute, {"type": "string"})] | None = None
    user: shapes.User | None = None
    group_add: shapes.Groups | None = None
    hostname: Annotated[str, *shapes.shape(shapes.hostname, {"type": "string"})] | None = None
    domainname: Annotated[str, *shapes.shape(shapes.hostname, {"type": "string"})] | None = None
    labels: StringMap | None = None
    label_file: (
        Annotated[tuple[str, ...], *shapes.shape(shapes.listed(shapes.text, single=True), _SOME_TEXT)] | None
    ) = None
    annotations: Annotations | None = None
    ports: (
        Annotated[list[PortItem], BeforeValidator(_few_ports, json_schema_input_type=list[PortItem])] | None
    ) = None
    publish_all: Flag | None = None
    expose: shapes.Exposed | None = None
    volumes: list[VolumeItem] | None = None
    volumes_from: (
        Annotated[
            tuple[tuple[str, bool], ...],
            *shapes.shape(shapes.listed(kernel.inherited), {"type": "array", "items": _TEXT}),
        ]
        | None
    ) = None
    tmpfs: shapes.Tmpfs | None = None
    networks: (
        Annotated[
            dict[str, NetworkMembership],
            BeforeValidator(_table_of, json_schema_input_type=Names | dict[str, NetworkMembership | None]),
        ]
        | None
    ) = None
    network_mode: Annotated[str, *kernel.joins("bridge", "none", "host")] | None = None
    dns: shapes.Addresses | None = None
    dns_search: shapes.SearchDomains | None = None
    dns_opt: shapes.ResolverOptions | None = None
    extra_hosts: ExtraHosts | None = None
    healthcheck: Healthcheck | None = None
    restart: shapes.RestartPolicy | None = None
    restart_backoff: RestartBackoff | None = None
    stop_signal: shapes.Signal | None = None
    stop_grace_period: shapes.Seconds | None = None
    depends_on: (
        Annotated[
            dict[str, DependencyRule],
            BeforeValidator(
                _dependencies, json_schema_input_type=Names | dict[str, Condition | DependencyRule | None]
            ),
        ]
        | None
    ) = None
    secrets: list[FileMountItem] | None = None
    configs: list[FileMountItem] | None = None
    read_only: Flag | None = None
    privileged: Flag | None = None
    cap_add: Capabilities | None = None
    cap_drop: Capabilities | None = None
    security_opt: SecurityOptions | None = None
    devices: shapes.Devices | None = None
    device_cgroup_rules: (
        Annotated[
            tuple[str, ...],
            *shapes.shape(shapes.listed(kernel.device_rule), {"type": "array", "items": _TEXT}),
        ]
        | None
    ) = None
    ulimits: Ulimits | None = None
    sysctls: Sysctls | None = None
    shm_size: Size | None = None
    pid: Annotated[str, *kernel.joins("private", "host")] | None = None
    ipc: Annotated[str, *kernel.joins("private", "host", "shareable", "none")] | None = None
    uts: Annotated[str, *kernel.joins("private", "host")] | None = None
    cgroup: Annotated[str, *one_of("private", "host")] | None = None
    userns_mode: Userns | None = None
    userns: Userns | None = None
    init: Flag | None = None
    tty: Flag | None = None
    stdin_open: Flag | None = None
    logging: Logging | None = None
    platform: Platform | None = None
    pull_policy: Pull | None = None
    profiles: Texts | None = None
    attach: Flag | None = None  # of no effect: nobody is attached by itself
    develop: dict[str, Any] | None = None  # of no effect: it is for `docker compose watch`
    scale: Annotated[int, *whole(0, 1000)] | None = None
    replicas: Annotated[int, *whole(0, 1000)] | None = None
    deploy: Deploy | None = None
    update: Update | None = None
    rollback: Update | None = None
    cpus: CpuCount | None = None
    cpu_weight: Annotated[int, *whole(1, 10_000)] | None = None
    cpuset: shapes.Cpuset | None = None
    memory: shapes.Memory | None = None
    memory_reservation: Size | None = None
    memory_swap: shapes.SwapSize | None = None
    pids: Annotated[int, *whole(-1, 2**22)] | None = None
    io_weight: Annotated[int, *whole(1, 10_000)] | None = None
    io: list[IoDevice] | None = None
    hugepages: Annotated[dict[str, Size], BeforeValidator(kernel.pages)] | None = None
    cpu_shares: Annotated[int, *whole(0, 262_144)] | None = None
    cpu_quota: kernel.Microseconds | None = None
    cpu_period: kernel.Microseconds | None = None
    mem_swappiness: Annotated[int, *whole(0, 100)] | None = None
    oom_score_adj: Annotated[int, *whole(-1000, 1000)] | None = None
    schedule: JobItem | None = None
    desired: Annotated[str, *one_of("running", "stopped")] | None = None
    suspend: Text | None = None


# ---------------------------------------------------------------- image, network, volume, secret, config


def _build(value: Any) -> Any:
    return {"context": value} if isinstance(value, str) else value


class Image(Model):
    from_: ImageName | None = Field(None, alias="from")
    build: Annotated[Build, BeforeValidator(_build, json_schema_input_type=str | Build)] | None = None
    pull: Pull | None = None
    platform: Platform | None = None
    prune: Flag | None = later()


class IpamPool(Model):
    subnet: subnets.Subnet | None = None
    ip_range: subnets.Part | None = None
    gateway: Annotated[str, *shapes.shape(shapes.address, {"type": "string"})] | None = None
    aux_addresses: StringMap | None = None


class Ipam(Model):
    """Compose's words for subnet and gateway."""

    driver: Text | None = None
    config: list[IpamPool] | None = None
    options: StringMap | None = None


def _always(value: Any) -> bool:
    if shapes.flag(value):
        return True
    raise Mistake("a network that nothing declares and nothing uses is always removed", "leave it out")


class Network(Model):
    internal: Flag | None = None
    subnet: subnets.Subnets | None = None
    gateway: subnets.Gateways | None = None
    mtu: Annotated[int, *whole(576, 65535)] | None = None
    labels: StringMap | None = None
    driver: (
        Annotated[str, *one_of("bridge", "macvlan", not_yet=("host", "none", "overlay", "ipvlan"))] | None
    ) = None
    driver_opts: StringMap | None = None
    enable_ipv4: Flag | None = None
    enable_ipv6: Flag | None = None
    external: Flag | None = None
    attachable: Flag | None = None  # of no effect: every container of this node may join
    ipam: Ipam | None = None
    name: Annotated[str, *shapes.shape(subnets.network_name, {"type": "string"})] | None = None
    prune: Annotated[bool, *shapes.shape(_always, {"const": True})] | None = None


def _volume_name(value: Any) -> str:
    found = shapes.text(value)
    parts = found.split("/")
    if len(parts) > 2 or not all(NAME.match(part) for part in parts):
        raise Mistake(f"cannot use {found!r} as the name of a volume: write letters, digits, _ . -")
    return found


VolumeName = Annotated[str, *shapes.shape(_volume_name, {"type": "string"}, "NAME or PROJECT/NAME")]


class Volume(Model):
    labels: StringMap | None = None
    driver: Annotated[str, *one_of("local")] | None = None
    driver_opts: StringMap | None = None
    external: Flag | None = None
    name: VolumeName | None = None
    keep: Flag | None = None
    prune: Prune | None = None
    backup: Backup | None = None


class Secret(Model):
    """Bytes that nobody but a container or a build is to see."""

    file: Text | None = None
    environment: Text | None = None
    external: Flag | None = None
    name: Text | None = None
    labels: StringMap | None = None  # of no effect
    driver: Text | None = later()
    driver_opts: StringMap | None = later()
    template_driver: Text | None = later()


class Config(Model):
    """As a secret, without secrecy."""

    file: Text | None = None
    content: Text | None = None
    environment: Text | None = None
    external: Flag | None = None
    name: Text | None = None
    labels: StringMap | None = None  # of no effect
    template_driver: Text | None = later()


def _body(value: Any) -> Any:
    return {} if value is None else value


class SpecFile(Model):
    """One TOML file, or one document of a YAML file. Keys that begin with `x-` are the writer's own."""

    project: Project | None = None
    image: dict[Name, Image] = Field(default_factory=dict)
    container: dict[Name, Container] = Field(default_factory=dict)
    network: dict[Name, Annotated[Network, BeforeValidator(_body, json_schema_input_type=Network | None)]] = (
        Field(default_factory=dict)
    )
    volume: dict[Name, Annotated[Volume, BeforeValidator(_body, json_schema_input_type=Volume | None)]] = (
        Field(default_factory=dict)
    )
    secret: dict[Name, Secret] = Field(default_factory=dict)
    config: dict[Name, Config] = Field(default_factory=dict)


KINDS = ("image", "container", "network", "volume", "secret", "config")

# What people know from elsewhere, and what it is called here.
ELSEWHERE = {
    "services": "write `container`",
    "volumes": "write `volume`",
    "networks": "write `network`",
    "secrets": "write `secret`",
    "configs": "write `config`",
    "name": "write `project`",
    "container_name": "the table's name is the container's: [container.NAME]",
    "build": "write [image.NAME] with `build`, and its name in `image`",
    "mem_limit": "write `memory`",
    "mem_reservation": "write `memory_reservation`",
    "memswap_limit": "write `memory_swap`",
    "pids_limit": "write `pids`",
    "blkio_config": "write `io` and `io_weight`",
    "update_config": "write `update`",
    "rollback_config": "write `rollback`",
    "links": "containers of one network find each other by name",
    "storage_opt": "limit the disk of the container's data with a volume: driver_opts",
    "cpu_count": "write `cpus`",
    "cpu_percent": "write `cpus`",
    "cpu_rt_runtime": "write `cpus`, or `ulimits` with rtprio",
    "cpu_rt_period": "write `cpus`, or `ulimits` with rtprio",
    "mac_address": "write `mac_address` in `networks`",
    "runtime": "containers run in Stead's own",
    "isolation": "it is for Windows",
    "credential_spec": "it is for Windows",
    "env": "write `environment`",
    "ipv6": "write `enable_ipv6`",
    "subnet6": "write both subnets in `subnet`",
    "gateway6": "write both gateways in `gateway`",
    "version": "leave it out",
}

# What Compose has besides, and specs do not have yet: at the top, and of a service.
COMPOSE_TOP = frozenset(("include", "models"))
COMPOSE_SERVICE = frozenset(
    """cgroup_parent cpu_count cpu_percent cpu_rt_period cpu_rt_runtime credential_spec extends
    external_links gpus isolation mac_address models oom_kill_disable post_start pre_stop
    provider runtime storage_opt use_api_socket""".split()
)
