"""Effects: what the agent and the command line do with shims that there are: read their records, ask them.

Everything raises ShimError when a shim cannot do what is asked, or does not answer. Thread-safe.
"""

from __future__ import annotations

import _socket  # without the enums of `socket`, which each command would make
import array
import json
import os
import struct
import time
from pathlib import Path

from runtime.linux import pidfd
from runtime.linux.regular import open_regular, read_regular
from runtime.shim import messages
from runtime.shim.messages import ProbeResult, State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    Message = dict[str, Any]

__all__ = (
    "Attachment", "ProbeResult", "Session", "ShimError", "State", "adjust", "attach",
    "exec_process", "grace", "is_alive", "kill", "ping", "read_exit", "read_state", "start_now", "stop",
    "wait_free",
)  # fmt: skip

SOCKET = "shim.sock"
#: Seconds for an answer that needs no waiting, for a start, and beyond the grace period for a stop.
ANSWER, START, STOP = 10.0, 60.0, 30.0
#: Seconds in which a shim that nobody starts any more ends by itself.
PATIENCE = 2.0
#: Bytes of a state record, probe results included.
MAX_STATE = 1 << 20
_INT = array.array("i").itemsize


class ShimError(Exception):
    """`stage` says where it failed ("unreachable", "refused", or a stage of a start), `exit_code` is that of
    a failed start (125 to 127), else 125."""

    def __init__(self, stage: str, message: str, exit_code: int = 125) -> None:
        super().__init__(stage, message, exit_code)
        self.stage, self.message, self.exit_code = stage, message, exit_code

    def __str__(self) -> str:
        return self.message


# ---------------------------------------------------------------- records


def read_state(live_dir: Path | str) -> State | None:
    """What the container's shim last wrote; None when there is no (readable) record."""
    return _read(f"{live_dir}/state.json")


def read_exit(bundle_dir: Path | str) -> State | None:
    """How the container ended for good; None while it has not."""
    return _read(f"{bundle_dir}/exit.json")


def _read(path: str) -> State | None:
    try:
        fd = open_regular(path)
        try:
            return messages.state_from(messages.decode(os.read(fd, min(os.fstat(fd).st_size, MAX_STATE))))
        finally:
            os.close(fd)
    except (OSError, ValueError, TypeError):
        return None


def is_alive(state: State) -> bool:
    """Whether the shim that wrote the record still runs: its pid and its start time."""
    return state.shim_pid > 0 and pidfd.is_alive(state.shim_pid, state.shim_start)


def wait_free(bundle_dir: Path | str) -> None:
    """Until no shim has the bundle: one whose agent died before its start ends by itself, whether it has a
    record already or not, and is killed if it does not. Not for a bundle whose shim is to live. ShimError."""
    try:
        lock = os.open(f"{bundle_dir}/{messages.LOCK}", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    begun = time.monotonic()
    try:
        while not _is_free(lock):
            late = time.monotonic() - begun
            if late > ANSWER:
                raise ShimError("unreachable", f"a supervisor of {bundle_dir} does not end")
            if late > PATIENCE and (holder := _holder(lock)):
                pidfd.kill(*holder, 9)
            time.sleep(0.002)  # flock(2) has no time limit
    finally:
        os.close(lock)


def _is_free(lock: int) -> bool:
    """Nobody has it, and who had it last has ended: a keeper does so a moment after its starter."""
    import fcntl

    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    holder = _holder(lock)
    return holder is None or not pidfd.is_alive(*holder)


def _holder(lock: int) -> tuple[int, int] | None:
    """The pid and the start time that a shim has written into its lock."""
    words = os.pread(lock, 32, 0).split()
    return (int(words[0]), int(words[1])) if len(words) == 2 else None


# ---------------------------------------------------------------- requests


class _Connection:
    """One connection to a shim."""

    def __init__(self, live_dir: Path) -> None:
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        try:
            fd = os.open(live_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:  # sun_path holds 108 bytes: unix(7)
                self._socket.connect(f"/proc/self/fd/{fd}/{SOCKET}")
            finally:
                os.close(fd)
        except OSError as error:
            self._socket.close()
            text = f"cannot reach supervisor in {live_dir}: {error.strerror or error}".lower()
            raise ShimError("unreachable", text) from error

    def send(self, message: Mapping[str, Any], descriptors: Sequence[int] = ()) -> None:
        data, file = messages.encode(message), -1
        try:
            if len(data) > messages.BULKY:
                file = _file_of(data)
                data, descriptors = messages.encode({"in_file": True}), [*descriptors, file]
            ancillary = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array.array("i", descriptors))]
            self._socket.sendmsg([data], ancillary if descriptors else [])
        except OSError as error:
            raise ShimError("unreachable", f"cannot ask supervisor: {error.strerror}".lower()) from error
        finally:
            if file >= 0:
                os.close(file)

    def receive(self, timeout: float | None) -> Message:
        """The next packet. ShimError when the shim hung up or says nothing in time."""
        self._socket.settimeout(timeout)
        try:
            data = self._socket.recv(messages.MAX_PACKET)
        except TimeoutError:
            raise ShimError("unreachable", f"cannot ask supervisor: no answer within {timeout:g} s") from None
        except OSError as error:
            raise ShimError("unreachable", f"cannot ask supervisor: {error.strerror}".lower()) from error
        if not data:
            raise ShimError("unreachable", "cannot ask supervisor: it hung up")
        return messages.decode(data)

    def ask(
        self, message: Mapping[str, Any], descriptors: Sequence[int] = (), timeout: float | None = ANSWER
    ) -> Message:
        self.send(message, descriptors)
        answer = self.receive(timeout)
        if not answer.get("ok"):
            text = str(answer.get("error") or "refused")
            raise ShimError("refused", text, int(answer.get("exit_code") or 125))
        return answer

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> _Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _file_of(data: bytes) -> int:
    """A descriptor of a file without a name. OSError."""
    fd = os.memfd_create("request", os.MFD_CLOEXEC)
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    return fd


