"""Effects: having RUN steps done by the worker: one process for all steps of a build, started when the first
one is near.
"""

from __future__ import annotations

import array
import json
import os
import select
import socket
import subprocess
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from runtime.faults import Fault
from runtime.shim import lean

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Bytes of output read at once, and of the line that is being written.
PIECE = 65536
ANSWER = 10.0
#: Seconds between two looks whether the build was cancelled.
POLL = 0.2
#: Seconds between the end of a worker's pipes and its own.
MOMENT = 0.5


class Cancelled(Exception):
    """The build was cancelled while a step ran."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """`failed` says why the program could not be run; else `code` is its exit code. `oom`: processes killed
    for memory."""

    code: int
    failed: str = ""
    oom: int = 0


def _last(said: bytes) -> Mapping[str, Any] | None:
    """The answer with which a runner ends."""
    for line in said.splitlines():
        message: dict[str, Any] = json.loads(line)
        if "exit" in message:
            return message
    return None


def _kill(cgroup: str) -> None:
    from runtime.linux import cgroups

    cgroups.detect().kill(cgroup)


class Executor:
    """Thread-safe: steps run side by side. To be closed."""

    def __init__(self, cancelled: threading.Event) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._cancelled = cancelled
        self._sealed = True

    def warm(self) -> None:
        """Start the worker now, without waiting for it. Repeatable."""
        with self._lock:
            self._start()

    def run(self, job: Path, cgroup: str, output: Callable[[bytes], None]) -> Outcome:
        """Run the step that the file `job` describes; `output` gets what it writes, in pieces as they come.

        Raises Cancelled, and Fault kernel-error when the worker died.
        """
        found = self._ask(job, cgroup, output)
        if found is None and self._cannot_be_sealed():
            found = self._ask(job, cgroup, output)
        if found is None:  # a runner that was killed: what it ran is still there
            from runtime.linux import cgroups

            host = cgroups.detect()
            host.kill(cgroup)
            host.remove(cgroup)
            raise Fault("kernel-error", "run step in", cgroup, "its runner was killed")
        return Outcome(int(found["exit"]), str(found.get("failed") or ""), int(found.get("oom") or 0))

    def _ask(self, job: Path, cgroup: str, output: Callable[[bytes], None]) -> Mapping[str, Any] | None:
        """What the runner said at its end; None when it did not come to that."""
        answers, theirs = os.pipe2(os.O_CLOEXEC)
        text, written = os.pipe2(os.O_CLOEXEC)
        try:
            try:
                self._send({"job": str(job)}, written, theirs)
            finally:
                os.close(theirs)
                os.close(written)
            return self._follow(answers, text, output, cgroup)
        except (BrokenPipeError, ConnectionResetError):
            return None
        finally:
            os.close(answers)
            os.close(text)

    def _cannot_be_sealed(self) -> bool:
        """Whether the worker did not even begin: a library beside the interpreter is not found from the
        sealed one. The next one is started from the file itself."""
        with self._lock:
            if not self._sealed or self._process is None:
                return False
            try:
                code = self._process.wait(MOMENT)
            except subprocess.TimeoutExpired:
                return False
            if code != lean.NOT_LOADED:
                return False
            self._sealed, self._process = False, None
            if self._socket is not None:
                self._socket.close()
                self._socket = None
        return True

    def _follow(
        self, answers: int, text: int, output: Callable[[bytes], None], cgroup: str
    ) -> Mapping[str, Any] | None:
        """Until both pipes have ended, which is when nothing of the step is left; the last answer."""
        poll = select.poll()
        poll.register(answers, select.POLLIN)
        poll.register(text, select.POLLIN)
        said, live, killed = b"", 2, False
        while live:
            for fd, _ in poll.poll(POLL * 1000):
                data = os.read(fd, PIECE)
                if data:
                    said += data if fd == answers else b""
                    if fd == text:
                        output(data)
                    continue
                poll.unregister(fd)
                live -= 1
                if fd == answers and _last(said) is None:
                    _kill(cgroup)  # the runner was: what it ran would go on, and hold its output open
            if self._cancelled.is_set():  # again and again: the runner may be about to start the program
                _kill(cgroup)
                killed = True
        if killed:
            raise Cancelled
        return _last(said)

    def _send(self, message: Mapping[str, Any], *fds: int) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
        with self._lock:
            self._start().sendmsg([json.dumps(message).encode()], rights)

    def _start(self) -> socket.socket:
        if self._socket is not None:
            return self._socket
        program = os.path.join(os.path.dirname(os.path.abspath(__file__)), "worker.py")
        self._process, self._socket = lean.start(program, sealed=self._sealed)
        return self._socket

    def close(self) -> None:
        """End the worker; steps that run see it by their answers' pipe. Repeatable."""
        with self._lock:
            if self._socket is not None:
                self._socket.close()
                self._socket = None
            if self._process is not None:
                lean.end(self._process, ANSWER)
                self._process = None
