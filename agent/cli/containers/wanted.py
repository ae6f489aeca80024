"""Decisions: the words of `stead run` -> the keys of [container.NAME], which whoever makes it checks.

Standard library only. What docker writes in another way than a spec is put into the spec's words here; what
a spec does not have yet goes through all the same, and is refused there by name. Files and environment are
arguments.
"""

from __future__ import annotations

import re

from agent.cli.containers.options import REFUSED
from agent.cli.containers.words import pairs, whole
from agent.cli.main import Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping
    from typing import Any

#: option of argparse -> key of the spec, for values that are taken as they are
_SAME = {
    "hostname": "hostname",
    "domainname": "domainname",
    "workdir": "working_dir",
    "user": "user",
    "stop_signal": "stop_signal",
    "memory": "memory",
    "memory_reservation": "memory_reservation",
    "memory_swap": "memory_swap",
    "cpus": "cpus",
    "cpuset_cpus": "cpuset",
    "shm_size": "shm_size",
    "pid": "pid",
    "ipc": "ipc",
    "uts": "uts",
    "userns": "userns_mode",
    "cgroupns": "cgroup",
    "device_cgroup_rule": "device_cgroup_rules",
    "expose": "expose",
    "add_host": "extra_hosts",
    "dns": "dns",
    "dns_search": "dns_search",
    "dns_option": "dns_opt",
    "group_add": "group_add",
    "device": "devices",
    "cap_add": "cap_add",
    "cap_drop": "cap_drop",
    "security_opt": "security_opt",
    "publish": "ports",
    "tmpfs": "tmpfs",
    "publish_all": "publish_all",
    "privileged": "privileged",
    "read_only": "read_only",
    "init": "init",
    "tty": "tty",
    "interactive": "stdin_open",
}
_NUMBERS = {
    "pids_limit": "pids",
    "oom_score_adj": "oom_score_adj",
    "cpu_shares": "cpu_shares",
    "cpu_quota": "cpu_quota",
    "cpu_period": "cpu_period",
    "memory_swappiness": "mem_swappiness",
}
#: what docker takes for nothing
_UNSAID = {"memory_swappiness": "-1", "cpu_period": "0", "cpu_quota": "0"}
_RATES = ("read_bps", "write_bps", "read_iops", "write_iops")
_HEALTH = ("interval", "timeout", "retries", "start_period", "start_interval")
_MODES = ("none", "host")
#: what `inspect` and `info` say of it
RUNTIME = "stead"


def table(
    options: argparse.Namespace, environment: Mapping[str, str], read: Callable[[str], str], here: str
) -> dict[str, Any]:
    """`read` gives the text of a file, `here` is the working directory. Problem for what cannot be read."""
    if options.link:
        text = "cannot use --link: containers of one network find each other by name; use --network"
        raise Problem(text, 125)
    if options.gpus:
        raise Problem("cannot use --gpus: no driver brings its files in; use --device and -v", 125)
    if options.volume_driver not in (None, "", "local"):
        raise Problem(f"cannot use --volume-driver {options.volume_driver}: there is local only", 125)
    _refuse_others(options)
    found: dict[str, Any] = {
        key: getattr(options, name) for name, key in _SAME.items() if getattr(options, name)
    }
    for name, key in _NUMBERS.items():
        if getattr(options, name) not in (None, _UNSAID.get(name)):
            found[key] = whole(f"--{name.replace('_', '-')}", getattr(options, name))
    if weight := _io_weight(options.blkio_weight):
        found["io_weight"] = weight
    found |= {
        "restart": (options.restart or "no").removesuffix(":0"),
        "environment": pairs(options.env_file, options.env, environment, read),
        "labels": pairs(options.label_file, options.label, None, read),
        "annotations": pairs((), options.annotation, None, read),
        "volumes": [*(_volume(item, here) for item in options.volume), *map(_mount, options.mount)],
        "sysctls": pairs((), options.sysctl, None, read),
        "ulimits": dict(_ulimit(item) for item in options.ulimit),
        "io": _io(options),
    }
    if options.stop_timeout is not None:
        found["stop_grace_period"] = f"{whole('--stop-timeout', options.stop_timeout)}s"
    if options.command:
        found["command"] = list(options.command)
    if options.entrypoint is not None:
        found["entrypoint"] = [options.entrypoint] if options.entrypoint else []
    found |= _networks(options)
    found["healthcheck"] = _health(options)
    if options.log_driver or options.log_opt:
        found["logging"] = {
            "driver": options.log_driver or "json-file",
            "options": pairs((), options.log_opt, None, read),
        }
    return {key: value for key, value in found.items() if value not in ("", [], {}) or key == "entrypoint"}


