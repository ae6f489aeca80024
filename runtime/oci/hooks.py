"""Effects: the hooks of a container: programs that are told its state on their standard input.

OCI runtime-spec, config.md (hooks), runtime.md (lifecycle).
"""

from __future__ import annotations

import os
import select

from runtime.linux import jsontext, pidfd, signals
from runtime.oci.failure import OciFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

KINDS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
#: Bytes of what a failed hook said that become part of the message.
_SAID = 4096


def run(kind: str, hooks: Sequence[dict[str, Any]], state: dict[str, Any]) -> None:
    """In their order; OciFailure at the first that fails or does not end in time."""
    for problem in _problems(kind, hooks, state):
        raise OciFailure(problem)


def run_all(
    kind: str, hooks: Sequence[dict[str, Any]], state: dict[str, Any], warn: Callable[[str], None]
) -> None:
    """In their order, each of them: life goes on as if none had failed."""
    for problem in _problems(kind, hooks, state):
        warn(problem)


def _problems(kind: str, hooks: Sequence[dict[str, Any]], state: dict[str, Any]) -> Iterator[str]:
    data = jsontext.encode(state)
    for at, hook in enumerate(hooks):
        problem = _run(hook, data)
        if problem:
            yield f"error running {kind} hook #{at} ({hook['path']}): {problem}"


def _run(hook: dict[str, Any], data: bytes) -> str:
    """Why it failed; empty when it did not."""
    theirs, ours = os.pipe2(os.O_CLOEXEC)
    said = os.memfd_create("hook", os.MFD_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        _become(hook, theirs, said)
    handle = pidfd.open_pidfd(pid)
    os.close(theirs)
    try:
        _feed(ours, data)
        timeout = hook.get("timeout")
        if not pidfd.wait(handle, float(timeout) if timeout else None):
            pidfd.send_signal(handle, signals.SIGKILL)
            pidfd.wait(handle)
            pidfd.reap(handle)
            return f"it did not end within its timeout of {timeout} s"
        code = pidfd.reap(handle)
        if not code:
            return ""
        text = os.pread(said, _SAID, 0).decode(errors="replace").strip()
        how = f"killed by signal {code - 128}" if code > 128 else f"exit status {code}"
        return f"{how}{', it said: ' if text else ''}{text}"
    finally:
        os.close(handle)
        os.close(said)


def _feed(fd: int, data: bytes) -> None:
    """A hook that reads nothing is none that failed."""
    os.set_blocking(fd, False)
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    try:
        while data:
            poll.poll()
            data = data[os.write(fd, data) :]
    except BrokenPipeError:
        pass
    finally:
        os.close(fd)


def _become(hook: dict[str, Any], stdin: int, output: int) -> None:
    try:
        os.setsid()
        os.dup2(stdin, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        signals.default_all()
        path = str(hook["path"])
        words = [str(word) for word in hook.get("args") or (path,)]
        environment = dict(str(entry).partition("=")[::2] for entry in hook.get("env") or ())
        os.execve(path, words, environment)
    except BaseException as error:
        os.write(2, f"cannot run it: {error}".encode())
    finally:
        os._exit(127)
