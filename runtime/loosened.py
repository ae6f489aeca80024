"""Decisions: which of the default walls a container was asked to be without, for people and for metrics.

Cheap to import: `stead ps` answers from here.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_HOSTS = (
    ("network_mode", "network"),
    ("pid_mode", "pid"),
    ("ipc_mode", "ipc"),
    ("uts_mode", "uts"),
    ("cgroup_mode", "cgroup"),
)


def loosened(asked: Mapping[str, Any]) -> list[str]:
    """Of a recorded request (runtime.requests), which leaves out what is default: `privileged`, `cap_add X`
    for each, `X unconfined` and `X host`; sorted as they matter."""
    found = ["privileged"] if asked.get("privileged") else []
    names = {str(name).upper().removeprefix("CAP_") for name in asked.get("cap_add") or ()}
    found += [f"cap_add {name}" for name in sorted(names)]
    if asked.get("seccomp_unconfined"):
        found.append("seccomp unconfined")
    if asked.get("apparmor") == "unconfined":
        found.append("apparmor unconfined")
    if asked.get("unmasked"):
        found.append("systempaths unconfined")
    return found + [f"{word} host" for key, word in _HOSTS if asked.get(key) == "host"]
