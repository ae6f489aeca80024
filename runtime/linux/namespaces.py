"""Effects: namespaces of this thread, and network namespaces bound to files.

namespaces(7), setns(2), unshare(2), network_namespaces(7).
"""

from __future__ import annotations

import _socket  # without the enums of `socket`
import errno
import fcntl
import os
import struct

from runtime.linux import libc, mounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    StrPath = str | os.PathLike[str]

CLONE_NEWTIME = 0x00000080
CLONE_FS = 0x00000200
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

# By the names of the OCI runtime-spec (config-linux.md, namespaces).
FLAGS = {
    "mount": CLONE_NEWNS,
    "cgroup": CLONE_NEWCGROUP,
    "uts": CLONE_NEWUTS,
    "ipc": CLONE_NEWIPC,
    "user": CLONE_NEWUSER,
    "pid": CLONE_NEWPID,
    "network": CLONE_NEWNET,
    "time": CLONE_NEWTIME,
}

_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1


def setns(fd: int, flags: int = 0) -> None:
    """Move this thread into the namespace(s) of `fd`: a namespace file, or a pidfd with several flags."""
    libc.call("setns", fd, flags, subject=f"fd {fd}")


def unshare(flags: int) -> None:
    """Give this thread (for pid: its next child) new namespaces."""
    libc.call("unshare", flags, subject=f"flags {flags:#x}")


def write_id_maps(pid: int, uids: Sequence[Mapping[str, int]], gids: Sequence[Mapping[str, int]]) -> None:
    """What the ids in the new user namespace of `pid` are outside of it: user_namespaces(7). Once only, and
    in one write(2) a file."""
    for name, mappings in (("uid_map", uids), ("gid_map", gids)):
        lines = [f"{item['containerID']} {item['hostID']} {item['size']}\n" for item in mappings]
        with open(f"/proc/{pid}/{name}", "wb", buffering=0) as file:
            file.write("".join(lines).encode())


def open_user_namespace(uids: Sequence[Mapping[str, int]], gids: Sequence[Mapping[str, int]]) -> int:
    """A descriptor of a new user namespace with these mappings, in which no process is: for MOUNT_ATTR_IDMAP.
    The caller has one thread, or does nothing else with it meanwhile."""
    ready, told = os.pipe2(os.O_CLOEXEC)
    wait, done = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            unshare(CLONE_NEWUSER)
            os.write(told, b"\0")
            os.close(done)
            os.read(wait, 1)
        finally:
            os._exit(0)
    try:
        os.close(told)
        told = -1
        if not os.read(ready, 1):
            raise OSError(errno.EPERM, "this host gives no user namespace")
        write_id_maps(pid, uids, gids)
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        for fd in (ready, told, wait, done):
            if fd >= 0:
                os.close(fd)
        os.waitpid(pid, 0)


def create_netns(path: StrPath) -> None:
    """A new network namespace, its loopback up, bound to the file `path`, which is made. Repeatable: what is
    already bound there stays. This thread is back in its own namespace afterwards."""
    if mounts.is_mounted(path):
        return
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        unshare(CLONE_NEWNET)
        try:
            raise_loopback()
            mounts.mount("/proc/thread-self/ns/net", path, None, mounts.MS_BIND)
        finally:
            setns(own, CLONE_NEWNET)
    finally:
        os.close(own)


def delete_netns(path: StrPath) -> None:
    """Unbind and delete the file. Repeatable. The namespace lives as long as a process is in it."""
    while mounts.is_mounted(path):
        mounts.unmount(path)
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


class in_netns:
    """This thread, and no other, is in the network namespace at `path` inside the block."""

    def __init__(self, path: StrPath) -> None:
        self._path = path

    def __enter__(self) -> None:
        self._own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            target = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                setns(target, CLONE_NEWNET)
            except OSError as error:
                raise OSError(error.errno, error.strerror, os.fspath(self._path)) from None
            finally:
                os.close(target)
        except BaseException:
            os.close(self._own)
            raise

    def __exit__(self, *_: object) -> None:
        try:
            setns(self._own, CLONE_NEWNET)
        finally:
            os.close(self._own)


def raise_loopback() -> None:
    """Set `lo` of this thread's network namespace up: netdevice(7)."""
    control = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    try:
        request = struct.pack("16sH14x", b"lo", 0)
        flags = struct.unpack("16sH14x", fcntl.ioctl(control.fileno(), _SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(control.fileno(), _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | _IFF_UP))
    finally:
        control.close()


def is_netns(path: StrPath) -> bool:
    """Whether a namespace is bound to `path` (a file on nsfs): cheap, for drift checks."""
    try:
        return mounts.is_mounted(path)
    except OSError as error:
        if error.errno == errno.EACCES:
            return False
        raise
