"""Decisions: every field of a Linux config.json: honoured, or refused by its name.

The table below is the specification's (config.md, config-linux.md, 1.3): True for what is honoured, a text
for what is refused, and why. What the specification does not know is passed over with a warning, as
it demands.
"""

from __future__ import annotations

import os

from runtime.linux import capabilities, mounts, namespaces
from runtime.oci.failure import OciFailure
from runtime.shim import entries, scheduling, sysctls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Config = dict[str, Any]

_ID = {"containerID": True, "hostID": True, "size": True}
_MAPPINGS = [_ID]
_HOOKS = [{"path": True, "args": True, "env": True, "timeout": True}]
_RATES = [{"major": True, "minor": True, "rate": True}]
_WINDOWS = "it is of another system than Linux"
_LISTENER = "no listener is served: whoever wants one would have to be trusted with every process's memory"

RESOURCES: Config = {
    "devices": [{"allow": True, "type": True, "major": True, "minor": True, "access": True}],
    "memory": {
        "limit": True,
        "reservation": True,
        "swap": True,
        "kernel": True,
        "kernelTCP": True,
        "swappiness": True,
        "disableOOMKiller": True,
        "useHierarchy": True,
        "checkBeforeUpdate": True,
    },
    "cpu": {
        "shares": True,
        "quota": True,
        "burst": True,
        "period": True,
        "realtimeRuntime": True,
        "realtimePeriod": True,
        "cpus": True,
        "mems": True,
        "idle": True,
    },
    "pids": {"limit": True},
    "blockIO": {
        "weight": True,
        "leafWeight": True,
        "weightDevice": [{"major": True, "minor": True, "weight": True, "leafWeight": True}],
        "throttleReadBpsDevice": _RATES,
        "throttleWriteBpsDevice": _RATES,
        "throttleReadIOPSDevice": _RATES,
        "throttleWriteIOPSDevice": _RATES,
    },
    "hugepageLimits": [{"pageSize": True, "limit": True}],
    "network": {"classID": True, "priorities": [{"name": True, "priority": True}]},
    "rdma": True,
    "unified": True,
}
FIELDS: Config = {
    "ociVersion": True,
    "root": {"path": True, "readonly": True},
    "hostname": True,
    "domainname": True,
    "annotations": True,
    "mounts": [
        {
            "destination": True,
            "type": True,
            "source": True,
            "options": True,
            "uidMappings": _MAPPINGS,
            "gidMappings": _MAPPINGS,
        }
    ],
    "hooks": dict.fromkeys(
        ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"), _HOOKS
    ),
    "process": {
        "terminal": True,
        "consoleSize": {"height": True, "width": True},
        "cwd": True,
        "env": True,
        "args": True,
        "commandLine": _WINDOWS,
        "user": {
            "uid": True,
            "gid": True,
            "umask": True,
            "additionalGids": True,
            "username": _WINDOWS,
        },
        "rlimits": [{"type": True, "soft": True, "hard": True}],
        "capabilities": dict.fromkeys(("bounding", "effective", "permitted", "inheritable", "ambient"), True),
        "noNewPrivileges": True,
        "apparmorProfile": True,
        "selinuxLabel": True,
        "oomScoreAdj": True,
        "scheduler": dict.fromkeys(
            ("policy", "nice", "priority", "flags", "runtime", "deadline", "period"), True
        ),
        "ioPriority": {"class": True, "priority": True},
        "execCPUAffinity": {"initial": True, "final": True},
    },
    "linux": {
        "namespaces": [{"type": True, "path": True}],
        "uidMappings": _MAPPINGS,
        "gidMappings": _MAPPINGS,
        "timeOffsets": True,
        "devices": [
            dict.fromkeys(("type", "path", "major", "minor", "fileMode", "uid", "gid"), True),
        ],
        "netDevices": "no network device is moved; prestart and createRuntime hooks may do that",
        "cgroupsPath": True,
        "resources": RESOURCES,
        "rootfsPropagation": True,
        "seccomp": {
            "defaultAction": True,
            "defaultErrnoRet": True,
            "architectures": True,
            "flags": True,
            "listenerPath": _LISTENER,
            "listenerMetadata": _LISTENER,
            "syscalls": [{"names": True, "action": True, "errnoRet": True, "args": True}],
        },
        "sysctl": True,
        "maskedPaths": True,
        "readonlyPaths": True,
        "mountLabel": True,
        "personality": {"domain": True, "flags": "the kernel has none that is left to a runtime"},
        "intelRdt": "cache and memory bandwidth are not divided (resctrl)",
        "memoryPolicy": "memory is not placed on nodes but by resources.cpu.mems",
    },
    "solaris": _WINDOWS,
    "windows": _WINDOWS,
    "vm": _WINDOWS,
    "zos": _WINDOWS,
    "freebsd": _WINDOWS,
}
#: Options of mounts that neither mount_setattr(2) nor fsconfig(2) takes.
_REFUSED_OPTIONS = frozenset(("acl", "noacl", "iversion", "noiversion", "mand", "nomand"))
#: Options of a file system that a bind mount of it cannot change.
_OF_FILE_SYSTEMS = frozenset(("sync", "dirsync", "lazytime", "nolazytime"))


