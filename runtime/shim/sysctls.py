"""Effects: what the kernel is told of a container's own namespaces: its names and its sysctls. sysctl(8)."""

from __future__ import annotations

from runtime.linux import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    Config = dict[str, Any]
    Spaces = Mapping[str, str | None]

_IPC = frozenset(
    f"kernel.{name}"
    for name in ("msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced")
)


class Refused(ValueError):
    """A setting that is not the container's own."""


def set_names(config: Config, spaces: Spaces) -> None:
    if "uts" not in spaces:
        return
    for call, key in (("sethostname", "hostname"), ("setdomainname", "domainname")):
        name = str(config.get(key) or "").encode()
        if name:
            libc.call(call, name, len(name), subject=key)


def path_of(key: str) -> str:
    """Both ways of writing it: in `net.ipv4.conf.eth0/7.forwarding` the first separator is the separator."""
    first = next((letter for letter in key if letter in "./"), "/")
    return key if first == "/" else key.translate({ord("."): "/", ord("/"): "."})


def is_own(key: str, spaces: Spaces) -> bool:
    """Whether the setting belongs to a namespace which the container has for itself."""
    path = path_of(key)
    if not {"", ".", ".."}.isdisjoint(path.split("/")):
        return False  # it would lead elsewhere
    name = path.replace("/", ".")
    return (
        (name.startswith("net.") and "network" in spaces)
        or ((name in _IPC or name.startswith("fs.mqueue.")) and "ipc" in spaces)
        or (name == "kernel.domainname" and "uts" in spaces)
    )


def apply(config: Config, spaces: Spaces, *, joined: bool, early: bool = False) -> None:
    """Write them. `joined`: the network namespace belongs to another user namespace, so that its settings are
    written `early`, before the container's user namespace is entered. Refused names one that is not the
    container's own."""
    for key, value in (config["linux"].get("sysctl") or {}).items():
        if not is_own(key, spaces):
            raise Refused(f"sysctl {key}: it is not the container's own, the whole host would get it")
        path = path_of(key)
        if (joined and path.startswith("net/")) == early:
            file = f"/proc/sys/{path}"
            try:
                with open(file, "wb", buffering=0) as opened:
                    opened.write(str(value).encode())
            except OSError as error:  # of write(2) it has no name
                raise OSError(error.errno, f"{key}={value}: {error.strerror}", file) from None
