"""Effects: who the program is and what it may do: limits, user, groups, capabilities, no_new_privs, filter,
keyring.

capabilities(7) gives the order: the bounding set is dropped while CAP_SETPCAP is held, the sets are kept
over the
step to another user, and set to their final value last. Without no_new_privs a filter takes CAP_SYS_ADMIN
(seccomp(2)), so that it comes before the sets are cut; with it, after.
"""

from __future__ import annotations

import errno
import os
import resource

from runtime.linux import capabilities, libc, seccomp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

_PR_SET_NO_NEW_PRIVS = 38
_KEYCTL_JOIN_SESSION_KEYRING = 1
_RLIMIT_LOCKS = 10  # Python has no name for it


def set_rlimits(limits: Iterable[dict[str, Any]]) -> None:
    """OSError EPERM names a limit above what this host lets us give (it takes CAP_SYS_RESOURCE)."""
    for limit in limits:
        name = str(limit["type"])
        number = getattr(resource, name, _RLIMIT_LOCKS if name == "RLIMIT_LOCKS" else None)
        if number is None:
            raise OSError(errno.EINVAL, f"unknown limit {name}")
        soft, hard = (_value(limit[key]) for key in ("soft", "hard"))
        try:
            resource.setrlimit(number, (soft, hard))
        except (OSError, ValueError) as error:
            own = resource.getrlimit(number)[1]
            text = f"cannot set {name} to {soft}:{hard}, this host's hard limit is {own}"
            raise OSError(errno.EPERM, text) from error


def _value(value: int) -> int:
    return resource.RLIM_INFINITY if value < 0 else int(value)


def assume(process: dict[str, Any], program_filter: bytes) -> None:
    """Become the program's user with its capabilities and its filter."""
    user, wanted = process["user"], process.get("capabilities") or {}
    own = capabilities.mask(capabilities.bounding())
    sets = {name: capabilities.mask(wanted.get(name) or ()) & own for name in wanted}
    quiet = bool(process.get("noNewPrivileges"))
    _join_keyring()
    os.umask(int(user.get("umask", 0o022)))
    capabilities.drop_bounding(sets.get("bounding", 0))
    capabilities.keep_over_setuid(True)
    if program_filter and not quiet:
        seccomp.install(program_filter)
    os.setgroups([int(group) for group in user.get("additionalGids") or ()])
    gid, uid = int(user.get("gid") or 0), int(user.get("uid") or 0)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    capabilities.keep_over_setuid(False)
    capabilities.clear_ambient()
    capabilities.set_sets(sets.get("effective", 0), sets.get("permitted", 0), sets.get("inheritable", 0))
    if quiet:
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, subject="PR_SET_NO_NEW_PRIVS")
        if program_filter:
            seccomp.install(program_filter)


def _join_keyring() -> None:
    """A session keyring of its own, so that the host's keys are out of reach: keyctl(2). Best effort."""
    try:
        libc.syscall("keyctl", _KEYCTL_JOIN_SESSION_KEYRING, 0, subject="session keyring")
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EPERM, errno.EDQUOT):
            raise
