"""Effects: a process in the foreground: its signals and its exit code; its terminal: runtime.oci.terminal."""

from __future__ import annotations

import _socket  # without the enums of `socket`

from runtime.linux import pidfd, signals
from runtime.oci.failure import OciFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.oci.terminal import Terminal
    from runtime.shim import launch

_SIGURG, _SIGWINCH, _SIGSYS = 23, 28, 31
_OWN = (signals.SIGCHLD, signals.SIGKILL, signals.SIGSTOP, signals.SIGPIPE, _SIGURG, _SIGWINCH)


def connect(path: str) -> _socket.socket:
    """The socket at which somebody waits for the terminal's master."""
    channel = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        channel.connect(path)
    except OSError as error:
        channel.close()
        raise OciFailure(f"cannot connect to console socket {path}: {error.strerror}") from None
    return channel


def wait(child: launch.Child, terminal: Terminal | None) -> int:
    """Its exit code, 128 + signal where it was killed. Signals that come meanwhile are its."""
    for number in range(1, _SIGSYS + 1):
        if number not in _OWN:
            signals.handle(number, lambda sent, _: child.signal(sent))
    if terminal is not None:
        terminal.relay(child)
    pidfd.wait(child.pidfd)
    code = pidfd.reap(child.pidfd)
    return 0 if code is None else code