def _ask(live_dir: Path, message: Mapping[str, Any]) -> Message:
    with _Connection(live_dir) as connection:
        return connection.ask(message)


def ping(live_dir: Path) -> State:
    """The state as the living shim has it."""
    return messages.state_from(_ask(live_dir, {"op": "ping"})["state"])


def stop(live_dir: Path, *, signal: str = "", timeout: float | None = None, clears: bool = False) -> None:
    """Stop signal, grace period (both the container's own unless given), SIGKILL; returns when container and
    shim have ended. No error when they have already. What a killed shim left running is killed, unless the
    caller `clears`: does that next."""
    state = read_state(live_dir)
    if state is None:
        return
    if is_alive(state):
        try:
            _stop(live_dir, state, signal, timeout)
        except ShimError:
            if is_alive(state) and _reachable(live_dir):
                raise
        if is_alive(state):  # its socket was deleted: SIGTERM is a stop as well
            pidfd.kill(state.shim_pid, state.shim_start, 15)
            _wait(state, (grace(state) if timeout is None else timeout) + STOP)
    if state.cgroup and not clears:
        from runtime.linux import cgroups

        host = cgroups.detect()
        if host.exists(state.cgroup) and host.pids(state.cgroup):
            host.kill(state.cgroup)


def _stop(live_dir: Path, state: State, signal: str, timeout: float | None) -> None:
    request: Message = {"op": "stop", "signal": signal}
    if timeout is not None:
        request["timeout"] = timeout
    limit = (grace(state) if timeout is None else timeout) + STOP
    with _Connection(live_dir) as connection:
        connection.ask(request, timeout=limit)
    _wait(state, STOP)


def grace(state: State) -> float:
    """Seconds that the container is given between its stop signal and SIGKILL."""
    try:
        document = json.loads(read_regular(f"{state.bundle}/supervise.json"))
        return float(document["stop_timeout"])
    except (OSError, ValueError, KeyError):
        return 10.0


def _reachable(live_dir: Path) -> bool:
    try:
        ping(live_dir)
    except ShimError:
        return False
    return True


def wait_gone(state: State) -> None:
    """Until a shim whose container has ended is gone, too: it has its last word to write. ShimError."""
    _wait(state, STOP)


def _wait(state: State, timeout: float) -> None:
    """Until the shim is gone."""
    end = time.monotonic() + timeout
    try:
        fd = pidfd.open_pidfd(state.shim_pid)
    except OSError:
        return
    try:
        while is_alive(state):
            if time.monotonic() >= end:
                raise ShimError("timeout", f"cannot stop {state.name}: it did not end within {timeout:g} s")
            pidfd.wait(fd, 0.5)
    finally:
        os.close(fd)


def kill(live_dir: Path, signal: str) -> None:
    """Send a signal to the container's first process. The restart policy takes it like any other end."""
    _ask(live_dir, {"op": "kill", "signal": signal})


def start_now(live_dir: Path) -> None:
    """End a backoff early: what was missing has been mended. Harmless when there is none."""
    _ask(live_dir, {"op": "start"})


