"""Decisions: what the low-level runtime says of itself: its version, its features, a new config.json.

OCI runtime-spec, features.md, features-linux.md.
"""

from __future__ import annotations

from runtime.linux import capabilities, mounts, namespaces
from runtime.oci import hooks, records
from runtime.shim import entries

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

OCI_OLDEST = "1.0.0"
_DEFAULT_CAPABILITIES = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]


def version(release: str) -> str:
    return f"stead-oci version {release}\nspec: {records.OCI_VERSION}\n"


def features(release: str, *, apparmor: bool, selinux: bool) -> dict[str, Any]:
    from runtime.linux import seccomp_compile

    words = entries.WORDS - {"loud", "silent"} | set(entries.ATTRIBUTES) | set(mounts.PROPAGATION)
    return {
        "ociVersionMin": OCI_OLDEST,
        "ociVersionMax": records.OCI_VERSION,
        "hooks": list(hooks.KINDS),
        "mountOptions": sorted(words | {"sync", "dirsync", "lazytime"}),
        "linux": {
            "namespaces": sorted(namespaces.FLAGS),
            "capabilities": list(capabilities.NAMES),
            "cgroup": {"v1": True, "v2": True, "systemd": True, "systemdUser": False, "rdma": True},
            "seccomp": {
                "enabled": True,
                "actions": sorted(seccomp_compile.ACTIONS),
                "operators": [
                    f"SCMP_CMP_{name}" for name in ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ")
                ],
                "knownFlags": sorted(seccomp_compile.FLAGS),
                "supportedFlags": sorted(seccomp_compile.FLAGS),
            },
            "apparmor": {"enabled": apparmor},
            "selinux": {"enabled": selinux},
            "intelRdt": {"enabled": False},
            "mountExtensions": {"idmap": {"enabled": True}},
        },
        "annotations": {"io.stead.version": release},
    }


def _mount(destination: str, kind: str, source: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": source, "options": list(options)}


def new_config() -> dict[str, Any]:
    """A shell in `rootfs`, with a terminal, a read-only root and few rights."""
    held = dict.fromkeys(("bounding", "effective", "permitted"), _DEFAULT_CAPABILITIES)
    sealed = ("nosuid", "noexec", "nodev")
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": True,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": held,
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "stead",
        "mounts": [
            _mount("/proc", "proc", "proc"),
            _mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
            _mount(
                "/dev/pts",
                "devpts",
                "devpts",
                *("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
            ),
            _mount("/dev/shm", "tmpfs", "shm", *sealed, "mode=1777", "size=65536k"),
            _mount("/dev/mqueue", "mqueue", "mqueue", *sealed),
            _mount("/sys", "sysfs", "sysfs", *sealed, "ro"),
            _mount("/sys/fs/cgroup", "cgroup", "cgroup", *sealed, "relatime", "ro"),
        ],
        "linux": {
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup")],
            "maskedPaths": [
                *("/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats"),
                *(
                    "/proc/timer_list",
                    "/proc/timer_stats",
                    "/proc/sched_debug",
                    "/proc/scsi",
                    "/sys/firmware",
                ),
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    }
