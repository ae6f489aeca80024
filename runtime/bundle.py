"""Decisions: a container's request and its image's config become an OCI runtime-spec config.json.

Source: OCI runtime-spec 1.1 (config.md, config-linux.md); defaults as Docker has them.
What the spec has no word for (restart policy, probes, log limits) goes into supervise.json, see
runtime.shim.messages. The annotation `stead.seccomp` names a file with a compiled filter, or says unconfined;
`stead.seccomp.flags` are its flags, a number.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from runtime.faults import Fault
from runtime.wishes import ContainerRequest, ProbeRequest, joined

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_SHM = 64 * 1024 * 1024
#: the group of terminals, as everywhere
_TTY = 5
#: Where a container with `init` finds the machine's small init, as Docker has it.
INIT = "/sbin/docker-init"
OCI_VERSION = "1.1.0"

DEFAULT_CAPABILITIES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
)

MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


@dataclass(frozen=True, slots=True)
class User:
    """A user as the image's own files know it. `groups` are supplementary."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    home: str = "/"


@dataclass(frozen=True, slots=True)
class Setting:
    """What the host adds to a request: where things are. `mounts` are OCI mounts: volumes, /etc/hosts …"""

    id: str
    rootfs: str
    cgroup: str
    netns: str | None  # None: the host's network
    hostname: str
    user: User
    mounts: tuple[Mapping[str, Any], ...] = ()
    all_capabilities: tuple[str, ...] = ()  # what `privileged` and ALL mean here; no container has more
    masked: tuple[str, ...] = ()  # paths of this machine that are masked beside MASKED
    devices: tuple[tuple[str, str, str], ...] = ()  # (host path, container path, "rwm"), each one a node
    seccomp: str = "unconfined"  # path of the compiled filter
    seccomp_flags: int = 0  # SECCOMP_FILTER_FLAG_*
    apparmor: str = ""  # name of a loaded profile; empty: none
    apparmor_source: str = ""  # the file that has it, where it is ours
    joined: Mapping[str, str] = field(default_factory=dict)  # namespace -> file of that of another container
    userns: str = ""  # file of its user namespace; empty: the host's
    ids: tuple[Mapping[str, int], ...] = ()  # what the ids in it are on the host
    shm: str = ""  # directory that is /dev/shm, for it and for others; empty: one of its own


ImageConfig = Mapping[str, Any]  # the `config` object of an OCI image configuration


def oci_config(request: ContainerRequest, image: ImageConfig, setting: Setting) -> dict[str, Any]:
    """The whole config.json. Raises Fault request-invalid where request and image leave no program to run."""
    return {
        "ociVersion": OCI_VERSION,
        "process": _process(request, image, setting),
        "root": {"path": setting.rootfs, "readonly": request.read_only},
        "hostname": setting.hostname,
        **({"domainname": request.domainname} if request.domainname else {}),
        "mounts": _mounts(request, setting),
        "linux": _linux(request, setting),
        "annotations": {
            "stead.name": request.name,
            "stead.seccomp": setting.seccomp,
            **({"stead.seccomp.flags": str(setting.seccomp_flags)} if setting.seccomp_flags else {}),
            **({"stead.apparmor": setting.apparmor_source} if setting.apparmor_source else {}),
            **request.annotations,
        },
    }


def argv(request: ContainerRequest, image: ImageConfig) -> list[str]:
    """Docker's rule: an entrypoint of the user's own drops the image's command as well."""
    if request.entrypoint is not None:
        own = () if request.entrypoint == ("",) else request.entrypoint  # docker's way to say: none
        words = [*own, *(request.command or ())]
    else:
        command = request.command if request.command is not None else _words(image.get("Cmd"))
        words = [*_words(image.get("Entrypoint")), *command]
    if not words:
        raise Fault(
            "request-invalid",
            "start container",
            request.name,
            "neither the spec nor the image says which program to run",
            "set command",
        )
    if request.init:
        words = [INIT, "--", *words]
    return [str(word) for word in words]


def _words(value: Any) -> list[str]:
    """Old images have one word as text."""
    return [value] if isinstance(value, str) else list(value or ())


def environment(request: ContainerRequest, image: ImageConfig, setting: Setting) -> dict[str, str]:
    """Defaults, then the image's, then the user's; HOME from the image's passwd file unless set."""
    result = {"PATH": DEFAULT_PATH, "HOSTNAME": setting.hostname}
    if request.tty:
        result["TERM"] = "xterm"
    for entry in image.get("Env") or ():
        key, _, value = str(entry).partition("=")
        if key and "\0" not in entry:  # an image's author is a stranger, and execve(2) takes neither
            result[key] = value
    result.update(request.environment)
    result.setdefault("HOME", setting.user.home)
    return result


