"""Decisions: a container as docker's document: Id, State, Config, HostConfig, NetworkSettings, Mounts.

What the container was asked to be is in Config and HostConfig, what it is in State and NetworkSettings. Keys
of docker that have no meaning here are left out rather than made up; those that the document always has
there are always here.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from agent.cli.containers.seen import Seen
    from runtime.net.records import Lease, NetworkRecord
    from runtime.shim.messages import ProbeResult

    Document = dict[str, Any]

NEVER = "0001-01-01T00:00:00Z"
_NANO = 1_000_000_000


def moment(seconds: float) -> str:
    """RFC 3339 in UTC; docker's zero time for never."""
    if not seconds:
        return NEVER
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def document(item: Seen, networks: Mapping[str, NetworkRecord]) -> Document:
    record, home = item.record, item.paths.container(item.record.id)
    words = item.words
    return {
        "Id": record.id,
        "Created": moment(record.created_at),
        "Path": words[0] if words else "",
        "Args": words[1:],
        "State": state(item),
        "Image": record.image_id,
        "ResolvConfPath": str(home / "resolv.conf"),
        "HostnamePath": str(home / "hostname"),
        "HostsPath": str(home / "hosts"),
        "LogPath": str(home / "log"),
        "Name": f"/{record.name}",
        "RestartCount": item.state.restarts if item.state else 0,
        "Driver": "overlay2",
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": str((item.config.get("process") or {}).get("apparmorProfile") or ""),
        "ExecIDs": None,
        "HostConfig": host_config(item),
        "GraphDriver": {
            "Name": "overlay2",
            "Data": {
                "MergedDir": str(item.paths.rootfs(record.id)),
                "UpperDir": str(home / "upper"),
                "WorkDir": str(home / "work"),
            },
        },
        "Mounts": [_mount(item, mount) for mount in item.mounts],
        "Config": config(item),
        "NetworkSettings": network_settings(item, networks),
    }


def state(item: Seen) -> Document:
    said, word = item.state, item.docker_state
    found: Document = {
        "Status": word,
        "Running": word in ("running", "paused", "restarting"),
        "Paused": word == "paused",
        "Restarting": word == "restarting",
        "OOMKilled": bool(said and said.oom_killed),
        "Dead": word == "dead",
        "Pid": said.pid if said is not None and item.live else 0,
        "ExitCode": 0 if word in ("running", "paused") else item.exit_code,
        "Error": said.error if said else "",
        "StartedAt": moment(said.started_at if said else 0.0),
        "FinishedAt": moment(said.finished_at if said else 0.0),
    }
    if said is not None and (item.health != "none" or said.health_log):
        failing = 0
        for result in reversed(said.health_log):
            if result.exit_code == 0:
                break
            failing += 1
        found["Health"] = {
            "Status": item.health if item.live else _last_health(item, said.health_log, failing),
            "FailingStreak": failing,
            "Log": _results(said.health_log),
        }
    if said is not None and item.live:
        found["ready"] = said.ready
        others = {"startup": said.startup_log, "readiness": said.readiness_log}
        found["probes"] = {kind: _results(log) for kind, log in others.items() if log}
    return found


def _last_health(item: Seen, log: Sequence[ProbeResult], failing: int) -> str:
    """Of one that has ended: what its last results made of it."""
    said = _healthcheck(item.request.get("probe"), item.image_config.get("Healthcheck")) or {}
    if failing >= int(said.get("Retries") or 3):
        return "unhealthy"
    return "healthy" if failing < len(log) else "starting"


def _results(log: Sequence[ProbeResult]) -> list[Document]:
    return [
        {
            "Start": moment(result.started_at),
            "End": moment(result.finished_at),
            "ExitCode": result.exit_code,
            "Output": result.output,
        }
        for result in log
    ]


def config(item: Seen) -> Document:
    """The image's config with what the container was given."""
    asked, image = item.request, item.image_config
    own_entrypoint = asked.get("entrypoint") is not None
    command = asked.get("command")
    if command is None and not own_entrypoint:
        command = image.get("Cmd")
    found = {
        "Hostname": str(item.config.get("hostname") or asked.get("hostname") or item.record.id[:12]),
        "Domainname": asked.get("domainname") or "",
        "User": asked.get("user") or image.get("User") or "",
        "AttachStdin": False,
        "AttachStdout": False,
        "AttachStderr": False,
        "ExposedPorts": {port: {} for port in _exposed(item)},
        "Tty": bool(asked.get("tty")),
        "OpenStdin": bool(asked.get("stdin_open")),
        "StdinOnce": False,
        "Env": _environment(asked, image),
        "Cmd": command,
        "Image": item.image,
        "Volumes": image.get("Volumes") or None,
        "WorkingDir": asked.get("working_dir") or image.get("WorkingDir") or "",
        "Entrypoint": asked["entrypoint"] if own_entrypoint else image.get("Entrypoint"),
        "OnBuild": None,
        "Labels": item.labels,
        "StopSignal": asked.get("stop_signal") or image.get("StopSignal") or "SIGTERM",
        "StopTimeout": asked.get("stop_grace_period", 10.0),
    }
    health = _healthcheck(asked.get("probe"), image.get("Healthcheck"))
    return {**found, "Healthcheck": health} if health else found


