"""Decisions: what a container is (identity) and what may change while it runs (adjustable), as fingerprints.

A facet is one line of what was asked for: `environment.FOO`, `memory`, `ports`. Facets cover what the user
set and what it resolved to, never defaults: a facet whose value is neutral is left out. The neutral values
stand in this file and are for ever, so that neither a new field with a default nor a changed default makes an
upgrade of the agent replace anything. Lists whose order means nothing are sorted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from specs.desired import (
    Attachment,
    DesiredContainer,
    DesiredNetwork,
    DesiredVolume,
    Limits,
    Logger,
    Probe,
    Restart,
)
from specs.values import ByteSize, Duration, MountPoint

Facets = dict[str, Any]


def fingerprints(container: DesiredContainer, *, image: str, platform: str = "") -> tuple[str, str, str]:
    """(identity, adjustable, facets as canonical JSON). `image` is the canonical reference."""
    identity = _identity(container, image, platform)
    adjustable = _adjustable(container)
    facets = canonical({"adjustable": adjustable, "identity": identity})
    return digest(identity), digest(adjustable), facets


def refilled(container: DesiredContainer, digests: Mapping[str, str]) -> DesiredContainer:
    """With the digests (by `kind full/name`) of its secrets and configs, and the fingerprints that follow."""
    files = tuple(replace(one, digest=digests.get(f"{one.kind} {one.name}", "")) for one in container.files)
    container = replace(container, files=files)
    platform = (_identity_group(container.facets) or {}).get("platform", "")
    identity, adjustable, facets = fingerprints(container, image=container.image, platform=platform)
    return replace(container, identity=identity, adjustable=adjustable, facets=facets)


def digests(facets: str) -> set[str]:
    """Those of secrets and configs in a container's `facets`. Junk has none."""
    kept = ("secret.", "config.")
    return {str(value) for key, value in (_identity_group(facets) or {}).items() if key.startswith(kept)}


def network_fingerprint(network: DesiredNetwork) -> str:
    """Over what only a new network can change; then, behind a `+`, over its labels."""
    facets: Facets = {}
    _add(facets, "subnet", network.subnet, "")
    _add(facets, "gateway", network.gateway, "")
    _add(facets, "internal", network.internal, False)
    _add(facets, "mtu", network.mtu, 0)
    _add(facets, "ipv6", network.ipv6, False)
    for key in ("subnet6", "gateway6", "parent", "mode", "ip_range", "ip_range6"):
        _add(facets, key, getattr(network, key), "")
    _add(facets, "driver", network.driver, "bridge")
    for key in ("icc", "masquerade"):
        _add(facets, key, getattr(network, key), True)
    _add(facets, "reserved", sorted(set(network.reserved)), [])
    shape = digest(facets)
    return f"{shape}+{digest(dict(network.labels))}" if network.labels else shape


def same_network(one: str, other: str) -> bool:
    """Whether two fingerprints differ in labels at most."""
    return one.partition("+")[0] == other.partition("+")[0]


def volume_fingerprint(volume: DesiredVolume) -> str:
    """Over its labels, which need no new volume; then, behind a `+`, over how it is made and kept."""
    facets: Facets = {}
    _add(facets, "options", dict(volume.options), {})
    _add(facets, "keep", volume.keep, False)
    if volume.prune is not None:
        facets["prune"] = "never" if volume.prune == float("inf") else _seconds(volume.prune)
    labels = digest(dict(volume.labels))
    return f"{labels}+{digest(facets)}" if facets else labels


def canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest(facets: Facets) -> str:
    return hashlib.sha256(canonical(facets).encode(errors="surrogatepass")).hexdigest()[:32]


def changed_fields(old: str, new: str) -> tuple[tuple[str, str, str], ...]:
    """(field, old, new) between two `facets`, sorted; '' for what is not there. Junk is empty."""
    before, after = _flat(old), _flat(new)
    return tuple(
        (key, show(before.get(key)), show(after.get(key)))
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    )


def same_but_networks(old: str, new: str) -> bool:
    """Whether two `facets` differ in the networks of a container on bridges at most, as for its identity:
    these change while it runs. Junk differs."""
    before, after = _identity_group(old), _identity_group(new)
    if before is None or after is None or "network_mode" in before or "network_mode" in after:
        return False
    differing = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    return all(key == "networks" or key.startswith("networks.") for key in differing)


def _identity_group(facets: str) -> Facets | None:
    try:
        group = json.loads(facets)["identity"]
    except (ValueError, KeyError, TypeError):
        return None
    return group if isinstance(group, dict) else None


