"""Effects: AppArmor profiles: whether this host has the module, which profiles are loaded, and ours.

apparmor(7), apparmor.d(5), apparmor_parser(8). The profile of containers denies what docker's default one
does: mounts, writing to /proc and /sys outside of a process's own files, the host's memory, keys and
firmware, and tracing or signalling anything but processes of the same profile. It stands behind the
capabilities, the system call filter and the read-only mounts, for the case that one of them has a hole.
"""

from __future__ import annotations

import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path

DEFAULT = "stead-default"
UNCONFINED = "unconfined"
SECURITY = "/sys/kernel/security/apparmor"
ENABLED = "/sys/module/apparmor/parameters/enabled"
PARSERS = ("/sbin/apparmor_parser", "/usr/sbin/apparmor_parser")
_REPLACE = ("--replace", "--skip-cache", "--quiet")
_TIMEOUT = 60.0
_MAX_PROFILES = 1 << 22

#: A number is a process's directory, to which /proc/self is a link; `sys` has rules of its own.
PROFILE = f"""
profile {DEFAULT} flags=(attach_disconnected,mediate_deleted) {{
  file,
  network,
  capability,
  umount,
  unix,
  dbus,

  # the agent and the shim, and each other
  signal (receive) peer=unconfined,
  signal (send, receive) peer={DEFAULT},
  ptrace (trace, read, tracedby, readby) peer={DEFAULT},

  # kinds of sockets that the filter keeps from others than programs of 32 bits
  deny network alg,
  deny network vsock,

  deny mount,
  deny remount,
  deny pivot_root,

  # nothing of /proc is written to but a process's own files and /proc/sys/kernel/shm*
  deny /proc/* w,
  deny /proc/[^1-9s]*/** w,
  deny /proc/s[^y]*/** w,
  deny /proc/sy[^s]*/** w,
  deny /proc/sys[^/]*/** w,
  deny /proc/sys/[^k]** w,
  deny /proc/sys/k[^e]** w,
  deny /proc/sys/kernel/{{?,??,[^s]**,s[^h]**,sh[^m]**}} w,

  # the host's memory, keys, timers
  deny /proc/sysrq-trigger rwklx,
  deny /proc/kcore rwklx,
  deny /proc/kmem rwklx,
  deny /proc/mem rwklx,
  deny /proc/keys rwklx,
  deny /proc/timer_list rwklx,
  deny /proc/acpi/** rwklx,

  # nothing of /sys is written to but the container's own control groups
  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,
}}
"""


class AppArmor:
    """The host's module. The paths are arguments for hosts that are not this one."""

    def __init__(
        self, security: str = SECURITY, enabled: str = ENABLED, parsers: tuple[str, ...] = PARSERS
    ) -> None:
        self._security, self._enabled, self._parsers = security, enabled, parsers

    def missing(self) -> str:
        """Why containers have no profile here; empty: they have."""
        try:
            with open(self._enabled, "rb") as file:
                on = file.read(16).strip() == b"Y"
        except OSError:
            on = False
        if not on:
            return "the kernel has no AppArmor, or it is switched off"
        if not os.path.isdir(self._security):
            return f"{self._security} is not mounted"
        return "" if _first(self._parsers) else "there is no apparmor_parser (apt-get install apparmor)"

    def loaded(self) -> dict[str, str]:
        """name -> mode (enforce, complain, kill, unconfined) of every profile that is loaded."""
        with open(f"{self._security}/profiles", "rb") as file:
            lines = file.read(_MAX_PROFILES).decode(errors="replace").splitlines()
        found = {}
        for line in lines:
            name, _, mode = line.rpartition(" (")
            found[name] = mode.rstrip(")")
        return found

    def ensure_default(self, source: Path) -> None:
        """Our profile, which is written to `source`, is loaded; one of this name, perhaps of another release,
        is replaced. OSError EINVAL with the parser's own words."""
        import subprocess

        command = [_first(self._parsers), *_REPLACE, str(source)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT)
        if done.returncode:
            words = done.stderr.decode(errors="replace").strip() or f"exit code {done.returncode}"
            raise OSError(errno.EINVAL, f"load AppArmor profile: {words}", DEFAULT)


def renew(source: str, security: str = SECURITY, parsers: tuple[str, ...] = PARSERS) -> None:
    """Our profile, which is in `source`, is loaded again where somebody took it away, as aa-remove-unknown(8)
    does; where it cannot be, the exec that needs it says so. For a shim: nothing is imported."""
    try:
        fd = os.open(f"{security}/profiles", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        found = b"\n"
        while data := os.read(fd, 65536):
            found += data
    finally:
        os.close(fd)
    if f"\n{DEFAULT} (".encode() in found:
        return
    parser = _first(parsers)
    if parser:
        os.waitpid(os.posix_spawn(parser, [parser, *_REPLACE, source], {}), 0)


def _first(paths: tuple[str, ...]) -> str:
    """Looked for whenever it is needed: the package may come while an agent lives."""
    return next((path for path in paths if os.path.exists(path)), "")