def capabilities(request: ContainerRequest, available: Sequence[str]) -> list[str]:
    """cap_drop before cap_add, as Docker has it: `drop ALL` and `add X` leaves X. Fault request-invalid where
    one to be added is not available; of the default ones, those that are not are left out.
    """
    everything = list(available)
    if request.privileged:
        return everything
    add, drop = ({_capability(name) for name in names} for names in (request.cap_add, request.cap_drop))
    missing = sorted(add - {"CAP_ALL", *available})
    if missing:
        raise Fault(
            "request-invalid",
            "start container",
            request.name,
            f"cap_add asks for {', '.join(missing)}, which this machine does not give to Stead itself",
            "leave it out, or run the agent with it",
        )
    kept = everything if "CAP_ALL" in add else [name for name in DEFAULT_CAPABILITIES if name in everything]
    if "CAP_ALL" in drop:
        kept = []
    kept = [name for name in kept if name not in drop]
    return kept + sorted(name for name in add if name != "CAP_ALL" and name not in kept)


def additional_groups(user: User) -> list[int]:
    """The primary group is one of them, or a set-gid program could take it away from its user and so pass
    where that group is denied: CVE-2022-36109."""
    return list(dict.fromkeys((user.gid, *user.groups)))


def _capability(name: str) -> str:
    upper = name.upper()
    return upper if upper.startswith("CAP_") else f"CAP_{upper}"


def _process(request: ContainerRequest, image: ImageConfig, setting: Setting) -> dict[str, Any]:
    granted = capabilities(request, setting.all_capabilities)
    held = granted if setting.user.uid == 0 else []
    return {
        "terminal": request.tty,
        "args": argv(request, image),
        "env": [f"{key}={value}" for key, value in environment(request, image, setting).items()],
        "cwd": request.working_dir or image.get("WorkingDir") or "/",
        "user": {
            "uid": setting.user.uid,
            "gid": setting.user.gid,
            "additionalGids": additional_groups(setting.user),
            "umask": 0o022,
        },
        "capabilities": {
            "bounding": granted,
            "effective": held,
            "permitted": held,
            "inheritable": [],
            "ambient": [],
        },
        "rlimits": [
            {"type": f"RLIMIT_{name.upper()}", "soft": soft, "hard": hard}
            for name, soft, hard in request.ulimits
        ],
        "noNewPrivileges": request.no_new_privileges,
        **({"apparmorProfile": setting.apparmor} if setting.apparmor else {}),
        "oomScoreAdj": request.oom_score_adj,
    }


def _mounts(request: ContainerRequest, setting: Setting) -> list[dict[str, Any]]:
    has_tty = not setting.ids or sum(one["size"] for one in setting.ids) > _TTY
    mounts = _own_mounts(request, shm=setting.shm, has_tty=has_tty)
    given = [_mapped(mount, bool(setting.userns)) for mount in setting.mounts]
    taken = {mount["destination"] for mount in given}
    mounts = [mount for mount in mounts if mount["destination"] not in taken]
    return sorted([*mounts, *given], key=lambda mount: str(mount["destination"]).count("/"))


def _own_mounts(request: ContainerRequest, *, shm: str = "", has_tty: bool = True) -> list[dict[str, Any]]:
    """What every container has; `shm` is another one's directory."""
    writable = request.privileged
    tty = (f"gid={_TTY}",) if has_tty else ()

    def entry(destination: str, kind: str, options: list[str], source: str = "") -> dict[str, Any]:
        return {"destination": destination, "type": kind, "source": source or kind, "options": options}

    sealed = ["nosuid", "noexec", "nodev"]
    size = f"size={request.shm_size or DEFAULT_SHM}"
    mounts = [
        entry("/proc", "proc", sealed),
        entry("/dev", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        entry("/dev/pts", "devpts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", *tty]),
        entry("/dev/shm", "tmpfs", [*sealed, "mode=1777", size], "shm"),
        entry("/dev/mqueue", "mqueue", sealed),
        entry("/sys", "sysfs", sealed if writable else [*sealed, "ro"]),
        entry("/sys/fs/cgroup", "cgroup", sealed if writable else [*sealed, "ro"]),
    ]
    if request.ipc_mode == "host" or shm:
        mounts[3] = entry("/dev/shm", "bind", ["rbind", *sealed], shm or "/dev/shm")
    elif request.ipc_mode == "none":
        del mounts[3]
    return mounts


def _mapped(mount: Mapping[str, Any], userns: bool) -> dict[str, Any]:
    """With the owners that the container's user namespace gives, where it has one; what is `mapped` already
    stays as it is."""
    plain = {key: value for key, value in mount.items() if key != "mapped"}
    if not userns or mount["type"] != "bind" or mount.get("mapped"):
        return plain
    return {**plain, "options": [*mount["options"], "idmap"]}