def check(config: Config) -> list[str]:
    """The warnings; OciFailure names the first field that is refused or says what cannot be."""
    warnings: list[str] = []
    _walk(config, FIELDS, "", warnings)
    version = str(config.get("ociVersion") or "")
    if not version.startswith("1."):
        raise _refused("ociVersion", f"{version or 'none'}: this runtime knows 1.0 to 1.3")
    for key in ("root", "process", "linux"):
        if not config.get(key):
            raise _refused(key, "it is missing")
    if not config["root"].get("path"):
        raise _refused("root.path", "it is missing")
    spaces = _check_namespaces(config)
    _check_process(config["process"], warnings)
    _check_mounts(config)
    _check_names(config, spaces)
    _check_hooks(config.get("hooks") or {})
    return warnings


def _walk(value: Any, known: Any, path: str, warnings: list[str]) -> None:
    if value is None or known is True:
        return
    if isinstance(known, str):
        if value not in ("", [], {}, False, 0):
            raise _refused(path, known)
        return
    if isinstance(known, list):
        if not isinstance(value, list):
            raise _refused(path, "it is no list")
        for at, item in enumerate(value):
            _walk(item, known[0], f"{path}[{at}]", warnings)
        return
    if not isinstance(value, dict):
        raise _refused(path, "it is no object")
    for key, item in value.items():
        name = f"{path}.{key}" if path else str(key)
        if key in known:
            _walk(item, known[key], name, warnings)
        elif item is not None:
            warnings.append(f"config.json: {name} is unknown and passed over")


def _check_namespaces(config: Config) -> dict[str, str]:
    spaces: dict[str, str] = {}
    for space in config["linux"].get("namespaces") or ():
        kind = str(space["type"])
        if kind not in namespaces.FLAGS:
            raise _refused("linux.namespaces", f"{kind}: no such kind of namespace")
        if kind in spaces:
            raise _refused("linux.namespaces", f"{kind}: it is there twice")
        spaces[kind] = str(space.get("path") or "")
        if spaces[kind] and not os.path.exists(spaces[kind]):
            raise _refused("linux.namespaces", f"{kind}: {spaces[kind]}: no such file or directory")
    linux = config["linux"]
    if "mount" not in spaces:
        raise _refused("linux.namespaces", "mount is missing: the host's mounts would be changed")
    mapped = linux.get("uidMappings") or linux.get("gidMappings")
    if mapped and "user" not in spaces:
        raise _refused("linux.uidMappings", "there is no user namespace")
    if (
        "user" in spaces
        and not spaces["user"]
        and not (linux.get("uidMappings") and linux.get("gidMappings"))
    ):
        raise _refused("linux.uidMappings", "a new user namespace needs mappings of users and of groups")
    if linux.get("timeOffsets") and spaces.get("time") != "":
        raise _refused("linux.timeOffsets", "there is no new time namespace")
    return spaces


def _check_names(config: Config, spaces: dict[str, str]) -> None:
    for key in ("hostname", "domainname"):
        if config.get(key) and "uts" not in spaces:
            raise _refused(key, "there is no uts namespace, it would be the host's")
    for key in config["linux"].get("sysctl") or {}:
        of_host = str(key).startswith("net") and _is_hosts_network(spaces)
        if of_host or not sysctls.is_own(str(key), dict.fromkeys(spaces)):
            raise _refused("linux.sysctl", f"{key}: it is not in a namespace of the container's own")
    propagation = config["linux"].get("rootfsPropagation")
    if propagation and propagation not in mounts.PROPAGATION:
        raise _refused("linux.rootfsPropagation", f"{propagation}: no such kind")
    domain = (config["linux"].get("personality") or {}).get("domain")
    if domain and domain not in scheduling.DOMAINS:
        raise _refused("linux.personality.domain", f"{domain}: it is neither LINUX nor LINUX32")


def _is_hosts_network(spaces: dict[str, str]) -> bool:
    path = spaces.get("network")
    if not path:
        return False
    found, own = os.stat(path), os.stat("/proc/self/ns/net")
    return (found.st_dev, found.st_ino) == (own.st_dev, own.st_ino)


