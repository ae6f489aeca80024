"""Decisions: every field of a Linux config.json: honoured, or refused by its name.

The table below is the specification's (config.md, config-linux.md, 1.3): what it has to hold for what is
honoured, a text for what is refused, and why. What the specification does not know is passed over with a
warning, as it demands.
"""

from __future__ import annotations

import os

from runtime.linux import capabilities, mounts, namespaces
from runtime.oci.failure import OciFailure
from runtime.oci.kinds import ANY, COUNT, FLAG, ID, IDS, NUMBER, TEXT, TEXTS, WORD, Wrong, must, walk
from runtime.shim import entries, scheduling, sysctls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    Config = dict[str, Any]

_ID = {"containerID": must(WORD), "hostID": must(WORD), "size": must(WORD)}
_MAPPINGS = [_ID]
_HOOKS = [{"path": must(TEXT), "args": TEXTS, "env": TEXTS, "timeout": NUMBER}]
_RATES = [{"major": must(NUMBER), "minor": must(NUMBER), "rate": must(COUNT)}]
_WEIGHTS = [{"major": must(NUMBER), "minor": must(NUMBER), "weight": COUNT, "leafWeight": COUNT}]
_WINDOWS = "it is of another system than Linux"
_LISTENER = "no listener is served: whoever wants one would have to be trusted with every process's memory"

