"""Effects: a command asks whoever holds the root to do something: the agent on its socket, else this process.

Standard library only, and little of it: the answer of an agent is a tenth of a second less than opening the
runtime here. The request is written by hand, as http.client would import the code for e-mail and TLS, and
`socket` itself would make enums of all that the kernel knows, which takes as long as an answer.
"""

from __future__ import annotations

import _socket
import json
import os
import time

from agent.cli.main import Problem, need_root
from runtime.faults import Fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from runtime.paths import Paths

#: seconds that an agent which holds the root may take until it listens, or another command until it is done
PATIENCE = 30.0
_AGAIN = 0.02
#: what may be asked again where the agent ended before it answered
_REPEATABLE = frozenset({"start", "stop", "restart", "discard", "pause", "unpause"})
#: bytes of an answer
_MOST = 64 * 1024 * 1024


class _Unanswered(Exception):
    """The agent ended, or said half of something."""


def call(paths: Paths, op: str, /, *, meanwhile: Callable[[], None] | None = None, **args: Any) -> Any:
    """What operation `op` (agent.calls) returns. Its Fault is raised here, whoever did it.

    `meanwhile` is done while an agent works, and not at all where none does. It is no thread's: two threads
    that import modules of one circle see half of each other's.

    Raises Problem where neither an agent answers nor this process may do it.
    """
    try:
        body = json.dumps({"op": op, "args": args}, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        wrong = error.object[error.start : error.end].encode(errors="surrogateescape")
        raise Problem(f"cannot {op}: what it is told has bytes that are no UTF-8: {wrong!r}") from None
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            answer = _ask(paths, op, body, meanwhile)
        except _Unanswered as error:
            what = args.get("op") if op == "each" else op
            if what not in _REPEATABLE or time.monotonic() > deadline:
                raise Problem(f"cannot {what}: the agent did not answer ({error})") from error
            time.sleep(_AGAIN)
            continue
        if answer is None:
            need_root()
            try:
                return _here(paths, op, args)
            except Fault as fault:
                if (fault.code, fault.operation) != ("locked", "lock") or time.monotonic() > deadline:
                    raise
            time.sleep(_AGAIN)  # its holder begins to listen, or ends
            continue
        if refused := answer.get("fault"):
            raise Fault(**refused)
        return answer["result"]


def _here(paths: Paths, op: str, args: dict[str, Any]) -> Any:
    """Without an agent: the same function, under the lock that an agent would hold."""
    from contextlib import closing

    from agent import calls
    from agent.lock import hold
    from agent.machine import open_runtime
    from agent.settings import SettingsError, load

    try:
        settings = load()
    except SettingsError as error:
        raise Problem("\n".join(error.problems)) from error
    with hold(paths, "command"), closing(open_runtime(paths, settings)) as runtime:
        return calls.perform(runtime, op, args)


def _ask(
    paths: Paths, op: str, body: bytes, meanwhile: Callable[[], None] | None = None
) -> dict[str, Any] | None:
    """The agent's answer to a request of this body; None where none listens. Raises _Unanswered where it
    ended before it answered: what it did is not known."""
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        if not _connect(sock, paths):
            return None
        lines = ("POST /v1/call HTTP/1.1", "host: agent", "connection: close", f"content-length: {len(body)}")
        head = "\r\n".join((*lines, "", ""))
        try:
            sock.sendall(head.encode() + body)
            if meanwhile is not None:
                meanwhile()
            status, data = _answer(sock)
        except (OSError, ValueError) as error:
            raise _Unanswered(str(error)) from error
    finally:
        sock.close()
    if status == 400:
        raise Problem(f"cannot {op}: the agent {data.decode(errors='replace')}")
    if status != 200:
        raise Problem(f"cannot {op}: the agent answered {status}: is it of an older release?")
    found: dict[str, Any] = json.loads(data)
    return found


def _connect(sock: _socket.socket, paths: Paths) -> bool:
    """By way of the directory's descriptor, however long its path is (unix(7): 108 bytes)."""
    try:
        directory = os.open(paths.run, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        sock.connect(f"/proc/self/fd/{directory}/{paths.agent_socket.name}")
    except (FileNotFoundError, ConnectionRefusedError):
        return False
    except PermissionError:
        raise Problem("this needs root, or the group that listen.group names") from None
    finally:
        os.close(directory)
    return True


def _answer(sock: _socket.socket) -> tuple[int, bytes]:
    """Status and body; the agent closes the connection after it. ValueError for half an answer."""
    data = bytearray()
    while chunk := sock.recv(65536):
        data += chunk
        if len(data) > _MOST:
            raise ValueError("too long")
    head, _, body = bytes(data).partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    words = lines[0].split()
    if len(words) < 2 or not words[0].startswith(b"HTTP/1."):
        raise ValueError("it ended")
    for line in lines[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length" and int(value) != len(body):
            raise ValueError("it ended")
    return int(words[1]), body
