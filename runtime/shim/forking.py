"""Effects: having shims forked, by the zygote. What is asked of one that lives is in runtime.shim.client.

Everything raises ShimError when a shim cannot be had, or does not answer. Thread-safe.
"""

from __future__ import annotations

import _socket  # without the enums of `socket`, as in runtime.shim.client
import array
import contextlib
import os
import threading
from pathlib import Path

from runtime.shim import messages
from runtime.shim.client import ANSWER, START, STOP, ShimError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Mapping
    from typing import Any


class Zygote:
    """Forks shims by a process of its own, which is started at the first spawn, and again when it died."""

    def __init__(self, run: Path) -> None:
        self._run = run
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._sealed = True
        self._socket: _socket.socket | None = None
        self._holder: subprocess.Popen[bytes] | None = None  # that begins

    def fork(
        self,
        bundle_dir: Path,
        live_dir: Path,
        *,
        idle: bool,
        cgroup: str = "",
        early: Mapping[str, Any] | None = None,
    ) -> Birth:
        """Processes that wait to become the shim: made while the bundle is still being written. Any
        number may wait at once. `idle`: it will have no probe, no terminal and no orphans of others. `early`:
        what is known of config.json, for a first process in `cgroup` with a standard input of /dev/null; see
        Birth.ground. ShimError."""
        request = {"op": "keep" if idle else "spawn", "bundle": str(bundle_dir), "live": str(live_dir)}
        known = {"cgroup": cgroup, "early": early} if early else {}
        return Birth(self, messages.encode({**request, **known}), live_dir.name, early=bool(early))

    def warm(self) -> None:
        """Start it now, without waiting for it, so that the first spawn waits less. Repeatable."""
        with self._lock:
            if self._socket is None:
                self._start()

    def close(self) -> None:
        """End the zygote; shims live on. Repeatable; a later spawn starts another one."""
        with self._lock:
            self._end()

    def send(self, request: bytes, descriptor: int) -> None:
        """A packet with a descriptor to the zygote that runs, or to a new one. OSError, ShimError."""
        ancillary = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array.array("i", [descriptor]))]
        from runtime.shim import rescue

        with self._lock:
            if self._process is not None and self._process.poll() is not None:
                self._end()
            rescue.begun(self._holder or rescue.ensure(str(self._run)))
            self._holder = None
            if self._socket is not None:
                try:
                    self._socket.sendmsg([request], ancillary)
                    return
                except OSError:
                    self._end()
            self._start().sendmsg([request], ancillary)

    def _start(self) -> _socket.socket:
        from runtime.shim import lean, rescue  # not above: who only looks starts nothing, and imports little

        self._holder = self._holder or rescue.ensure(str(self._run))
        program = os.path.join(os.path.dirname(os.path.abspath(__file__)), "zygote.py")
        self._process, self._socket = lean.start(program, sealed=self._sealed)
        return self._socket

    def _end(self) -> None:
        if self._holder is not None:
            from runtime.shim import rescue

            rescue.begun(self._holder)
            self._holder = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._process is not None:
            from runtime.shim import lean

            lean.end(self._process, ANSWER)
            if self._process.returncode == lean.NOT_LOADED:
                self._sealed = False
            self._process = None


class Birth:
    """Of one shim, see Zygote.fork. Leaving the context ends what waits and was not started."""

    def __init__(self, zygote: Zygote, request: bytes, name: str, *, early: bool = False) -> None:
        self._zygote, self._request, self._name, self._early = zygote, request, name, early
        self._line: _socket.socket | None = None
        self._answered = False  # it said how its start went
        self._fork()

    def __enter__(self) -> Birth:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _fork(self) -> None:
        self._gone = False  # GO was sent
        self._line, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        try:
            self._zygote.send(self._request, theirs.fileno())
        except BaseException:
            self.close()
            raise
        finally:
            theirs.close()

    def ground(self) -> None:
        """Network namespace and cgroup are there: the first process may be forked, if it can be without a
        bundle. In any thread; before `go`, or after `close`."""
        line = self._line
        if self._early and line is not None:
            with contextlib.suppress(OSError):
                line.send(messages.GROUND)

    def go(self) -> None:
        """The bundle is there, and the network namespace: the program may be brought up to its exec. What is
        done meanwhile is to be done before `start`. Repeatable."""
        assert self._line is not None
        if not self._gone:
            with contextlib.suppress(OSError):  # who is not there any more is found by `start`
                self._line.send(messages.GO)
            self._gone = True

    def start(self, timeout: float = START) -> None:
        """Returns when the container's program is exec'ed. ShimError when it could not be: then no shim is
        left and exit.json tells the same."""
        answer = self._run(timeout)
        if not answer:  # a zygote that died with the request in its queue has not begun it
            self.close()
            self._fork()
            answer = self._run(timeout)
        if not answer:
            raise ShimError("zygote", f"cannot start: the supervisor of {self._name} died")
        self._answered = True
        report = messages.decode(answer)
        if not report.get("ok"):
            raise ShimError(str(report["stage"]), str(report["message"]), int(report["exit_code"]))

    def _run(self, timeout: float) -> bytes:
        """The answer; empty when nobody is there."""
        self.go()
        assert self._line is not None
        self._line.settimeout(timeout)
        try:
            with contextlib.suppress(ConnectionError):  # what it said before it ended is there all the same
                self._line.send(messages.RUN)
            try:
                return self._line.recv(65536)
            except ConnectionResetError:  # it had ended before it read that: unix(7) tells this first
                return self._line.recv(65536)
        except TimeoutError:
            raise ShimError("timeout", f"cannot start: no answer within {timeout:g} s") from None
        except OSError:
            return b""

    def close(self) -> None:
        """What was brought up and not started has ended when this returns: nothing works on the container
        behind the back of who clears up."""
        if self._line is None:
            return
        if (self._gone or self._early) and not self._answered:
            with contextlib.suppress(OSError):
                self._line.shutdown(_socket.SHUT_WR)
                self._line.settimeout(STOP)
                while self._line.recv(65536):
                    pass
        self._line.close()
        self._line = None
