"""Effects: fork(2) straight into a cgroup and into new namespaces.

Moving a process into a cgroup v2 by its cgroup.procs waits for an RCU grace period, 5 ms and more; a process
that is born there does not: clone3(2), CLONE_INTO_CGROUP (Linux 5.7). The caller must be single-threaded.
"""

from __future__ import annotations

import ctypes
import errno
import os

from runtime.linux import libc, signals

CLONE_INTO_CGROUP = 0x200000000
#: The child is one of the caller's own parent, who is told of its end as it is of the caller's.
CLONE_PARENT = 0x00008000

_FIELDS = 11  # struct clone_args of Linux 5.7: 64-bit words
_FLAGS, _EXIT_SIGNAL, _CGROUP = 0, 4, 10

#: Calls that keep the interpreter's lock, as os.fork does: the child must be the one that holds it.
_held = ctypes.PyDLL(None, use_errno=True)
_held.syscall.restype = ctypes.c_long
_python = ctypes.pythonapi


def fork(flags: int = 0, cgroup: int = -1) -> int:
    """As os.fork; the child begins in the namespaces that `flags` (CLONE_NEW*) make, and in the cgroup (v2)
    whose directory is open as `cgroup`. OSError: ENOSYS or E2BIG where the kernel is older."""
    words = [0] * _FIELDS
    words[_FLAGS], words[_EXIT_SIGNAL] = flags, 0 if flags & CLONE_PARENT else signals.SIGCHLD
    if cgroup >= 0:
        words[_FLAGS] |= CLONE_INTO_CGROUP
        words[_CGROUP] = cgroup
    arguments = (ctypes.c_uint64 * _FIELDS)(*words)
    number, size = ctypes.c_long(libc.number("clone3")), ctypes.c_long(ctypes.sizeof(arguments))
    _python.PyOS_BeforeFork()
    pid = int(_held.syscall(number, arguments, size))
    if pid == 0:
        _python.PyOS_AfterFork_Child()
        return 0
    code = ctypes.get_errno()
    _python.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(code, f"clone3: {os.strerror(code)}")
    return pid


def unsupported(error: OSError) -> bool:
    """Whether `fork` failed because this kernel, or a filter in front of it, has no such call."""
    return error.errno in (errno.ENOSYS, errno.E2BIG, errno.EINVAL, errno.EPERM)
