"""Effects: a container's first process that is forked before its bundle is written.

A fork and the entry into the hierarchies of cgroups v1 are a third of what it does before its program, and
need no more than the names of cgroup and namespaces, which are known from the beginning. So that is done
while the agent writes the bundle. The process then waits, already without anything of the shim's, and reads
config.json by itself: what the shim makes of the bundle, it makes beside that.
"""

from __future__ import annotations

import os

from runtime.linux import pidfd, signals
from runtime.shim import init, launch, messages, spaces

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, NoReturn

    from runtime.linux import cgroups

#: In a request to the zygote, with `cgroup`: what of config.json is known, the namespaces at least.
KEY = "early"


class Early:
    """`outputs`: the reading ends, with their streams; `gate` gets a byte when the bundle is there, and
    another one when the program may run. `child` and `oom_before` are there with `fork`."""

    __slots__ = ("_cgroup", "_host", "_theirs", "child", "gate", "launcher", "oom_before", "outputs")

    def __init__(self, request: Mapping[str, Any], host: cgroups.Cgroups) -> None:
        """All that needs nothing but the request. OSError."""
        self._cgroup, self._host = str(request["cgroup"]), host
        self.launcher = launch.Launcher(request[KEY], str(request["bundle"]), self._cgroup, host)
        self.child: launch.Child | None = None
        self.oom_before = 0
        self.outputs: dict[int, int] = {}
        self._theirs = [os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)]
        for stream in (messages.STDOUT, messages.STDERR):
            reader, writer = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(reader, False)
            self.outputs[reader] = stream
            self._theirs.append(writer)
        hold, self.gate = os.pipe2(os.O_CLOEXEC)
        self._theirs.append(hold)

    def fork(self, bundle: str) -> bool:
        """Cgroup and network namespace are there. Whether it could be: else all is closed, and the shim finds
        again, and says, why not when it starts the container itself."""
        null, out, err, hold = self._theirs
        known = self.launcher.config

        def program(report: int) -> NoReturn:
            init.run_early(known, bundle, stdio=(null, out, err), report_fd=report, hold=hold)

        try:
            self.oom_before = self._host.oom_kills(self._cgroup)
            self.child = self.launcher.start_early(program)
        except OSError:
            self.close()
            return False
        self._close_theirs()
        return True

    def go(self) -> None:
        """The bundle is there."""
        open_gate(self.gate)

    def has_ended(self) -> bool:
        return self.child is not None and pidfd.wait(self.child.pidfd, 0)

    def abandon(self) -> None:
        """It has ended when this returns. Not for one that somebody watches."""
        if self.child is not None:
            self.child.signal(signals.SIGKILL)
            os.waitpid(self.child.pid, 0)
            self.child.close()
        self.close()

    def close(self) -> None:
        self._close_theirs()
        for fd in (self.gate, *self.outputs):
            os.close(fd)
        self.launcher.close()

    def _close_theirs(self) -> None:
        for fd in self._theirs:
            os.close(fd)
        self._theirs = []


def is_possible(request: Mapping[str, Any]) -> bool:
    """Whether a request to the zygote says enough, and of namespaces that a plain fork gives."""
    return KEY in request and spaces.is_plain(request[KEY])


def open_gate(gate: int) -> None:
    try:
        os.write(gate, b"1")
    except BrokenPipeError:
        pass  # init could not come so far, and says why itself
