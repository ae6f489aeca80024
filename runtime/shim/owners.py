"""Effects: namespaces that a container has from others, when it is started anew.

The agent binds each to a file of the container (runtime.joining). An owner that was started anew has other
ones; and a pid namespace ends with its first process, and takes all that is in it along. So that no agent is
needed then, the shim binds what the owners have now.
"""

from __future__ import annotations

import errno
import os

from runtime.linux import mounts, namespaces, pidfd
from runtime.shim import documents

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

#: Seconds between two looks for an owner that does not run: at first, doubling to the longest.
SOON, LONGEST = 0.05, 1.0


def is_over(path: str) -> bool:
    """Whether the pid namespace that is bound at `path` has ended: it takes no process any more
    (pid_namespaces(7)). Leaves the caller's children in its own one."""
    try:
        theirs = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        namespaces.setns(theirs, namespaces.CLONE_NEWPID)
        try:
            pid = os.fork()
            if pid == 0:
                os._exit(0)
            os.waitpid(pid, 0)
        except OSError as error:
            return error.errno == errno.ENOMEM
        finally:
            namespaces.setns(own, namespaces.CLONE_NEWPID)
    finally:
        os.close(own)
        os.close(theirs)
    return False


def renew(joins: Mapping[str, str], live: str) -> bool:
    """Bind what the owners have now. `joins`: by kind, the owner's directory under run; `live` is the
    container's own. False: the owner of the pid namespace does not run. OSError."""
    for kind in sorted(joins, key=lambda kind: kind != "pid"):
        pid, path = _runs(joins[kind]), f"{live}/{kind}ns"
        if pid:
            _bind(f"/proc/{pid}/ns/{kind}", path)
        if kind == "pid" and (pid == 0 or _runs(joins[kind]) != pid or is_over(path)):
            return False
    return True


def _runs(owner: str) -> int:
    """The pid of its first process; 0: there is none."""
    try:
        record = documents.read(owner, "state.json")
        pid, start = int(record["pid"]), int(record["pid_start"])
        return pid if pid > 0 and pidfd.start_time(pid) == start else 0
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _bind(source: str, path: str) -> None:
    now, bound = os.stat(source), os.stat(path)
    if (now.st_dev, now.st_ino) == (bound.st_dev, bound.st_ino):
        return
    while mounts.is_mounted(path):
        mounts.unmount(path)
    mounts.bind(source, path, recursive=False)