def adjust(live_dir: Path, supervise: Mapping[str, Any]) -> None:
    """Restart policy, probe, stop signal and timeout, log limits: messages.ADJUSTABLE, from now on."""
    _ask(live_dir, {"op": "adjust", "supervise": dict(supervise)})


# ---------------------------------------------------------------- sessions


class Session:
    """A process that was started in a container. `master` is the terminal's descriptor for reading and
    writing, -1 without a terminal. To be closed."""

    def __init__(self, connection: _Connection, pid: int, master: int) -> None:
        self._connection, self.pid, self.master = connection, pid, master
        self._exit_code: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code; 137 when the container ended with it."""
        if self._exit_code is None:
            try:
                while (message := self._connection.receive(timeout)).get("event") != "exited":
                    pass
                self._exit_code = int(message["exit_code"])
            except ShimError as error:
                if "hung up" not in error.message:
                    raise
                self._exit_code = 137
        return self._exit_code

    def signal(self, name: str) -> None:
        self._connection.send({"op": "signal", "signal": name})

    def resize(self, rows: int, columns: int) -> None:
        """Harmless without a terminal."""
        if self.master >= 0:
            import fcntl
            import termios

            fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def fileno(self) -> int:
        """Readable when `wait` will not block."""
        return self._connection._socket.fileno()

    def close(self) -> None:
        """The process lives on. Repeatable."""
        self._connection.close()
        if self.master >= 0:
            os.close(self.master)
            self.master = -1

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def exec_process(
    live_dir: Path, process: Mapping[str, Any], *, stdio: tuple[int, int, int] = (0, 1, 2), tty: bool = False
) -> Session:
    """Start `process` (an OCI process object) in a running container. Without `tty` it has the three
    descriptors; with it, a terminal of the container whose master is in the Session. ShimError with exit code
    126 or 127 when the program cannot be run."""
    request = {"op": "exec", "process": dict(process), "tty": tty}
    connection = _Connection(live_dir)
    try:
        if not tty:
            answer = connection.ask(request, stdio, START)
            return Session(connection, int(answer["pid"]), -1)
        ours, theirs = _socket.socketpair()
        try:
            answer = connection.ask(request, [theirs.fileno()], START)
            theirs.close()
            return Session(connection, int(answer["pid"]), _receive_descriptor(ours))
        finally:
            theirs.close()
            ours.close()
    except BaseException:
        connection.close()
        raise


def _receive_descriptor(source: _socket.socket) -> int:
    source.settimeout(ANSWER)
    _, ancillary, _, _ = source.recvmsg(4096, _socket.CMSG_SPACE(_INT), _socket.MSG_CMSG_CLOEXEC)
    for level, kind, data in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            return int(array.array("i", data[:_INT])[0])
    raise ShimError("console", "cannot exec: no terminal came")


class Attachment:
    """A running container's input, and word of its end; its output is read by runtime.logs (raw=True,
    follow). `stdin` is a descriptor to write to, -1 when no input was asked for. To be closed."""

    def __init__(self, live_dir: Path, connection: _Connection, stdin: int, tty: bool) -> None:
        self._live_dir, self._connection, self.stdin, self.tty = live_dir, connection, stdin, tty

    def wait(self, timeout: float | None = None) -> int | None:
        """The exit code when the container has ended for good."""
        while (message := self._connection.receive(timeout)).get("event") != "ended":
            pass
        code = message["exit_code"]
        return None if code is None else int(code)

    def fileno(self) -> int:
        return self._connection._socket.fileno()

    def resize(self, rows: int, columns: int) -> None:
        _ask(self._live_dir, {"op": "resize", "rows": rows, "columns": columns})

    def close_stdin(self) -> None:
        if self.stdin >= 0:
            os.close(self.stdin)
            self.stdin = -1

    def close(self) -> None:
        self.close_stdin()
        self._connection.close()

    def __enter__(self) -> Attachment:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def attach(live_dir: Path, *, stdin: bool = True, close_stdin: bool = False) -> Attachment:
    """Attach to a running container. `close_stdin`: the end of our input is the end of the container's."""
    connection = _Connection(live_dir)
    reader, writer = os.pipe2(os.O_CLOEXEC) if stdin else (-1, -1)
    try:
        request = {"op": "attach", "close_stdin": close_stdin}
        answer = connection.ask(request, [reader] if stdin else [])
    except BaseException:
        connection.close()
        if writer >= 0:
            os.close(writer)
        raise
    finally:
        if reader >= 0:
            os.close(reader)
    return Attachment(live_dir, connection, writer, bool(answer.get("tty")))
