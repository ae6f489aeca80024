"""Effects: the shim's socket. Takes requests (runtime.shim.messages), answers, and tells of ends.

Only root reaches it: live_dir is 0700. A client that does not read its answers is hung up on; nothing here
waits for a client.
"""

from __future__ import annotations

import _socket  # without the enums of `socket`, which cost each shim 50 KiB
import array
import os
import signal

from runtime.linux import pidfd, signals
from runtime.shim import launch, messages, supervise
from runtime.shim.loop import Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runtime.shim.monitor import Monitor

    Message = dict[str, Any]

NAME = "shim.sock"
MAX_CLIENTS = 64  # connections that may do everything
MAX_BRIEF = 8  # further ones, which may not stay: the newest are served, so that a stop always gets through
MAX_SESSIONS = 64  # exec'ed processes, whether their clients are still there or not
MAX_DESCRIPTORS = 4
END = 1.0  # seconds that a killed process may take to end
MAX_WORDS = 1000  # characters of a command that events show
_S_IFMT, _S_IFDIR, _S_IFREG = 0o170000, 0o040000, 0o100000


class Refused(Exception):
    """The request cannot be carried out; the text is for people."""


class Control:
    """The listening socket and its clients."""

    def __init__(self, monitor: Monitor, listener: int = -1) -> None:
        """`listener` is a socket that listens already, to be taken over."""
        self._monitor = monitor
        self._loop: Loop = monitor.loop
        self._clients: list[Client] = []
        self._listener = self._listen() if listener < 0 else _socket.socket(fileno=listener)
        self._loop.watch(self._listener.fileno(), self._accept)

    def _listen(self) -> _socket.socket:
        monitor = self._monitor
        try:
            os.unlink(NAME, dir_fd=monitor.live_fd)
        except FileNotFoundError:
            pass
        kind = _socket.SOCK_SEQPACKET | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC
        listener = _socket.socket(_socket.AF_UNIX, kind)
        # sun_path holds 108 bytes, state directories may be deeper: unix(7)
        listener.bind(f"/proc/self/fd/{monitor.live_fd}/{NAME}")
        listener.listen(16)
        return listener

    def fileno(self) -> int:
        return self._listener.fileno()

    def is_called(self) -> bool:
        """Whether there are clients, or processes of theirs."""
        return any(not client.closed or client.session for client in self._clients)

    def _accept(self) -> None:
        try:
            fd, _ = self._listener._accept()  # type: ignore[attr-defined]  # what socket.accept is made of
        except OSError:
            return
        connection = _socket.socket(fileno=fd)
        self._clients = [client for client in self._clients if not client.closed or client.session]
        brief = [client for client in self._clients if client.is_brief and not client.closed]
        here = sum(not client.closed for client in self._clients) - len(brief)
        for client in brief[: max(0, len(brief) + 1 - MAX_BRIEF)]:
            client.close()
        connection.setblocking(False)
        self._clients.append(Client(self, self._monitor, connection, is_brief=here >= MAX_CLIENTS))

    def sessions(self) -> list[launch.Child]:
        return [client.session for client in self._clients if client.session is not None]

    def ended(self, code: int | None) -> None:
        """The container is gone for good: answer who waits for that, and close."""
        self._loop.forget(self._listener.fileno())
        self._listener.close()
        for client in self._clients:
            client.ended(code)


