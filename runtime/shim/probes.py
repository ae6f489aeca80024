"""Effects: one health probe, from its start to its result, within the shim's loop.

exec and shell run in the container as its own process does; http and tcp connect from the container's network
namespace. Every probe ends by its timeout: what it has started in the container is then killed.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import time

from runtime.linux import cgroups as cgroup_files
from runtime.shim import launch, messages
from runtime.shim.loop import READ, WRITE, Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Done = Callable[[int, str], None]  # exit code (0: healthy, -1: no answer in time or not runnable), output

NO_ANSWER = -1
_LOCAL = ("", "localhost", "0.0.0.0", "[::]")


def words(probe: dict[str, Any]) -> list[str]:
    """The command of an exec or shell probe; empty for others."""
    if probe.get("exec"):
        return [str(word) for word in probe["exec"]]
    if probe.get("shell"):
        return ["/bin/sh", "-c", str(probe["shell"])]
    return []


def address(text: str, default_port: int = 0) -> tuple[str, int]:
    """(IP address, port) of "host:port", ":port", "[::1]:port" or "host". ValueError for what is neither a
    literal address nor this container: probes do not ask name servers."""
    host, colon, port = text.rpartition(":")
    if not colon or "]" in port:
        host, port = text, ""
    host = "127.0.0.1" if host in _LOCAL else host.strip("[]")
    if not port and not default_port:
        raise ValueError(f"cannot probe {text}: no port")
    number = int(port) if port else default_port
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
            return host, number
        except OSError:
            continue
    raise ValueError(f"cannot probe {text}: {host} is not an IP address")


def http_target(url: str) -> tuple[str, int, str, str]:
    """(IP address, port, Host header, path) of an http URL; its host may be empty."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "http", url
    if scheme != "http":
        raise ValueError(f"cannot probe {url}: only http is supported")
    authority, slash, path = rest.partition("/")
    host, port = address(authority, 80)
    name = authority if authority and not authority.startswith(":") else f"{host}:{port}"
    return host, port, name, slash + path or "/"


class Probe:
    """One run of a probe. Calls `done` once, unless cancelled before."""

    def __init__(self, loop: Loop, launcher: launch.Launcher, timeout: float, done: Done) -> None:
        self._loop, self._launcher = loop, launcher
        self._timeout = timeout
        self._done: Done | None = done
        self._output = bytearray()
        self.child: launch.Child | None = None
        self._timer = loop.after(timeout, self._late)

    def cancel(self) -> None:
        """End it without a result, because the container ended. Repeatable."""
        self._done = None
        self._end()

    def _late(self) -> None:
        self._finish(NO_ANSWER, f"no answer within {self._timeout:g} s")

    def _finish(self, code: int, message: str = "") -> None:
        done, self._done = self._done, None
        self._end()
        if done is not None:
            text = self._output[: messages.HEALTH_LOG_BYTES].decode(errors="replace")
            done(code, f"{message}: {text}" if message and text else message or text)

    def _end(self) -> None:
        self._loop.cancel(self._timer)

    def _keep(self, data: bytes) -> None:
        room = messages.HEALTH_LOG_BYTES - len(self._output)
        self._output += data[: max(0, room)]


class Program(Probe):
    """exec and shell."""

    def __init__(
        self,
        loop: Loop,
        launcher: launch.Launcher,
        timeout: float,
        done: Done,
        *,
        command: list[str],
        init_pidfd: int,
        cgroup: str,
        host: cgroup_files.Cgroups,
    ) -> None:
        super().__init__(loop, launcher, timeout, done)
        self._cgroup, self._host = cgroup, host
        self._pipe, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(writer, True)
        null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        process = {**launcher.config["process"], "args": command, "terminal": False}
        self._failure: launch.Failure | None = None
        try:
            self.child = child = launcher.join(process, init_pidfd, (null, writer, writer), None)
        except OSError:
            self.cancel()
            raise
        finally:
            os.close(null)
            os.close(writer)
        loop.watch(self._pipe, self._read)
        loop.watch(child.report, self._reported)
        loop.watch(child.pidfd, self._ended)

    def _read(self) -> None:
        try:
            data = os.read(self._pipe, 65536)
        except BlockingIOError:
            return
        if data:
            self._keep(data)
        else:
            self._close_pipe()

    def _reported(self) -> None:
        assert self.child is not None
        self._failure = launch.read_report(self.child)
        self._loop.forget(self.child.report)

    def _ended(self) -> None:
        child = self.child
        if child is None:
            return
        code = launch.exit_code(child)
        if code is None:
            return
        if self._pipe >= 0:
            self._read()
        if self._failure is None and child.report >= 0 and code >= launch.FAILED:
            try:
                self._failure = launch.read_report(child)
            except BlockingIOError:
                pass
        self._forget()
        failure = self._failure
        self._finish(code, failure.message if failure is not None else "")

    def _end(self) -> None:
        super()._end()
        child = self.child
        if child is not None:
            kill_tree(self._host, self._cgroup, child.pid)
            child.signal(signal.SIGKILL)
            os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED)  # it was killed: this is immediate
            self._forget()
        self._close_pipe()

    def _forget(self) -> None:
        if self.child is not None:
            self._loop.forget(self.child.report)
            self._loop.forget(self.child.pidfd)
            self.child.close()
            self.child = None

    def _close_pipe(self) -> None:
        if self._pipe >= 0:
            self._loop.forget(self._pipe)
            os.close(self._pipe)
            self._pipe = -1