def _environment(asked: Mapping[str, Any], image: Mapping[str, Any]) -> list[str]:
    """What was said here, then what the image says beside, as docker has it, and PATH in any case. What every
    program has by itself (HOSTNAME, HOME, TERM) is not what anybody asked for."""
    said: dict[str, str] = dict(asked.get("environment") or {})
    inherited = _pairs(image.get("Env") or ())
    found = {**said, **{key: value for key, value in inherited.items() if key not in said}}
    if "PATH" not in found:
        from runtime.bundle import DEFAULT_PATH

        found["PATH"] = DEFAULT_PATH
    return [f"{key}={value}" for key, value in found.items()]


def _pairs(entries: Any) -> dict[str, str]:
    return dict(str(entry).partition("=")[::2] for entry in entries)


def _exposed(item: Seen) -> list[str]:
    asked = {f"{port['container_port']}/{port['protocol']}" for port in item.published}
    return [*item.exposed, *sorted(asked - set(item.exposed))]


#: fields of a probe that hold, where the test is the image's, only if they were given
_OF_IMAGE = {
    "interval": "Interval",
    "timeout": "Timeout",
    "start_period": "StartPeriod",
    "retries": "Retries",
}


def _healthcheck(probe: Mapping[str, Any] | None, image: Mapping[str, Any] | None) -> Document | None:
    if probe is None:
        return dict(image) if image else None
    if probe.get("disabled"):
        return {"Test": ["NONE"]}
    test: list[str] = []
    base: Document = {}
    if probe.get("exec"):
        test = ["CMD", *probe["exec"]]
    elif probe.get("shell"):
        test = ["CMD-SHELL", probe["shell"]]
    elif probe.get("http") or probe.get("tcp"):
        kind = "http" if probe.get("http") else "tcp"
        test = [kind.upper(), str(probe[kind])]
    elif image:
        test = list(image.get("Test") or ())
        base = {key: value for key, value in image.items() if value}
    said = {name for name, key in _OF_IMAGE.items() if name in (probe.get("given") or ()) or key not in base}
    times = {
        "Interval": ("interval", 30.0),
        "Timeout": ("timeout", 30.0),
        "StartPeriod": ("start_period", 0.0),
    }
    found: Document = {
        key: int(probe.get(name, default) * _NANO) if name in said else base[key]
        for key, (name, default) in times.items()
    }
    retries = probe.get("retries", 3) if "retries" in said else base["Retries"]
    return {"Test": test, **found, "Retries": retries}