def _check_process(process: Config, warnings: list[str]) -> None:
    if not process.get("args"):
        raise _refused("process.args", "it is empty")
    if not str(process.get("cwd") or "").startswith("/"):
        raise _refused("process.cwd", "it is no absolute path")
    seen: set[str] = set()
    for limit in process.get("rlimits") or ():
        if limit["type"] in seen:
            raise _refused("process.rlimits", f"{limit['type']}: it is there twice")
        seen.add(limit["type"])
    for kind, names in (process.get("capabilities") or {}).items():
        unknown = [name for name in names or () if name not in capabilities.NUMBERS]
        if unknown:
            warnings.append(
                f"config.json: process.capabilities.{kind}: {', '.join(unknown)}: unknown, not given"
            )
            process["capabilities"][kind] = [name for name in names if name in capabilities.NUMBERS]
    scheduler = process.get("scheduler") or {}
    if scheduler and scheduler.get("policy") not in scheduling.POLICIES:
        raise _refused("process.scheduler.policy", f"{scheduler.get('policy')}: no such policy")
    for flag in scheduler.get("flags") or ():
        if flag not in scheduling.FLAGS:
            raise _refused("process.scheduler.flags", f"{flag}: no such flag")
    priority = process.get("ioPriority") or {}
    if priority and priority.get("class") not in scheduling.CLASSES:
        raise _refused("process.ioPriority.class", f"{priority.get('class')}: no such class")
    for key, text in (process.get("execCPUAffinity") or {}).items():
        try:
            scheduling.cpus(str(text))
        except ValueError:
            raise _refused(f"process.execCPUAffinity.{key}", f"{text}: no list of CPUs") from None


def _check_mounts(config: Config) -> None:
    for at, entry in enumerate(config.get("mounts") or ()):
        path, options = f"mounts[{at}]", [str(word) for word in entry.get("options") or ()]
        if not entry.get("destination"):
            raise _refused(f"{path}.destination", "it is missing")
        bind = str(entry.get("type") or "bind") == "bind" or "bind" in options or "rbind" in options
        refused = _REFUSED_OPTIONS | (_OF_FILE_SYSTEMS if bind else frozenset())
        for word in options:
            if word in refused or (bind and word not in entries.ATTRIBUTES and word not in entries.WORDS):
                raise _refused(
                    f"{path}.options", f"{word}: {'a bind' if bind else 'a'} mount has no such option"
                )
        if entry.get("uidMappings") and not entry.get("gidMappings"):
            raise _refused(f"{path}.gidMappings", "there are uidMappings only")
        if entry.get("gidMappings") and not entry.get("uidMappings"):
            raise _refused(f"{path}.uidMappings", "there are gidMappings only")
        if (entry.get("uidMappings") or "idmap" in options or "ridmap" in options) and not bind:
            raise _refused(f"{path}.uidMappings", "only a bind mount can be id-mapped")


def _check_hooks(wanted: Config) -> None:
    for kind, listed in wanted.items():
        for at, hook in enumerate(listed or ()):
            if not str(hook.get("path") or "").startswith("/"):
                raise _refused(f"hooks.{kind}[{at}].path", "it is no absolute path")
            timeout = hook.get("timeout")
            if timeout is not None and not (isinstance(timeout, int) and timeout > 0):
                raise _refused(f"hooks.{kind}[{at}].timeout", f"{timeout}: it is no number of seconds")


def _refused(field: str, why: str) -> OciFailure:
    return OciFailure(f"cannot use config.json: {field}: {why}")


def complete(config: Config) -> Config:
    """The same with what init reads always there: empty objects, and `personality` where it is applied."""
    process, linux = {**config["process"]}, {**config["linux"]}
    process["user"] = process.get("user") or {}
    linux["namespaces"] = linux.get("namespaces") or []
    if linux.get("personality"):
        process["personality"] = linux["personality"]
    return {**config, "process": process, "linux": linux, "mounts": labelled(config)}


def labelled(config: Config) -> list[Config]:
    """The mounts, new file systems with `mountLabel` where SELinux is there to know it; relative destinations
    begin at the root."""
    label = str(config["linux"].get("mountLabel") or "")
    made = []
    for entry in config.get("mounts") or ():
        destination = str(entry["destination"])
        entry = {**entry, "destination": destination if destination.startswith("/") else f"/{destination}"}
        if label and entry.get("type") == "tmpfs" and os.path.exists("/sys/fs/selinux/enforce"):
            entry["options"] = [*(entry.get("options") or ()), f"context={label}"]
        made.append(entry)
    return made