class Connection(Probe):
    """tcp, and http: healthy is an accepted connection, and a status of 200 to 399."""

    def __init__(
        self,
        loop: Loop,
        launcher: launch.Launcher,
        timeout: float,
        done: Done,
        *,
        target: tuple[str, int],
        request: bytes,
    ) -> None:
        super().__init__(loop, launcher, timeout, done)
        self._request = request
        family = socket.AF_INET6 if ":" in target[0] else socket.AF_INET
        kind = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        try:
            self._socket: socket.socket = launcher.in_network(lambda: socket.socket(family, kind))
        except OSError:
            loop.cancel(self._timer)
            raise
        code = self._socket.connect_ex(target)
        if code in (0, errno.EINPROGRESS):
            loop.watch(self._socket.fileno(), self._connected, WRITE)
        else:
            loop.cancel(self._timer)
            self._timer = loop.after(0, lambda: self._finish(1, os.strerror(code).lower()))

    def _connected(self) -> None:
        code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._finish(1, os.strerror(code).lower())
        elif not self._request:
            self._finish(0)
        else:
            try:
                self._socket.send(self._request)  # smaller than any socket buffer
            except OSError as error:
                self._finish(1, (error.strerror or "").lower())
                return
            self._loop.watch(self._socket.fileno(), self._answered, READ)

    def _answered(self) -> None:
        try:
            data = self._socket.recv(65536)
        except BlockingIOError:
            return
        except OSError as error:
            self._finish(1, (error.strerror or "").lower())
            return
        self._keep(data)
        if data and b"\r\n\r\n" not in self._output and len(self._output) < messages.HEALTH_LOG_BYTES:
            return
        parts = bytes(self._output).split(b" ", 2)
        status = (
            int(parts[1]) if len(parts) > 1 and parts[0].startswith(b"HTTP/") and parts[1].isdigit() else 0
        )
        self._finish(0 if 200 <= status <= 399 else 1)

    def _end(self) -> None:
        super()._end()
        if self._socket.fileno() >= 0:
            self._loop.forget(self._socket.fileno())
            self._socket.close()


def begin(
    loop: Loop,
    launcher: launch.Launcher,
    probe: dict[str, Any],
    timeout: float,
    done: Done,
    *,
    init_pidfd: int,
    cgroup: str,
    host: cgroup_files.Cgroups,
) -> Probe:
    """Start the probe that the document asks for. OSError or ValueError when it cannot be started."""
    command = words(probe)
    if command:
        return Program(
            loop, launcher, timeout, done, command=command, init_pidfd=init_pidfd, cgroup=cgroup, host=host
        )
    if probe.get("http"):
        ip, port, name, path = http_target(str(probe["http"]))
        headers = f"Host: {name}\r\nUser-Agent: stead-probe\r\nAccept: */*\r\nConnection: close"
        request = f"GET {path} HTTP/1.1\r\n{headers}\r\n\r\n"
        return Connection(loop, launcher, timeout, done, target=(ip, port), request=request.encode())
    return Connection(loop, launcher, timeout, done, target=address(str(probe.get("tcp") or "")), request=b"")


def kill_tree(host: cgroup_files.Cgroups, cgroup: str, root: int, deadline: float = 1.0) -> None:
    """SIGKILL `root`, its descendants and all of its session, until none is found that lives.

    A process that both left the session and lost its parent is not known any more as the probe's and stays;
    it ends with the container. The first pass stops what it finds, so that nothing is forked between looking
    and killing.
    """
    end = time.monotonic() + deadline
    for number in (signal.SIGSTOP, signal.SIGKILL, signal.SIGKILL):
        known: set[int] = {root}
        while time.monotonic() < end:
            found = {pid for pid in host.pids(cgroup) if pid not in known and _belongs(pid, root, known)}
            if not found:
                break
            known |= found
        for pid in known:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass


def _belongs(pid: int, root: int, known: set[int]) -> bool:
    """proc_pid_stat(5): fields 3 state, 4 parent, 6 session."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            stat = file.read()
    except OSError:
        return False
    state, parent, _, session = stat[stat.rindex(b")") + 2 :].split()[:4]
    return state not in (b"Z", b"X") and (int(parent) in known or int(session) == root)