def host_config(item: Seen) -> Document:
    asked = item.request
    limits, restart = asked.get("limits") or {}, asked.get("restart") or {}
    policy = str(restart.get("policy") or "always")
    devices = asked.get("devices") or ()
    memory = int(limits.get("memory") or 0)
    return {
        "Binds": [_bind(mount) for mount in item.mounts if mount.get("kind") in ("bind", "volume")],
        "LogConfig": _log_config(asked),
        "NetworkMode": str(asked.get("network_mode") or "bridge"),
        "PortBindings": _bindings(item.published),
        "RestartPolicy": {
            "Name": policy,
            "MaximumRetryCount": int(restart.get("max_retries") or 0) if policy == "on-failure" else 0,
        },
        "AutoRemove": bool(asked.get("auto_remove")),
        "CapAdd": list(asked.get("cap_add") or ()) or None,
        "CapDrop": list(asked.get("cap_drop") or ()) or None,
        "Dns": list(asked.get("dns") or ()),
        "DnsOptions": list(asked.get("dns_opt") or ()),
        "DnsSearch": list(asked.get("dns_search") or ()),
        "ExtraHosts": [":".join(pair) for pair in asked.get("extra_hosts") or ()] or None,
        "GroupAdd": list(asked.get("group_add") or ()) or None,
        "IpcMode": str(asked.get("ipc_mode") or "private"),
        "PidMode": str(asked.get("pid_mode") or ""),
        "UTSMode": str(asked.get("uts_mode") or ""),
        "UsernsMode": str(asked.get("userns") or ""),
        "OomScoreAdj": int(asked.get("oom_score_adj") or 0),
        "Privileged": bool(asked.get("privileged")),
        "PublishAllPorts": bool(asked.get("publish_all")),
        "ReadonlyRootfs": bool(asked.get("read_only")),
        "SecurityOpt": _security(asked),
        "ShmSize": int(asked.get("shm_size") or 64 * 1024 * 1024),
        "Sysctls": dict(asked.get("sysctls") or {}),
        "Tmpfs": {m["target"]: "" for m in item.mounts if m.get("kind") == "tmpfs"},
        "NanoCpus": int(float(limits.get("cpus") or 0) * _NANO),
        "CpuShares": shares(int(limits.get("cpu_weight") or 0)),
        "CpusetCpus": str(limits.get("cpuset") or ""),
        "Memory": memory,
        "MemoryReservation": int(limits.get("memory_reservation") or 0),
        "MemorySwap": int(limits.get("memory_swap") or 2 * memory),
        "PidsLimit": int(limits.get("pids") or 0) or None,
        "BlkioWeight": int(limits.get("io_weight") or 0),
        "Ulimits": [
            {"Name": name, "Soft": soft, "Hard": hard} for name, soft, hard in asked.get("ulimits") or ()
        ],
        "Devices": [
            {"PathOnHost": host, "PathInContainer": inside, "CgroupPermissions": access}
            for host, inside, access in devices
        ],
        "Init": True if asked.get("init") else None,
        "CgroupnsMode": str(asked.get("cgroup_mode") or "private"),
        "Cgroup": "",
        "ContainerIDFile": "",
        "ConsoleSize": [0, 0],
        "Isolation": "",
        "Links": None,
        "VolumeDriver": "",
        "VolumesFrom": [_from(pair) for pair in asked.get("volumes_from") or ()] or None,
        "CpuPeriod": 0,
        "CpuQuota": 0,
        "CpuRealtimePeriod": int(limits.get("cpu_rt_period") or 0),
        "CpuRealtimeRuntime": int(limits.get("cpu_rt_runtime") or 0),
        "CpusetMems": "",
        "DeviceCgroupRules": list(asked.get("device_rules") or ()) or None,
        "DeviceRequests": None,
        "MemorySwappiness": limits.get("swappiness"),
        "OomKillDisable": None,
        "BlkioWeightDevice": None,
        **_io(limits.get("io") or ()),
        "MaskedPaths": (item.config.get("linux") or {}).get("maskedPaths"),
        "ReadonlyPaths": (item.config.get("linux") or {}).get("readonlyPaths"),
        "CgroupParent": "stead.slice",
        "Runtime": "stead",
    }


def _log_config(asked: Mapping[str, Any]) -> Document:
    logger = asked.get("logger") or {}
    options = {
        "max-file": str(asked.get("log_max_files", 3)),
        "max-size": str(asked.get("log_max_size", 10 * 1024 * 1024)),
        "tag": str(logger.get("tag") or ""),
        "mode": str(logger.get("mode") or ""),
        "max-buffer-size": str(logger.get("max_buffer_size") or ""),
        "syslog-address": str(logger.get("address") or ""),
        "syslog-format": str(logger.get("format") or ""),
    }
    found = {key: value for key, value in options.items() if value}
    driver = str(logger.get("driver") or "local")
    return {"Type": driver, "Config": {} if driver == "none" else found}


def _from(pair: Any) -> str:
    name, read_only = pair
    return f"{name}:ro" if read_only else str(name)


def _io(asked: Any) -> Document:
    """Rates of block devices, a list for each kind."""
    found: Document = {}
    for kind in ("read_bps", "write_bps", "read_iops", "write_iops"):
        what, unit = kind.split("_")
        key = f"BlkioDevice{what.title()}{'Bps' if unit == 'bps' else 'IOps'}"
        rates = [{"Path": one["device"], "Rate": one[kind]} for one in asked if one.get(kind)]
        found[key] = rates or None
    return found


def shares(weight: int) -> int:
    """Docker's cpu shares (1024 is the default) of our weight (100 is); 0: none was asked for. The inverse of
    what OCI runtimes do is not exact, and is not meant to be."""
    return round(weight * 1024 / 100) if weight else 0