def early_config(request: ContainerRequest, rootfs: str, netns: str | None) -> dict[str, Any] | None:
    """What the fork of the first process needs of config.json, before anything is made: runtime.shim.early.
    None where that has to wait for more: a user namespace, another container's processes, a terminal, input.
    """
    if request.userns or "pid" in dict(joined(request)) or request.tty or request.stdin_open:
        return None
    later = dict.fromkeys(dict(joined(request)), "known later")
    namespaces = _namespaces(request, netns, later, "")
    return {
        "process": {"oomScoreAdj": request.oom_score_adj},
        "root": {"path": rootfs},
        "mounts": _early_mounts(request, {one["type"] for one in namespaces if not one.get("path")}),
        "linux": {"namespaces": namespaces},
    }


def _early_mounts(request: ContainerRequest, own: set[str]) -> list[dict[str, Any]]:
    """Those that are its own, of namespaces that it does not share, where it asks for no others."""
    taken = {mount.target for mount in request.mounts}
    needs = {"mqueue": "ipc", "cgroup": "cgroup"}
    return [
        mount
        for mount in _own_mounts(request)
        if mount["type"] != "bind"
        and mount["destination"] not in taken
        and needs.get(mount["type"], "mount") in own
    ]


def _namespaces(
    request: ContainerRequest, netns: str | None, joined: Mapping[str, str], userns: str
) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{"type": "mount"}]
    if userns:
        found.append({"type": "user", "path": userns})
    modes = {
        "cgroup": request.cgroup_mode,
        "pid": request.pid_mode,
        "ipc": request.ipc_mode,
        "uts": request.uts_mode,
    }
    for kind, mode in modes.items():
        if kind in joined:
            found.append({"type": kind, "path": joined[kind]})
        elif mode != "host":
            found.append({"type": kind})
    if netns is not None:
        found.append({"type": "network", "path": netns})
    return found


def _linux(request: ContainerRequest, setting: Setting) -> dict[str, Any]:
    mapped: dict[str, Any] = {}
    if setting.userns:
        mapped = {key: [dict(one) for one in setting.ids] for key in ("uidMappings", "gidMappings")}
    sysctls = dict(request.sysctls)
    if setting.netns is not None:
        sysctls.setdefault("net.ipv4.ip_unprivileged_port_start", "0")
        sysctls.setdefault("net.ipv4.ping_group_range", "0 2147483647")
    devices = [
        {"source": source, "path": target, "access": access} for source, target, access in setting.devices
    ]
    bare = request.privileged or request.unmasked
    rule: dict[str, Any] = {"allow": True, "access": "rwm"} if request.privileged else {"allow": False}
    return {
        "namespaces": _namespaces(request, setting.netns, setting.joined, setting.userns),
        **mapped,
        "cgroupsPath": setting.cgroup,
        "maskedPaths": [] if bare else [*MASKED, *setting.masked],
        "readonlyPaths": [] if bare else list(READ_ONLY),
        "sysctl": sysctls,
        "devices": devices,
        "resources": {
            "devices": [rule, *(one for text in request.device_rules for one in device_rules(text))]
        },
        "rootfsPropagation": "private",
    }


def device_rules(text: str) -> list[dict[str, Any]]:
    """`c 1:* rwm` as OCI rules; -1 is any number, and `a` both kinds of devices."""
    kind, numbers, access = text.split()
    major, minor = (-1 if number == "*" else int(number) for number in numbers.split(":"))
    return [
        {"allow": True, "type": one, "major": major, "minor": minor, "access": access}
        for one in ("cb" if kind == "a" else kind)
    ]


def stop_signal(request: ContainerRequest, image: ImageConfig) -> str:
    return request.stop_signal or str(image.get("StopSignal") or "SIGTERM")


def probe(request: ContainerRequest, image: ImageConfig) -> ProbeRequest | None:
    """The spec's probe, else the image's HEALTHCHECK (times in ns), in which the spec may change fields."""
    mine = request.probe
    if mine is None:
        return _own_probe(image)
    if mine.disabled:
        return None
    if mine.exec or mine.shell or mine.http or mine.tcp:
        return mine
    own = _own_probe(image)
    if own is None:
        cause = "its healthcheck has no test, and the image has none either"
        hint = "write test, http or tcp"
        raise Fault("request-invalid", "start container", request.name, cause, hint)
    return replace(own, **{field: getattr(mine, field) for field in mine.given})


def _own_probe(image: ImageConfig) -> ProbeRequest | None:
    check = image.get("Healthcheck") or {}
    test = [str(word) for word in check.get("Test") or ()]
    if not test or test[0] == "NONE":
        return None

    def seconds(key: str, default: float) -> float:
        value = check.get(key) or 0
        return float(value) / 1e9 if value else default

    return ProbeRequest(
        exec=tuple(test[1:]) if test[0] == "CMD" else (),
        shell=test[1] if test[0] == "CMD-SHELL" and len(test) > 1 else "",
        interval=seconds("Interval", 30.0),
        timeout=seconds("Timeout", 30.0),
        retries=int(check.get("Retries") or 3),
        start_period=seconds("StartPeriod", 0.0),
        start_interval=seconds("StartInterval", 5.0),
    )


def describe_command(words: Sequence[str]) -> str:
    return shlex.join(words)
