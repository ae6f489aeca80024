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

from runtime.linux import pidfd
from runtime.shim import launch, messages, targets
from runtime.shim.loop import READ, WRITE, Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Done = Callable[[int, str], None]  # exit code (0: healthy, -1: no answer in time or not runnable), output

NO_ANSWER = -1
#: Seconds that a killed process may take to end, and how many may be left that cannot be waited for yet.
END, MOST_LEFT = 1.0, 16
#: How often a tree of processes that forks on is pursued, after so many seconds, for how many; what is said.
PURSUITS, PURSUE, PURSUIT = 30, 2.0, 0.3
FORKS_ON = "; what it started forks faster than it can be killed, which goes on"
#: How often a probe is started whose profile somebody takes away meanwhile: that says nothing of the program.
STARTS = 5
#: What is said of a connection that was closed at once.
NOTHING = "the connection was closed without an answer"


#: Control characters but those of lines: in JSON each would be six bytes, and on a terminal an order.
_CONTROLS = dict.fromkeys((*range(9), 11, 12, *range(14, 32), 127, 0xFFFD), "?")


def readable(data: bytes | bytearray) -> str:
    """Output as text for a state record, which takes at most three bytes of it for one of `data`."""
    return data.decode(errors="replace").translate(_CONTROLS)


class Probe:
    """One run of a probe. Calls `done` once, unless cancelled before."""

    def __init__(self, loop: Loop, launcher: launch.Launcher, timeout: float, done: Done) -> None:
        self._loop, self._launcher = loop, launcher
        self._timeout = timeout
        self._done: Done | None = done
        self._output = bytearray()
        self._left = ""  # what is to be said of processes that it left
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
            text = readable(self._output[: messages.HEALTH_LOG_BYTES])
            message += self._left
            done(code, f"{message}: {text}" if message and text else message or text)

    def _end(self) -> None:
        self._loop.cancel(self._timer)

    def _keep(self, data: bytes) -> None:
        room = messages.HEALTH_LOG_BYTES - len(self._output)
        self._output += data[: max(0, room)]


class Program(Probe):
    """What runs as a process of its own: exec, shell, and https. `fork` is given the pipe for its output."""

    def __init__(
        self,
        loop: Loop,
        launcher: launch.Launcher,
        timeout: float,
        done: Done,
        fork: Callable[[int], launch.Child],
    ) -> None:
        super().__init__(loop, launcher, timeout, done)
        self._fork, self._starts, self._pipe = fork, 0, -1
        try:
            self._start()
        except OSError:
            self.cancel()
            raise

    def _start(self) -> None:
        self._starts += 1
        self._failure: launch.Failure | None = None
        self._pipe, writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._pipe, False)
        try:
            self.child = child = self._fork(writer)
        finally:
            os.close(writer)
        self._loop.watch(self._pipe, self._read)
        self._loop.watch(child.report, self._reported)
        self._loop.watch(child.pidfd, self._ended)

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
        try:
            self._failure = launch.read_report(self.child)
        except BlockingIOError:  # meant was an earlier child, whose number the descriptor had
            return
        self._loop.forget(self.child.report)

    def _ended(self) -> None:
        child = self.child
        if child is None:
            return
        code = launch.ended(self._loop, child, self._ended)
        if code is None:
            return
        if self._pipe >= 0:
            self._read()
        if self._failure is None and child.report >= 0 and code >= launch.FAILED:
            self._reported()
        self._forget()
        failure = self._failure
        if failure is not None and failure.lost_profile and self._starts < STARTS:
            self._start_again()
        else:
            self._finish(code, failure.message if failure is not None else "")

    def _start_again(self) -> None:
        self._close_pipe()
        try:
            self._start()
        except OSError as error:
            self._finish(NO_ANSWER, str(error))

    def _end(self) -> None:
        super()._end()
        child = self.child
        if child is not None:
            if kill_tree(self._launcher.pids, child.pid):
                pidfd.wait(child.pidfd, END)
            else:
                self._left = FORKS_ON
                fd, pid = os.dup(child.pidfd), child.pid
                self._loop.after(PURSUE, lambda: _pursue(self._loop, self._launcher, pid, fd))
            if launch.exit_code(child) is None:  # a traced one is its tracer's, also when dead: ptrace(2)
                self._launcher.leave(self._loop, child)
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
    """tcp, and http: healthy is an accepted connection, and a status that the target calls well. Of an answer
    no more is read than its head, and of that no more than is kept."""

    def __init__(
        self,
        loop: Loop,
        launcher: launch.Launcher,
        timeout: float,
        done: Done,
        target: targets.Target,
    ) -> None:
        super().__init__(loop, launcher, timeout, done)
        self._target = target
        try:
            self._socket = open_socket(launcher, target, socket.SOCK_NONBLOCK)
        except OSError:
            loop.cancel(self._timer)
            raise
        code = self._socket.connect_ex((target.address, target.port))
        if code in (0, errno.EINPROGRESS):
            loop.watch(self._socket.fileno(), self._connected, WRITE)
        else:
            loop.cancel(self._timer)
            self._timer = loop.after(0, lambda: self._finish(1, os.strerror(code).lower()))

    def _connected(self) -> None:
        code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._finish(1, os.strerror(code).lower())
        elif not self._target.request:
            self._finish(0)
        else:
            try:
                self._socket.send(self._target.request)  # smaller than any socket buffer
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
        self._output = bytearray(targets.final(bytes(self._output + data)))  # of the others there may be many
        answer = bytes(self._output)
        if data and not targets.is_whole(answer) and len(answer) < messages.HEALTH_LOG_BYTES:
            return
        self._finish(0 if self._target.is_well(answer) else 1, "" if answer else NOTHING)

    def _end(self) -> None:
        super()._end()
        if self._socket.fileno() >= 0:
            self._loop.forget(self._socket.fileno())
            self._socket.close()