def _refuse_others(options: argparse.Namespace) -> None:
    """Of what docker has several kinds and we have one."""
    for flag, reason in REFUSED.items():
        if getattr(options, flag[2:].replace("-", "_")):
            raise Problem(f"cannot use {flag}: {reason}", 125)
    if options.oom_kill_disable:
        raise Problem("cannot use --oom-kill-disable: write --oom-score-adj", 125)
    if (options.isolation or "default").lower() != "default":
        raise Problem(f"cannot use --isolation {options.isolation}: there is default only", 125)
    if options.runtime not in (None, "", RUNTIME):
        hint = f"leave it out, or write {RUNTIME}"
        raise Problem(f"cannot use --runtime {options.runtime}: containers run in Stead's own; {hint}", 125)


def _io_weight(text: str | None) -> int:
    """On docker's scale 500 is what a cgroup has by itself: 100 here."""
    weight = 0 if text is None else whole("--blkio-weight", text)
    if weight and not 10 <= weight <= 1000:
        raise Problem(f"cannot use --blkio-weight {weight}: it is 10 to 1000", 125)
    return weight // 5


_PROFILE = "seccomp.json"


def profile(table: dict[str, Any], read: Callable[[str], str]) -> dict[str, str]:
    """The files that go with the table, and the table changed to their names: a filter of system calls."""
    files = {}
    for number, option in enumerate(table.get("security_opt", ())):
        key, _, path = option.replace(":", "=", 1).partition("=")
        if key == "seccomp" and path not in ("unconfined", "builtin", ""):
            files[_PROFILE] = read(path)
            table["security_opt"] = list(table["security_opt"])
            table["security_opt"][number] = f"seccomp={_PROFILE}"
    return files


def _volume(text: str, here: str) -> str:
    """A relative path is one of the directory that we are in."""
    source, colon, rest = text.partition(":")
    if colon and (source in (".", "..") or source.startswith(("./", "../"))):
        return f"{here.rstrip('/')}/{source}:{rest}"
    if colon and "/" in source and not source.startswith(("/", "~")):
        hint = f"a path begins with / or ./, the name of a volume has no / in it ({source!r})"
        raise Problem(f"cannot mount {text!r}: {hint}", 125)
    return text


_MOUNT = {
    "src": "source",
    "dst": "target",
    "destination": "target",
    "readonly": "read_only",
    "ro": "read_only",
}
_MOUNT_PARTS: dict[str, tuple[str, str]] = {
    "volume-nocopy": ("volume", "nocopy"),
    "volume-subpath": ("volume", "subpath"),
    "image-subpath": ("image", "subpath"),
    "bind-propagation": ("bind", "propagation"),
    "bind-recursive": ("bind", "recursive"),
    "tmpfs-size": ("tmpfs", "size"),
    "tmpfs-mode": ("tmpfs", "mode"),
}


#: of the volume, where this makes it
_MOUNT_PAIRS = {"volume-label": "labels", "volume-opt": "driver_opts"}


def _fields(text: str) -> list[str]:
    """As docker: of CSV, so that one with a comma may be quoted."""
    if '"' not in text:
        return text.split(",")
    import csv

    return next(csv.reader([text]), [])


def _mount(text: str) -> dict[str, Any]:
    """The long form of a spec, from docker's list of words."""
    found: dict[str, Any] = {"type": "volume"}
    for word in _fields(text):
        key, equals, value = word.strip().partition("=")
        key = key.lower()
        if key == "volume-driver" and value in ("", "local"):
            continue
        if key in _MOUNT_PAIRS:
            name, _, content = value.partition("=")
            found.setdefault("volume", {}).setdefault(_MOUNT_PAIRS[key], {})[name] = content
        elif key in _MOUNT_PARTS:
            part, name = _MOUNT_PARTS[key]
            found.setdefault(part, {})[name] = value if equals else True
        elif key in ("bind-nonrecursive",):
            found.setdefault("bind", {})["recursive"] = "disabled"
        elif _MOUNT.get(key, key) in ("type", "source", "target", "read_only", "consistency"):
            found[_MOUNT.get(key, key)] = value if equals else True
        else:
            raise Problem(f"cannot read --mount {text!r}: there is no {key!r}", 125)
    if "target" not in found:
        raise Problem(f"cannot read --mount {text!r}: target is missing", 125)
    return found


