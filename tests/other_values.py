"""Values: for each field of a container a value that is not its default, by what a change of it means."""

from __future__ import annotations

from typing import Any

from specs.desired import (
    Attachment,
    Device,
    FileMount,
    Limits,
    Logger,
    LogLimits,
    Probe,
    Restart,
    Ulimit,
    Update,
)
from specs.values import MountPoint, PortBinding

#: another container
IDENTITY: dict[str, Any] = {
    "command": ("x",),
    "entrypoint": (),
    "environment": {"A": ""},
    "working_dir": "/x",
    "user": "1",
    "group_add": ("1",),
    "hostname": "h",
    "domainname": "d",
    "annotations": {"a": "b"},
    "mounts": (MountPoint("volume", "p/v", "/d"),),
    "networks": (Attachment("p/n"),),
    "network_mode": "host",
    "dns": ("1.1.1.1",),
    "dns_search": ("a",),
    "dns_opt": ("ndots:1",),
    "extra_hosts": (("a", "1.1.1.1"),),
    "read_only": True,
    "privileged": True,
    "cap_add": ("CAP_KILL",),
    "cap_drop": ("CAP_KILL",),
    "no_new_privileges": True,
    "seccomp_unconfined": True,
    "seccomp_profile": "{}",
    "apparmor": "x",
    "unmasked": True,
    "userns": "auto",
    "userns_size": 65536,
    "devices": (Device("/dev/a", "/dev/a"),),
    "ulimits": (Ulimit("core", 0, 0),),
    "sysctls": {"net.a": "1"},
    "shm_size": 1,
    "pid_mode": "host",
    "ipc_mode": "host",
    "uts_mode": "host",
    "cgroup_mode": "host",
    "init": True,
    "device_rules": ("c 1:3 r",),
    "volumes_from": (("p/o", False),),
    "files": (FileMount("secret", "p/s", "/run/secrets/s"),),
    "tty": True,
    "logger": Logger("none"),
    "stdin_open": True,
}
#: the same one, changed while it runs
ADJUSTABLE: dict[str, Any] = {
    "labels": {"a": ""},
    "ports": (PortBinding("", 80, 80),),
    "publish_all": True,
    "expose": ("80/tcp",),
    "probe": Probe(tcp=":80"),
    "startup": Probe(tcp=":81"),
    "readiness": Probe(tcp=":82"),
    "restart": Restart("no"),
    "stop_signal": "SIGINT",
    "stop_grace_period": 1.0,
    "logging": LogLimits(max_files=9),
    "limits": Limits(memory=1 << 20),
    "oom_score_adj": 5,
    "update": Update(drain=7.0),
}