def open_socket(launcher: launch.Launcher, target: targets.Target, flags: int = 0) -> socket.socket:
    """In the container's network namespace."""
    family = socket.AF_INET6 if ":" in target.address else socket.AF_INET
    kind = socket.SOCK_STREAM | socket.SOCK_CLOEXEC | flags
    made: socket.socket = launcher.in_network(lambda: socket.socket(family, kind))
    return made


def begin(
    loop: Loop,
    launcher: launch.Launcher,
    probe: dict[str, Any],
    timeout: float,
    done: Done,
    *,
    init_pidfd: int,
    hosts: Callable[[], dict[str, str]],
) -> Probe:
    """Start the probe that the document asks for. OSError or ValueError when it cannot be started."""
    command = targets.words(probe)
    if len(launcher.left) >= MOST_LEFT:
        raise ValueError(f"{MOST_LEFT} processes of earlier probes do not end: are they traced?")
    if command:
        process = {**launcher.config["process"], "args": command, "terminal": False}

        def join(writer: int) -> launch.Child:
            null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
            try:
                return launcher.join(process, init_pidfd, (null, writer, writer), None, reaper=True)
            finally:
                os.close(null)

        return Program(loop, launcher, timeout, done, join)
    target = targets.target(probe, hosts())
    if target.tls:
        return Program(
            loop,
            launcher,
            timeout,
            done,
            lambda writer: launcher.aside(lambda: _ask_tls(launcher, target, writer)),
        )
    return Connection(loop, launcher, timeout, done, target)


def _ask_tls(launcher: launch.Launcher, target: targets.Target, writer: int) -> int:
    """In a process of its own, since TLS takes more memory than the shim: the exit code of the probe. The
    certificate is checked on request only: the question is whether the service answers, and it is asked by
    address."""
    import ssl

    context = ssl.create_default_context() if target.verify else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if not target.verify:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    answer = b""
    try:
        plain = open_socket(launcher, target)
        plain.connect((target.address, target.port))
        with context.wrap_socket(plain, server_hostname=target.tls) as connection:
            connection.sendall(target.request)
            while not targets.is_whole(answer) and len(answer) < messages.HEALTH_LOG_BYTES:
                data = connection.recv(messages.HEALTH_LOG_BYTES)
                answer = targets.final(answer + data)
                if not data:
                    break
    except OSError as error:
        os.write(writer, (error.strerror or str(error)).lower().encode())
        return 1
    os.write(writer, answer[: messages.HEALTH_LOG_BYTES] or NOTHING.encode())
    return 0 if target.is_well(answer) else 1


def kill_tree(pids: Callable[[], list[int]], root: int, deadline: float = 1.0) -> bool:
    """SIGKILL `root`, and of `pids()` (all of the container) its descendants and all of its session. False:
    they fork faster than that for `deadline` seconds; `root` is then stopped, and this may be called again.

    `root` lives and is the reaper of what lost its parent, so that no descendant is missed, whatever session
    it went to: it is the last to be killed. The first pass stops what it finds, so that nothing is forked
    between looking and killing. Each pass has a time of its own.
    """
    settled = False
    for number in (signal.SIGSTOP, signal.SIGKILL, signal.SIGKILL):
        _signal_root(root, signal.SIGSTOP)
        settled = _pass(pids, root, number, time.monotonic() + deadline / 3)
    if settled:
        _signal_root(root, signal.SIGKILL)
    return settled


def _pass(pids: Callable[[], list[int]], root: int, number: int, end: float) -> bool:
    """Signal at once whoever is found, the newest first: it may live for a moment only. Whether a look found
    nobody before `end`."""
    known = {root}
    while True:
        before = len(known)
        for pid in sorted(pids(), reverse=True):
            if pid not in known and _belongs(pid, root, known):
                _signal(pid, number, root, known)
                known.add(pid)
        if len(known) == before:
            return True
        if time.monotonic() >= end:
            return False


def _signal_root(root: int, number: int) -> None:
    """A child of ours, not yet waited for: its number is its own."""
    try:
        os.kill(root, number)
    except ProcessLookupError:
        pass


def _pursue(loop: Loop, launcher: launch.Launcher, root: int, fd: int, tries: int = PURSUITS) -> None:
    """Go on with `kill_tree`, as long as `root`, whose pidfd is `fd`, has not been waited for."""
    try:
        pidfd.send_signal(fd, signal.SIGSTOP)
    except ProcessLookupError:
        tries = 0
    else:
        if kill_tree(launcher.pids, root, PURSUIT):
            tries = 0
        elif tries == 1:
            _signal_root(root, signal.SIGKILL)
    if tries > 1:
        loop.after(PURSUE, lambda: _pursue(loop, launcher, root, fd, tries - 1))
    else:
        os.close(fd)


def _signal(pid: int, number: int, root: int, known: set[int]) -> None:
    """Held first, then looked at again: a number that was recycled meanwhile is a stranger's."""
    try:
        fd = pidfd.open_pidfd(pid)
    except OSError:
        return
    try:
        if _belongs(pid, root, known):
            pidfd.send_signal(fd, number)
    except ProcessLookupError:
        pass
    finally:
        os.close(fd)


def _belongs(pid: int, root: int, known: set[int]) -> bool:
    """Whether it lives. proc_pid_stat(5): fields 3 state, 4 parent, 6 session, 20 threads: the first of them
    may have ended before the others."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            stat = file.read()
    except OSError:
        return False
    fields = stat[stat.rindex(b")") + 2 :].split()
    if fields[0] in (b"Z", b"X") and int(fields[17]) <= 1:
        return False
    return int(fields[1]) in known or int(fields[3]) == root