RESOURCES: Config = {
    "devices": [{"allow": FLAG, "type": TEXT, "major": NUMBER, "minor": NUMBER, "access": TEXT}],
    "memory": {
        "limit": NUMBER,
        "reservation": NUMBER,
        "swap": NUMBER,
        "kernel": NUMBER,
        "kernelTCP": NUMBER,
        "swappiness": COUNT,
        "disableOOMKiller": FLAG,
        "useHierarchy": FLAG,
        "checkBeforeUpdate": FLAG,
    },
    "cpu": {
        "shares": COUNT,
        "quota": NUMBER,
        "burst": COUNT,
        "period": COUNT,
        "realtimeRuntime": NUMBER,
        "realtimePeriod": COUNT,
        "cpus": TEXT,
        "mems": TEXT,
        "idle": NUMBER,
    },
    "pids": {"limit": NUMBER},
    "blockIO": {
        "weight": COUNT,
        "leafWeight": COUNT,
        "weightDevice": _WEIGHTS,
        "throttleReadBpsDevice": _RATES,
        "throttleWriteBpsDevice": _RATES,
        "throttleReadIOPSDevice": _RATES,
        "throttleWriteIOPSDevice": _RATES,
    },
    "hugepageLimits": [{"pageSize": must(TEXT), "limit": must(COUNT)}],
    "network": {"classID": WORD, "priorities": [{"name": must(TEXT), "priority": must(WORD)}]},
    "rdma": {ANY: {"hcaHandles": WORD, "hcaObjects": WORD}},
    "unified": {ANY: TEXT},
}
_PROCESS: Config = {
    "terminal": FLAG,
    "consoleSize": {"height": COUNT, "width": COUNT},
    "cwd": TEXT,
    "env": TEXTS,
    "args": TEXTS,
    "commandLine": _WINDOWS,
    "user": {"uid": ID, "gid": ID, "umask": WORD, "additionalGids": IDS, "username": _WINDOWS},
    "rlimits": [{"type": must(TEXT), "soft": must(COUNT), "hard": must(COUNT)}],
    "capabilities": dict.fromkeys(("bounding", "effective", "permitted", "inheritable", "ambient"), TEXTS),
    "noNewPrivileges": FLAG,
    "apparmorProfile": TEXT,
    "selinuxLabel": TEXT,
    "oomScoreAdj": NUMBER,
    "scheduler": {
        "policy": TEXT,
        "nice": NUMBER,
        "priority": NUMBER,
        "flags": TEXTS,
        "runtime": COUNT,
        "deadline": COUNT,
        "period": COUNT,
    },
    "ioPriority": {"class": TEXT, "priority": NUMBER},
    "execCPUAffinity": {"initial": TEXT, "final": TEXT},
}
_SECCOMP: Config = {
    "defaultAction": must(TEXT),
    "defaultErrnoRet": COUNT,
    "architectures": TEXTS,
    "flags": TEXTS,
    "listenerPath": _LISTENER,
    "listenerMetadata": _LISTENER,
    "syscalls": [
        {
            "names": TEXTS,
            "action": must(TEXT),
            "errnoRet": COUNT,
            "args": [{"index": must(COUNT), "value": must(COUNT), "valueTwo": COUNT, "op": must(TEXT)}],
        }
    ],
}
FIELDS: Config = {
    "ociVersion": TEXT,
    "root": {"path": TEXT, "readonly": FLAG},
    "hostname": TEXT,
    "domainname": TEXT,
    "annotations": {ANY: TEXT},
    "mounts": [
        {
            "destination": must(TEXT),
            "type": TEXT,
            "source": TEXT,
            "options": TEXTS,
            "uidMappings": _MAPPINGS,
            "gidMappings": _MAPPINGS,
        }
    ],
    "hooks": dict.fromkeys(
        ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"), _HOOKS
    ),
    "process": _PROCESS,
    "linux": {
        "namespaces": [{"type": must(TEXT), "path": TEXT}],
        "uidMappings": _MAPPINGS,
        "gidMappings": _MAPPINGS,
        "timeOffsets": {ANY: {"secs": NUMBER, "nanosecs": WORD}},
        "devices": [
            {
                "type": must(TEXT),
                "path": must(TEXT),
                "major": ID,
                "minor": ID,
                "fileMode": WORD,
                "uid": ID,
                "gid": ID,
            }
        ],
        "netDevices": "no network device is moved; prestart and createRuntime hooks may do that",
        "cgroupsPath": TEXT,
        "resources": RESOURCES,
        "rootfsPropagation": TEXT,
        "seccomp": _SECCOMP,
        "sysctl": {ANY: TEXT},
        "maskedPaths": TEXTS,
        "readonlyPaths": TEXTS,
        "mountLabel": TEXT,
        "personality": {"domain": TEXT, "flags": "the kernel has none that is left to a runtime"},
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
    """The warnings; OciFailure names the first field that is refused or says what cannot be. What is `null`
    is gone afterwards, and so are fields and capabilities that are unknown."""
    return _named("config.json", _check, config)


def check_process(process: Any, document: str) -> list[str]:
    """The same of the object `process` by itself."""
    return _named(document, _check_process, process)


def check_resources(resources: Any, document: str) -> list[str]:
    return _named(document, _check_resources, resources)


def _named(document: str, decide: Callable[[Any], list[str]], value: Any) -> list[str]:
    try:
        return [f"{document}: {warning}" for warning in decide(value)]
    except Wrong as wrong:
        raise OciFailure(f"cannot use {document}: {wrong}") from None


def _known(value: Any, known: Config, path: str) -> list[str]:
    unknown: list[str] = []
    walk(value, known, path, unknown)
    return [f"{name} is unknown and passed over" for name in unknown]


def _check(config: Config) -> list[str]:
    warnings = _known(config, FIELDS, "")
    version = str(config.get("ociVersion") or "")
    if not version.startswith("1."):
        raise _refused("ociVersion", f"{version or 'none'}: this runtime knows 1.0 to 1.3")
    for key in ("root", "process", "linux"):
        if not config.get(key):
            raise _refused(key, "it is missing")
    if not config["root"].get("path"):
        raise _refused("root.path", "it is missing")
    spaces = _check_namespaces(config)
    warnings += _check_rights(config["process"])
    _check_mounts(config)
    _check_devices(config["linux"])
    _check_names(config, spaces)
    _check_hooks(config.get("hooks") or {})
    return warnings


def _check_process(process: Any) -> list[str]:
    return [*_known(process, _PROCESS, "process"), *_check_rights(process)]


def _check_resources(resources: Any) -> list[str]:
    warnings = _known(resources, RESOURCES, "resources")
    _check_rules(resources, "resources")
    return warnings


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
    personality = config["linux"].get("personality") or {}
    domain = personality.get("domain") or "none"
    if personality and domain not in scheduling.DOMAINS:
        raise _refused("linux.personality.domain", f"{domain}: it is neither LINUX nor LINUX32")


def _is_hosts_network(spaces: dict[str, str]) -> bool:
    path = spaces.get("network")
    if not path:
        return False
    found, own = os.stat(path), os.stat("/proc/self/ns/net")
    return (found.st_dev, found.st_ino) == (own.st_dev, own.st_ino)


def _check_rights(process: Config) -> list[str]:
    """Of a process: its program and what it is given."""
    warnings: list[str] = []
    if not process.get("args"):
        raise _refused("process.args", "it is empty")
    if not str(process.get("cwd") or "").startswith("/"):
        raise _refused("process.cwd", "it is no absolute path")
    for entry in process.get("env") or ():
        if entry.find("=") < 1:
            raise _refused("process.env", f"{entry!r}: NAME=VALUE is expected")
    _check_limits(process.get("rlimits") or ())
    for kind, names in (process.get("capabilities") or {}).items():
        unknown = [name for name in names or () if name not in capabilities.NUMBERS]
        if unknown:
            warnings.append(f"process.capabilities.{kind}: {', '.join(unknown)}: unknown, not given")
            process["capabilities"][kind] = [name for name in names if name in capabilities.NUMBERS]
    _check_scheduling(process)
    return warnings


def _check_limits(limits: Sequence[Config]) -> None:
    seen: set[str] = set()
    for limit in limits:
        if limit["type"] in seen:
            raise _refused("process.rlimits", f"{limit['type']}: it is there twice")
        if limit["soft"] > limit["hard"]:
            text = f"the soft limit of {limit['soft']} is above the hard one of {limit['hard']}"
            raise _refused("process.rlimits", f"{limit['type']}: {text}")
        seen.add(limit["type"])


def _check_scheduling(process: Config) -> None:
    scheduler = process.get("scheduler") or {}
    if scheduler and scheduler.get("policy") not in scheduling.POLICIES:
        raise _refused("process.scheduler.policy", f"{scheduler.get('policy')}: no such policy")
    for flag in scheduler.get("flags") or ():
        if flag not in scheduling.FLAGS:
            raise _refused("process.scheduler.flags", f"{flag}: no such flag")
    priority = process.get("ioPriority") or {}
    if priority and priority.get("class") not in scheduling.CLASSES:
        raise _refused("process.ioPriority.class", f"{priority.get('class')}: no such class")
    if priority and not 0 <= (priority.get("priority") or 0) < scheduling.LEVELS:
        text = f"{priority['priority']}: it is none of 0 to {scheduling.LEVELS - 1}"
        raise _refused("process.ioPriority.priority", text)
    for key, text in (process.get("execCPUAffinity") or {}).items():
        try:
            scheduling.cpus(str(text))
        except ValueError:
            raise _refused(f"process.execCPUAffinity.{key}", f"{text}: no list of CPUs") from None


def _check_mounts(config: Config) -> None:
    for at, entry in enumerate(config.get("mounts") or ()):
        path, options, bind = f"mounts[{at}]", entries.options_of(entry), entries.is_bind(entry)
        if "remount" not in options:
            if os.path.normpath(f"/{entry['destination']}").strip("/") == "":
                raise _refused(f"{path}.destination", "nothing is mounted over the root, see root.path")
            if bind and not entry.get("source"):
                raise _refused(f"{path}.source", "it is missing")
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


def _check_devices(linux: Config) -> None:
    for at, device in enumerate(linux.get("devices") or ()):
        if device["type"] not in ("c", "u", "b", "p"):
            raise _refused(f"linux.devices[{at}].type", f"{device['type']}: it is none of c, u, b, p")
    _check_rules(linux.get("resources") or {}, "linux.resources")


def _check_rules(resources: Config, path: str) -> None:
    for at, rule in enumerate(resources.get("devices") or ()):
        if rule.get("type", "") not in ("", "a", "b", "c"):
            raise _refused(f"{path}.devices[{at}].type", f"{rule['type']}: it is none of a, b, c")
        if not set(rule.get("access", "")) <= set("rwm"):
            raise _refused(f"{path}.devices[{at}].access", f"{rule['access']}: it has other than r, w, m")


def _check_hooks(wanted: Config) -> None:
    for kind, listed in wanted.items():
        for at, hook in enumerate(listed or ()):
            if not str(hook.get("path") or "").startswith("/"):
                raise _refused(f"hooks.{kind}[{at}].path", "it is no absolute path")
            timeout = hook.get("timeout")
            if timeout is not None and timeout <= 0:
                raise _refused(f"hooks.{kind}[{at}].timeout", f"{timeout}: it is no number of seconds")


def _refused(field: str, why: str) -> Wrong:
    return Wrong(f"{field}: {why}")


def complete(config: Config, bundle: str) -> Config:
    """The same with what init reads always there: empty objects, and `personality` where it is applied."""
    process, linux = {**config["process"]}, {**config["linux"]}
    process["user"] = process.get("user") or {}
    linux["namespaces"] = linux.get("namespaces") or []
    if linux.get("personality"):
        process["personality"] = linux["personality"]
    return {**config, "process": process, "linux": linux, "mounts": _placed(config, bundle)}


def _placed(config: Config, bundle: str) -> list[Config]:
    """The mounts, new file systems with `mountLabel` where SELinux is there to know it; relative destinations
    begin at the root, relative sources of binds at the bundle."""
    label = str(config["linux"].get("mountLabel") or "")
    made = []
    for entry in config.get("mounts") or ():
        destination = str(entry["destination"])
        entry = {**entry, "destination": destination if destination.startswith("/") else f"/{destination}"}
        if entries.is_bind(entry) and entry.get("source"):
            entry["source"] = os.path.join(bundle, entry["source"])
        if label and entry.get("type") == "tmpfs" and os.path.exists("/sys/fs/selinux/enforce"):
            entry["options"] = [*(entry.get("options") or ()), f"context={label}"]
        made.append(entry)
    return made
