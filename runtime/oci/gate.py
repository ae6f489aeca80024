"""Effects: where a container's first process waits while it is created, and until it is started.

It tells who creates it `mounted`, once its namespaces and mounts are there and its root is not changed yet,
and goes on when it is let; then `ready`, when only the exec is left. From then on it holds two FIFOs of its
record:
a byte from one lets it go, and the other says how that went: its end without bytes that the program runs.
Who creates it may die at any point: a socket that is closed ends the waiting, and the process.
"""

from __future__ import annotations

import _socket  # without the enums of `socket`
import os

from runtime.oci import hooks, records
from runtime.shim import scheduling

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from runtime.shim.init import Stage

MOUNTED, READY, GO = b"mounted", b"ready", b"go"


class Gate:
    """Of a container that is created. `state` is what hooks are told, without its status and pid."""

    def __init__(
        self,
        record: records.Record,
        config: dict[str, Any],
        state: dict[str, Any],
        *,
        pivots: bool,
        keyring: bool,
        preserved: int,
        program_filter: bytes,
        filter_flags: int,
    ) -> None:
        self.pivots, self.keyring, self.preserved = pivots, keyring, preserved
        self.program_filter, self.filter_flags = program_filter, filter_flags
        self._config, self._state = config, state
        for name in (records.START, records.REPORT):
            os.mkfifo(f"{record.directory}/{name}", 0o600)
        flags = os.O_RDWR | os.O_CLOEXEC  # neither waits for another end nor ends with one
        self._start = os.open(f"{record.directory}/{records.START}", flags)
        self._told = os.open(f"{record.directory}/{records.REPORT}", flags)
        self._outside, self._inside = _socket.socketpair(
            _socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC
        )
        self.report = -1  # of the first process, once it is forked

    # -- outside

    def forked(self) -> None:
        """The first process has what is its own."""
        self._inside.close()
        os.close(self._start)
        os.close(self._told)

    def wait(self, what: bytes) -> bool:
        """Until it says `what`; False when it ends before."""
        return self._outside.recv(64) == what

    def let_go(self, pid: int) -> None:
        """It is told its pid as the host knows it."""
        self._outside.send(GO + str(pid).encode())

    # -- inside

    def kept(self) -> list[int]:
        return [self._inside.fileno(), self._start, self._told, *range(3, 3 + self.preserved)]

    def mounted(self, root: int, stage: Stage) -> None:
        score = self._config["process"].get("oomScoreAdj")
        if score is not None:
            stage.name = "oomScoreAdj"
            scheduling.set_oom_score(int(score))
        self._inside.send(MOUNTED)
        answer = self._inside.recv(64)
        if not answer.startswith(GO):
            self._end()
        self._state["pid"] = int(answer[len(GO) :])
        wanted = (self._config.get("hooks") or {}).get("createContainer") or ()
        if wanted:
            stage.name = "hooks"
            os.fchdir(root)
            hooks.run("createContainer", wanted, {**self._state, "status": "creating"})

    def ready(self, program: str, stage: Stage, report: int) -> None:
        os.dup2(self._told, report, inheritable=False)
        self._inside.send(READY)
        self._inside.close()
        os.close(self._told)
        if not os.read(self._start, 1):
            self._end()
        os.close(self._start)

    def assumed(self, stage: Stage) -> None:
        """A hook in the container may be a file of the image: it has the rights of the program, no others."""
        wanted = (self._config.get("hooks") or {}).get("startContainer") or ()
        if wanted:
            stage.name = "hooks"
            hooks.run("startContainer", wanted, {**self._state, "status": "created"})

    def _end(self) -> NoReturn:
        os._exit(1)


class ExecGate:
    """Of a process that joins a running container: nobody waits."""

    pivots = True

    def __init__(self, *, keyring: bool, preserved: int, program_filter: bytes, filter_flags: int) -> None:
        self.keyring, self.preserved = keyring, preserved
        self.program_filter, self.filter_flags = program_filter, filter_flags

    def kept(self) -> list[int]:
        return list(range(3, 3 + self.preserved))

    def mounted(self, root: int, stage: Stage) -> None:
        """A process that joins mounts nothing."""

    def ready(self, program: str, stage: Stage, report: int) -> None:
        """It goes on at once."""

    def assumed(self, stage: Stage) -> None:
        """A process that joins has no hooks."""