def show(value: Any) -> str:
    """A facet's value for people, on one line."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        text = ", ".join(value)
    else:
        text = value if isinstance(value, str) else canonical(value)
    return text.replace("\n", "\\n")


def _flat(facets: str) -> Facets:
    try:
        groups = json.loads(facets) if facets else {}
    except ValueError:
        return {}
    out: Facets = {}
    if isinstance(groups, dict):
        for group in groups.values():
            if isinstance(group, dict):
                out.update(group)
    return out


def _add(facets: Facets, key: str, value: Any, neutral: Any) -> None:
    if value != neutral:
        facets[key] = value


def _add_map(facets: Facets, key: str, values: Mapping[str, str]) -> None:
    for name, value in values.items():
        facets[f"{key}.{name}"] = value


def _identity(container: DesiredContainer, image: str, platform: str) -> Facets:
    facets: Facets = {"image": image}
    _add(facets, "platform", platform, "")
    for key in ("command", "entrypoint"):
        value = getattr(container, key)
        _add(facets, key, None if value is None else list(value), None)
    for key in ("working_dir", "user", "hostname", "domainname"):
        _add(facets, key, getattr(container, key), "")
    _add(facets, "pid", container.pid_mode, "")
    _add(facets, "ipc", container.ipc_mode, "")
    _add(facets, "uts", container.uts_mode, "")
    _add(facets, "cgroup", container.cgroup_mode, "")
    _add(facets, "init", container.init, False)
    _add(facets, "device_cgroup_rules", sorted(set(container.device_rules)), [])
    inherited = [f"{name}:ro" if read_only else name for name, read_only in container.volumes_from]
    _add(facets, "volumes_from", inherited, [])
    _add(facets, "network_mode", container.network_mode, "bridge")
    for key in ("read_only", "privileged", "no_new_privileges", "seccomp_unconfined", "tty", "stdin_open"):
        _add(facets, key, getattr(container, key), False)
    _add(
        facets,
        "seccomp_profile",
        digest({"": container.seccomp_profile})[:12] if container.seccomp_profile else "",
        "",
    )
    for key in ("apparmor", "userns"):
        _add(facets, key, getattr(container, key), "")
    _add(facets, "unmasked", container.unmasked, False)
    _add(facets, "userns_size", container.userns_size, 0)
    for key in ("group_add", "cap_add", "cap_drop"):
        _add(facets, key, sorted(set(getattr(container, key))), [])
    for key in ("dns", "dns_search", "dns_opt"):
        _add(facets, key, list(getattr(container, key)), [])
    _add_map(facets, "environment", container.environment)
    _add_map(facets, "annotations", container.annotations)
    _add_map(facets, "sysctls", container.sysctls)
    _add(facets, "extra_hosts", [f"{name}={where}" for name, where in container.extra_hosts], [])
    _add(facets, "devices", sorted(f"{d.source}:{d.target}:{d.permissions}" for d in container.devices), [])
    for limit in container.ulimits:
        facets[f"ulimits.{limit.name}"] = f"{limit.soft}:{limit.hard}"
    _add(facets, "shm_size", container.shm_size, 0)
    _add(facets, "networks", [one.network for one in container.networks], [])
    for attachment in container.networks:
        _add(facets, f"networks.{attachment.network}.ipv4_address", attachment.ipv4_address, "")
        _add(facets, f"networks.{attachment.network}.mac_address", attachment.mac_address, "")
        for key in ("ipv6_address", "interface_name"):
            _add(facets, f"networks.{attachment.network}.{key}", getattr(attachment, key), "")
        link_local = sorted(set(attachment.link_local_ips))
        _add(facets, f"networks.{attachment.network}.link_local_ips", link_local, [])
    for one in container.files:
        short = one.name.removeprefix(f"{container.project}/")
        owner = f" uid={one.uid} gid={one.gid}" if one.uid or one.gid else ""
        mode = "" if one.mode == 0o444 else f" mode={one.mode:04o}"
        facets[f"{one.kind}s.{one.target}"] = f"{short}{owner}{mode}"
        _add(facets, f"{one.kind}.{short}", one.digest, "")
    for mount in container.mounts:
        facets[f"volumes.{mount.target}"] = _mount(mount)
    for name in ("driver", "tag", "mode", "max_buffer_size", "address", "facility", "format"):
        _add(facets, f"logging.{name}", getattr(container.logger, name), getattr(Logger(), name))
    return facets


def _mount(mount: MountPoint) -> str:
    options = []
    if mount.read_only:
        options.append("ro")
    if mount.nocopy:
        options.append("nocopy")
    if mount.propagation != "rprivate":
        options.append(mount.propagation)
    if mount.tmpfs_size:
        options.append(f"size={ByteSize(mount.tmpfs_size)}")
    if mount.tmpfs_mode != 0o1777:
        options.append(f"mode={mount.tmpfs_mode:o}")
    options += mount.tmpfs_options
    if mount.subpath:
        options.append(f"subpath={mount.subpath}")
    options += [f"recursive={mount.recursive}"] if mount.recursive else []
    options += [f"selinux={mount.selinux}"] if mount.selinux else []
    return ":".join(part for part in (mount.kind, mount.source, ",".join(options)) if part)


def _adjustable(container: DesiredContainer) -> Facets:
    facets: Facets = {}
    _add_map(facets, "labels", container.labels)
    _add(facets, "ports", sorted(str(binding) for binding in container.ports), [])
    _add(facets, "publish_all", container.publish_all, False)
    _add(facets, "expose", sorted(container.expose), [])
    _add(facets, "stop_signal", container.stop_signal, "")
    _add(facets, "stop_grace_period", _seconds(container.stop_grace_period), "10s")
    _add(facets, "update.drain", _seconds(container.update.drain), "5s")
    for attachment in container.networks:
        _aliases(facets, attachment)
    _restart(facets, container.restart)
    _probe(facets, container.probe, "healthcheck")
    _probe(facets, container.startup, "healthcheck.startup")
    _probe(facets, container.readiness, "healthcheck.readiness")
    _limits(facets, container.limits)
    _add(facets, "oom_score_adj", container.oom_score_adj, 0)
    _add(facets, "logging.max-size", str(ByteSize(container.logging.max_size)), "10MiB")
    _add(facets, "logging.max-file", container.logging.max_files, 3)
    return facets


def _aliases(facets: Facets, attachment: Attachment) -> None:
    _add(facets, f"networks.{attachment.network}.aliases", sorted(set(attachment.aliases)), [])
    _add(facets, f"networks.{attachment.network}.gw_priority", attachment.gw_priority, 0)


def _restart(facets: Facets, restart: Restart) -> None:
    policy = f"{restart.policy}:{restart.max_retries}" if restart.max_retries else restart.policy
    _add(facets, "restart", policy, "always")
    _add(facets, "restart_backoff.initial", _seconds(restart.initial), "100ms")
    _add(facets, "restart_backoff.max", _seconds(restart.max), "1m")
    _add(facets, "restart_backoff.reset_after", _seconds(restart.reset_after), "10s")


def _probe(facets: Facets, probe: Probe | None, key: str) -> None:
    if probe is None:
        return
    if probe.disabled:
        facets[f"{key}.test"] = ["NONE"]
        return
    facets[key] = True
    _add(facets, f"{key}.test", ["CMD", *probe.exec], ["CMD"])
    _add(facets, f"{key}.shell", probe.shell, "")
    _add(facets, f"{key}.http", probe.http, "")
    _add(facets, f"{key}.tcp", probe.tcp, "")
    _add(facets, f"{key}.interval", _seconds(probe.interval), "30s")
    _add(facets, f"{key}.timeout", _seconds(probe.timeout), "30s")
    _add(facets, f"{key}.retries", probe.retries, 3)
    _add(facets, f"{key}.start_period", _seconds(probe.start_period), "0s")
    _add(facets, f"{key}.start_interval", _seconds(probe.start_interval), "5s")
    _add(facets, f"{key}.on_failure", probe.on_failure, "restart")
    _add(facets, f"{key}.given", sorted(probe.given), [])
    _add(facets, f"{key}.method", probe.method, "")
    _add(facets, f"{key}.headers", [list(pair) for pair in probe.headers], [])
    _add(facets, f"{key}.expect_status", probe.expect_status, "")
    _add(facets, f"{key}.tls_verify", probe.tls_verify, False)


def _limits(facets: Facets, limits: Limits) -> None:
    _add(facets, "cpus", limits.cpus, 0.0)
    _add(facets, "cpuset", limits.cpuset, "")
    for key in ("memory", "memory_reservation", "memory_swap"):
        value = getattr(limits, key)
        _add(facets, key, "-1" if value == -1 else str(ByteSize(value)), "0B")
    for key in ("cpu_weight", "pids", "io_weight"):
        _add(facets, key, getattr(limits, key), 0)
    for device in limits.io:
        for key in ("read_bps", "write_bps", "read_iops", "write_iops"):
            _add(facets, f"io.{device.device}.{key}", getattr(device, key), 0)
    for page, size in limits.hugepages:
        facets[f"hugepages.{page}"] = str(ByteSize(size))
    _add(facets, "mem_swappiness", limits.swappiness, -1)


def _seconds(value: float) -> str:
    return str(Duration(value))
