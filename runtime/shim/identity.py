"""Effects: who the program is and what it may do: limits, user, groups, capabilities, no_new_privs, filter,
labels, keyring, and how the kernel schedules it.

capabilities(7) gives the order: the bounding set is dropped while CAP_SETPCAP is held, the sets are kept over
the step to another user, and set to their final value last. Without no_new_privs a filter takes CAP_SYS_ADMIN
(seccomp(2)), so that it comes before the sets are cut; with it, after.
"""

from __future__ import annotations

import errno
import os
import resource
import stat

from runtime.linux import capabilities, libc, openat2, seccomp
from runtime.shim import scheduling

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    Labels = list[tuple[int, str]]

_PR_SET_NO_NEW_PRIVS = 38
_KEYCTL_JOIN_SESSION_KEYRING = 1
_MAX_FILTER = 1 << 20
#: Bytes of a passwd file of a container that are looked at.
_MAX_PASSWD = 1 << 20
_RLIMIT_LOCKS = 10  # Python has no name for it
_NO_ID = (1 << 32) - 1  # "leave it as it is", which is root: setresuid(2)


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
    return resource.RLIM_INFINITY if value < 0 or value >> 63 else int(value)


def outside(config: dict[str, Any], process: dict[str, Any]) -> int:
    """The user of the process as the host knows it; -1 where its user namespace was made by others."""
    uid = int(process["user"].get("uid") or 0)
    if not any(space["type"] == "user" for space in config["linux"]["namespaces"]):
        return uid
    for item in config["linux"].get("uidMappings") or ():
        if item["containerID"] <= uid < item["containerID"] + item["size"]:
            return int(item["hostID"]) + uid - int(item["containerID"])
    return -1


def home_of(uid: int) -> str:
    """By /etc/passwd of the root that this process has, which may be anything: `/` where it does not say."""
    top = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd = openat2.open_in_root(top, "/etc/passwd", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        with open(fd, "rb", buffering=0) as file:
            data = file.read(_MAX_PASSWD) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
    except OSError:
        return "/"
    finally:
        os.close(top)
    for line in (data or b"").split(b"\n"):
        fields = line.split(b":")
        if len(fields) > 5 and fields[2] == b"%d" % uid:
            return os.fsdecode(fields[5]) or "/"
    return "/"


def become_root() -> None:
    """In the user namespace that was just entered: user_namespaces(7)."""
    try:
        os.setgroups([])
    except PermissionError:
        pass  # who made the namespace denies it
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)


def read_filter(config: dict[str, Any]) -> bytes:
    """The compiled system call filter of one of our own bundles; empty for `unconfined`."""
    path = (config.get("annotations") or {}).get("stead.seccomp") or "unconfined"
    if path == "unconfined":
        return b""
    with open(path, "rb", buffering=0) as file:
        return file.read(_MAX_FILTER) or b""


def filter_flags(config: dict[str, Any]) -> int:
    """SECCOMP_FILTER_FLAG_* that the filter of one of our own bundles is to have."""
    return int((config.get("annotations") or {}).get("stead.seccomp.flags") or 0)


def open_labels(process: dict[str, Any]) -> Labels:
    """Where the labels that the next exec gives are to be written: opened while /proc is the host's, since
    that of a container may be made up by it (CVE-2019-16884). OSError names a module that is not there."""
    labels: Labels = []
    for key, module in (("apparmorProfile", "apparmor"), ("selinuxLabel", "selinux")):
        name = str(process.get(key) or "")
        if not name or (module == "apparmor" and name == "unconfined" and not _has_apparmor()):
            continue
        if module == "apparmor" and not _has_apparmor():
            raise OSError(errno.ENOTSUP, f"{key} {name}: this host has no AppArmor")
        if module == "selinux" and not os.path.exists("/sys/fs/selinux/enforce"):
            raise OSError(errno.ENOTSUP, f"{key} {name}: this host has no SELinux")
        path = (
            "/proc/thread-self/attr/apparmor/exec" if module == "apparmor" else "/proc/thread-self/attr/exec"
        )
        if not os.path.exists(path):
            path = "/proc/thread-self/attr/exec"
        text = f"exec {name}" if module == "apparmor" else name
        labels.append((os.open(path, os.O_WRONLY | os.O_CLOEXEC), text))
    return labels


def _has_apparmor() -> bool:
    return os.path.exists("/sys/kernel/security/apparmor") or os.path.exists(
        "/sys/module/apparmor/parameters"
    )


def assume(
    process: dict[str, Any],
    program_filter: bytes,
    labels: Labels,
    *,
    keyring: bool = True,
    flags: int = 0,
) -> None:
    """Become the program's user with its capabilities, its labels and its filter; `flags` of seccomp(2)."""
    user, wanted = process["user"], process.get("capabilities") or {}
    own = capabilities.given(name for names in wanted.values() for name in names or ())
    sets = {name: capabilities.mask(wanted.get(name) or ()) & own for name in wanted}
    quiet = bool(process.get("noNewPrivileges"))
    if keyring:
        _join_keyring()
    for fd, text in labels:
        try:
            os.write(fd, text.encode())
        except FileNotFoundError:
            raise OSError(
                errno.ENOENT, f"no profile is loaded that is called {text.removeprefix('exec ')}"
            ) from None
    if process.keys() & scheduling.KEYS:
        scheduling.apply(process)
    umask = user.get("umask")
    os.umask(0o022 if umask is None else int(umask))
    capabilities.drop_bounding(sets.get("bounding", 0))
    capabilities.keep_over_setuid(True)
    if program_filter and not quiet:
        seccomp.install(program_filter, flags)
    groups = [int(group) for group in user.get("additionalGids") or ()]
    gid, uid = int(user.get("gid") or 0), int(user.get("uid") or 0)
    for number in (uid, gid, *groups):
        if not 0 <= number < _NO_ID:
            raise OSError(errno.EINVAL, f"user and groups: {number} is no id")
    _set_groups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    capabilities.keep_over_setuid(False)
    capabilities.clear_ambient()
    capabilities.set_sets(sets.get("effective", 0), sets.get("permitted", 0), sets.get("inheritable", 0))
    ambient = sets.get("ambient", 0)
    if ambient:
        capabilities.raise_ambient(ambient & sets.get("permitted", 0) & sets.get("inheritable", 0))
    if quiet:
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, subject="PR_SET_NO_NEW_PRIVS")
        if program_filter:
            seccomp.install(program_filter, flags)


def _set_groups(groups: list[int]) -> None:
    try:
        os.setgroups(groups)
    except PermissionError:
        if groups:
            raise  # else a user namespace whose maker denies it, where there are none to lose


def _join_keyring() -> None:
    """A session keyring of its own, so that the host's keys are out of reach: keyctl(2). Best effort."""
    try:
        libc.syscall("keyctl", _KEYCTL_JOIN_SESSION_KEYRING, 0, subject="session keyring")
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EPERM, errno.EDQUOT):
            raise