def _ulimit(text: str) -> tuple[str, dict[str, int]]:
    name, equals, value = text.partition("=")
    soft, colon, hard = value.partition(":")
    if not equals:
        raise Problem(f"cannot read --ulimit {text!r}: write NAME=SOFT[:HARD]", 125)
    return name, {"soft": whole("--ulimit", soft), "hard": whole("--ulimit", hard if colon else soft)}


def _io(options: argparse.Namespace) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for rate in _RATES:
        for text in getattr(options, f"device_{rate}"):
            device, colon, value = text.rpartition(":")
            if not colon:
                raise Problem(f"cannot read --device-{rate.replace('_', '-')} {text!r}: write PATH:RATE", 125)
            limit = whole(f"--device-{rate.replace('_', '-')}", value) if rate.endswith("iops") else value
            found.setdefault(device, {"device": device})[rate] = limit
    return list(found.values())


def _networks(options: argparse.Namespace) -> dict[str, Any]:
    """network_mode or networks; addresses and aliases go with the one that is named, or the first."""
    names = [_network(text) for text in options.network]
    own = {
        "aliases": options.network_alias,
        "ipv4_address": options.ip,
        "ipv6_address": options.ip6,
        "mac_address": options.mac_address,
        "link_local_ips": options.link_local_ip,
    }
    own = {key: value for key, value in own.items() if value}
    modes = [name for name, _ in names if name in _MODES or name.startswith("container:")]
    if modes:
        if len(names) > 1 or own:
            raise Problem(f"cannot use --network {modes[0]} with other networks, names or addresses", 125)
        return {"network_mode": modes[0]}
    if not names and not own:
        return {}
    names = names or [("bridge", {})]
    found = {("bridge" if name == "default" else name): body for name, body in names}
    first = next(iter(found))
    found[first] = {**found[first], **own}
    return {"networks": found}


_NETWORK = {
    "alias": "aliases",
    "ip": "ipv4_address",
    "ip6": "ipv6_address",
    "mac-address": "mac_address",
    "link-local-ip": "link_local_ips",
    "gw-priority": "gw_priority",
    "driver-opt": "driver_opts",
}


def _network(text: str) -> tuple[str, dict[str, Any]]:
    """A name, or docker's list of words: name=back,alias=db,ip=10.88.0.9."""
    if "=" not in text:
        return text, {}
    name = ""
    body: dict[str, Any] = {}
    for word in text.split(","):
        key, _, value = word.partition("=")
        if key == "name":
            name = value
        elif key not in _NETWORK:
            raise Problem(f"cannot read --network {text!r}: there is no {key!r}", 125)
        elif key in ("alias", "link-local-ip"):
            body.setdefault(_NETWORK[key], []).append(value)
        else:
            body[_NETWORK[key]] = whole("gw-priority", value) if key == "gw-priority" else value
    if not name:
        raise Problem(f"cannot read --network {text!r}: name= is missing", 125)
    return name, body


#: a duration or number of nothing: not said, as docker has it
_ZERO = re.compile(r"0|(?:0+(?:\.0*)?(?:h|m|s|ms|us|µs|ns))+")


def _health(options: argparse.Namespace) -> dict[str, Any]:
    """Without a word about probes the image's holds; what it says of a failure goes by the restart policy,
    since docker's users do not expect that a container without one is ended."""
    words = {key: getattr(options, f"health_{key}") for key in _HEALTH}
    given: dict[str, Any] = {
        key: word for key, word in words.items() if word is not None and not _ZERO.fullmatch(word)
    }
    if options.no_healthcheck:
        if given or options.health_cmd:
            raise Problem("cannot use --no-healthcheck with --health-...: leave one out", 125)
        return {"disable": True}
    if "retries" in given:
        given["retries"] = whole("--health-retries", given["retries"])
    if options.health_cmd:
        given["test"] = ["CMD-SHELL", options.health_cmd]
    usual = "none" if (options.restart or "no") == "no" else "restart"
    return {**given, "on_failure": options.health_on_failure or usual}