def _security(asked: Mapping[str, Any]) -> list[str] | None:
    found = ["no-new-privileges"] if asked.get("no_new_privileges") else []
    found += ["seccomp=unconfined"] if asked.get("seccomp_unconfined") else []
    found += [f"seccomp={asked['seccomp_profile']}"] if asked.get("seccomp_profile") else []
    found += [f"apparmor={asked['apparmor']}"] if asked.get("apparmor") else []
    found += ["systempaths=unconfined"] if asked.get("unmasked") else []
    return found or None


def _bind(mount: Mapping[str, Any]) -> str:
    return f"{mount.get('source') or ''}:{mount['target']}{':ro' if mount.get('read_only') else ''}"


def _mount(item: Seen, mount: Mapping[str, Any]) -> Document:
    kind, source = str(mount.get("kind")), str(mount.get("source") or "")
    writable = not mount.get("read_only")
    found: Document = {"Type": kind}
    if kind == "volume":
        from runtime.volumes.records import data_path

        path = str(data_path(item.paths.volumes, source)) if source else ""
        found |= {"Name": source, "Source": path, "Driver": "local"}
    else:
        found["Source"] = source
    propagation = str(mount.get("propagation") or "rprivate") if kind == "bind" else ""
    mode = "" if writable else "ro"
    return {
        **found,
        "Destination": mount["target"],
        "Mode": mode,
        "RW": writable,
        "Propagation": propagation,
    }


def _bindings(published: list[dict[str, Any]]) -> Document:
    found: Document = {}
    for port in published:
        key = f"{port['container_port']}/{port['protocol']}"
        binding = {"HostIp": port["host_ip"] or "0.0.0.0", "HostPort": str(port["host_port"])}
        found.setdefault(key, []).append(binding)
    return found


def network_settings(item: Seen, networks: Mapping[str, NetworkRecord]) -> Document:
    open_ports: Document = dict.fromkeys(_exposed(item)) if item.live else {}
    found = {lease.network: _endpoint(item, lease, networks.get(lease.network)) for lease in item.leases}
    mode = str(item.request.get("network_mode") or "bridge")
    if mode in ("none", "host"):
        found[mode] = {"IPAMConfig": None, "Aliases": None, "IPAddress": "", "Gateway": "", "MacAddress": ""}
    first: Document = next(iter(found.values()), {})
    return {
        "SandboxID": item.record.id if item.live else "",
        "SandboxKey": str(item.paths.netns(item.record.id)) if item.live else "",
        "Ports": {**open_ports, **_bindings(item.ports)},
        "Gateway": first.get("Gateway", ""),
        "IPAddress": first.get("IPAddress", ""),
        "IPPrefixLen": first.get("IPPrefixLen", 0),
        "GlobalIPv6Address": first.get("GlobalIPv6Address", ""),
        "GlobalIPv6PrefixLen": first.get("GlobalIPv6PrefixLen", 0),
        "IPv6Gateway": first.get("IPv6Gateway", ""),
        "EndpointID": first.get("EndpointID", ""),
        "MacAddress": first.get("MacAddress", ""),
        "Networks": found,
    }


def _endpoint(item: Seen, lease: Lease, network: NetworkRecord | None) -> Document:
    asked: Mapping[str, Any] = next(
        (one for one in item.request.get("networks") or () if one.get("network") == lease.network), {}
    )
    fixed = {"IPv4Address": asked["ipv4_address"]} if asked.get("ipv4_address") else {}
    fixed |= {"IPv6Address": asked["ipv6_address"]} if asked.get("ipv6_address") else {}
    up = item.live and lease.active
    prefix = int(network.subnet.partition("/")[2] or 0) if network is not None else 0
    prefix6 = int(network.subnet6.partition("/")[2] or 0) if network is not None and network.subnet6 else 0
    return {
        "IPAMConfig": fixed or None,
        "Aliases": list(lease.aliases) or None,
        "MacAddress": lease.mac if up else "",
        "NetworkID": _network_id(network) if network is not None else "",
        "EndpointID": hashlib.sha256(f"{lease.container} {lease.network}".encode()).hexdigest() if up else "",
        "Gateway": network.gateway if up and network is not None else "",
        "IPAddress": lease.address if up else "",
        "IPPrefixLen": prefix if up else 0,
        "IPv6Gateway": network.gateway6 if up and network is not None and lease.address6 else "",
        "GlobalIPv6Address": lease.address6 if up else "",
        "GlobalIPv6PrefixLen": prefix6 if up and lease.address6 else 0,
        "DNSNames": [item.record.name.rpartition("/")[2], *lease.aliases],
    }


def _network_id(network: NetworkRecord) -> str:
    from agent.cli.networks.rows import id_of

    return id_of(network)