class Client:
    """One connection: any number of requests one after the other. A brief one came when all places were
    taken: it may ask and stop, but start nothing that stays.
    """

    def __init__(
        self, control: Control, monitor: Monitor, connection: _socket.socket, *, is_brief: bool
    ) -> None:
        self._control, self._monitor, self._connection = control, monitor, connection
        self.is_brief = is_brief
        self._loop: Loop = monitor.loop
        self._stopping = self._attached = self.closed = False
        self.session: launch.Child | None = None
        self._words = ""  # of what it was to run
        self._loop.watch(connection.fileno(), self._receive)

    # -- packets

    def _receive(self) -> None:
        size = array.array("i").itemsize
        space = _socket.CMSG_SPACE(MAX_DESCRIPTORS * size)
        try:
            data, ancillary, _, _ = self._connection.recvmsg(
                messages.MAX_PACKET, space, _socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return
        except OSError:
            data, ancillary = b"", []
        if not data:
            self.close()
            return
        fds: list[int] = []
        for level, kind, content in ancillary:
            if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
                fds += array.array("i", content[: len(content) - len(content) % size])
        try:
            request = messages.decode(data)
            if request.get("in_file") and fds:
                request = _request_of(fds)
            answer = self._answer(request, fds)
        except (Refused, OSError, ValueError, TypeError, KeyError) as error:
            text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            answer = {"ok": False, "error": text}
        finally:
            for fd in fds:
                os.close(fd)
        if answer is not None:
            self._send(answer)

    def _send(self, message: Message) -> None:
        if self.closed:
            return
        try:
            self._connection.send(messages.encode(message))
        except OSError:
            self.close()

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._loop.forget(self._connection.fileno())
            self._connection.close()

    def ended(self, code: int | None) -> None:
        if self._stopping:
            self._send({"ok": True, "state": self._monitor.state()})
        elif self._attached:
            self._send({"event": "ended", "exit_code": code})
        if self.session is not None:  # killed with the container
            self._session_exited(wait=True)
        self.close()

    # -- requests

    def _answer(self, request: Message, fds: list[int]) -> Message | None:
        monitor, operation = self._monitor, request.get("op")
        if operation in ("ping", "state"):
            return {"ok": True, "state": monitor.state()}
        if operation == "stop":
            self._stop(request)
            return None
        if operation == "kill":
            child, number = self._child(), _signal(request)
            if number in (signal.SIGKILL, monitor.stop_signal()):
                monitor.thaw()
            child.signal(number)
            monitor.happened("kill", signal=number)
        elif operation == "signal":
            if self.session is None:
                raise Refused("cannot signal: no process was started on this connection")
            self.session.signal(_signal(request))
        elif operation == "start":
            monitor.start_now()
        elif operation == "adjust":
            monitor.adjust(request["supervise"])
        elif operation == "resize":
            self._streams().resize(int(request["rows"]), int(request["columns"]))
        elif operation in ("exec", "attach") and self.is_brief:
            raise Refused(f"cannot {operation}: {MAX_CLIENTS} clients are connected already")
        elif operation == "exec":
            return self._exec(request, fds)
        elif operation == "attach":
            return self._attach(request, fds)
        else:
            raise Refused(f"cannot do {operation!r}: unknown to this shim")
        return {"ok": True}

    def _stop(self, request: Message) -> None:
        """Answered by `ended`."""
        monitor = self._monitor
        number = _signal(request) if request.get("signal") else monitor.stop_signal()
        if monitor.child is not None:
            monitor.happened("kill", signal=number)
        timeout = request.get("timeout")
        self._stopping = True
        if timeout is None:
            timeout = monitor.document.get("stop_timeout", 10.0)
        monitor.stop(number, float(timeout))

    def _child(self) -> launch.Child:
        if self._monitor.child is None:
            raise Refused(f"cannot reach container: it is not running ({self._monitor.phase})")
        return self._monitor.child

    def _streams(self) -> Any:
        if self._monitor.streams is None:
            raise Refused(f"cannot reach container: it is not running ({self._monitor.phase})")
        return self._monitor.streams

    def _attach(self, request: Message, fds: list[int]) -> Message:
        """Output is read from the log by whoever attaches; what passes here is input."""
        streams = self._streams()
        if fds:
            streams.attach(fds.pop(), close_stdin=bool(request.get("close_stdin")))
        self._attached = True
        self._monitor.happened("attach")
        return {"ok": True, "tty": self._monitor.launcher.terminal}

    # -- exec sessions

    def _exec(self, request: Message, fds: list[int]) -> Message | None:
        """Answered when the program is exec'ed, or could not be."""
        if self.session is not None:
            raise Refused("cannot exec: this connection has a process already")
        if len(self._control.sessions()) >= MAX_SESSIONS:
            raise Refused(f"cannot exec: {MAX_SESSIONS} further processes run in the container already")
        if self._monitor.phase != supervise.RUNNING:  # before its exec, init is still half in the host
            raise Refused(f"cannot exec: the container is not running ({self._monitor.phase})")
        if self._monitor.is_paused():
            raise Refused("cannot exec: the container is paused; unpause it first")
        if any(os.fstat(fd).st_mode & _S_IFMT == _S_IFDIR for fd in fds):  # a way into the host's files
            raise Refused("cannot exec: a directory cannot be a stream")
        init, process = self._child(), dict(request["process"])
        null = -1
        try:
            if request.get("tty"):
                null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
                stdio, console = (null, null, null), fds[0]
            elif len(fds) == 3:
                stdio, console = (fds[0], fds[1], fds[2]), None
            else:
                raise Refused(f"cannot exec: 3 descriptors are needed, {len(fds)} came")
            process["terminal"] = bool(request.get("tty"))
            session = self._monitor.launcher.join(process, init.pidfd, stdio, console)
        finally:
            if null >= 0:
                os.close(null)
        self.session, self._words = session, " ".join(process["args"])[:MAX_WORDS]
        self._loop.watch(session.report, self._session_reported)
        self._loop.watch(session.pidfd, self._session_exited)
        return None

    def _session_reported(self) -> None:
        session = self.session
        if session is None or session.report < 0:
            return
        failure = launch.read_report(session)
        self._loop.forget(session.report)
        os.close(session.report)
        session.report = -1
        if failure is None:
            self._send({"ok": True, "pid": session.pid})
            for action in ("exec_create", "exec_start"):
                self._monitor.happened(f"{action}: {self._words}", execID=session.pid)
        else:
            self._words = ""
            self._send({"ok": False, "error": failure.message, "exit_code": failure.exit_code})

    def _session_exited(self, wait: bool = False) -> None:
        session = self.session
        if session is None:
            return
        if wait:
            session.signal(signal.SIGKILL)
            pidfd.wait(session.pidfd, END)
        code = launch.ended(self._loop, session, self._session_exited)
        if code is None:
            return
        self._session_reported()
        self._loop.forget(session.pidfd)
        if self._words:
            self._monitor.happened("exec_die", execID=session.pid, exitCode=code)
        session.close()
        self.session = None
        self._send({"event": "exited", "exit_code": code})


def _request_of(fds: list[int]) -> Message:
    """The request that is in the last file, which is taken from them. Refused, ValueError."""
    fd = fds.pop()
    try:
        found = os.fstat(fd)
        if found.st_mode & _S_IFMT != _S_IFREG:
            raise Refused("cannot read request: it is in no regular file")
        if found.st_size > messages.MAX_FILE:
            raise Refused(f"cannot read request: more than {messages.MAX_FILE} bytes")
        return messages.decode(os.pread(fd, found.st_size, 0))
    finally:
        os.close(fd)


def _signal(request: Message) -> int:
    return signals.number_of(request.get("signal") or "")
