"""Effects: looking into a container's root and namespaces from outside, without following it out of them."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

from runtime.linux import mounts, namespaces, openat2, pidfd

#: An /etc/passwd or /etc/group of an image larger than this is not read further.
MAX_TEXT = 4 * 1024 * 1024


def read_in_root(rootfs: Path, name: str) -> str:
    """A text file under `rootfs`, never through a link out of it; empty when it is not there. What is no
    regular file is never opened: a device would do something, a pipe would wait. OSError EINVAL."""
    root = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = openat2.open_in_root(root, name, os.O_PATH)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    finally:
        os.close(root)
    try:
        if not stat.S_ISREG(os.fstat(found).st_mode):
            raise OSError(errno.EINVAL, f"/{name} of the image is no regular file", name)
        fd = os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    finally:
        os.close(found)
    with os.fdopen(fd, "rb") as file:
        return file.read(MAX_TEXT).decode("utf-8", "replace")


def clone_root(pid: int, target: Path) -> None:
    """Mount at `target` what `pid` has as its root file system, without what is mounted inside of it."""
    clone_mount(pid, "/", target)


def clone_mount(pid: int, path: str, target: Path) -> None:
    """Mount at `target` what process `pid` has at `path`, without what is mounted below.

    A mount can only be cloned from within its own mount namespace (open_tree(2)), and a thread may change its
    mount namespace only when it shares no file system attributes with others (setns(2)): so a thread of its
    own.
    """

    def clone() -> int:
        with open(f"/proc/{pid}/ns/mnt", "rb") as namespace:
            namespaces.unshare(namespaces.CLONE_FS)
            namespaces.setns(namespace.fileno(), namespaces.CLONE_NEWNS)
        return mounts.open_tree(path, clone=True, recursive=False)

    tree = in_own_thread(clone)
    try:
        mounts.attach(tree, target)
    finally:
        os.close(tree)


def in_own_thread(work: Callable[[], int]) -> int:
    """Run `work` in a thread that ends afterwards, so that its namespaces end with it; re-raises."""
    result: list[int] = []
    failure: list[OSError] = []

    def run() -> None:
        try:
            result.append(work())
        except OSError as error:
            failure.append(error)

    thread = threading.Thread(target=run, name="stead-namespace")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return result[0]


def processes_of(pid: int, shared: bool) -> list[int]:
    """Processes in the pid namespace of `pid`; where that is the host's, `pid` and its descendants."""
    if shared:
        found, queue = [], [pid]
        while queue:
            current = queue.pop()
            found.append(current)
            queue += _children(current)
        return found
    namespace = os.readlink(f"/proc/{pid}/ns/pid")
    return [candidate for candidate in _all_pids() if _link(f"/proc/{candidate}/ns/pid") == namespace]


def same_process(pid: int, start: int) -> bool:
    """Whether `pid` is still the process that began at `start` (clock ticks since boot)."""
    return pid > 0 and pidfd.start_time(pid) == start


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _all_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
