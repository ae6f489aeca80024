"""Effects: this process's terminal while it belongs to a program in a container: raw, resized, given back."""

from __future__ import annotations

import os
import signal
import termios
import tty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Raw:
    """Raw mode until the end of the context, whatever ends it. `resize(rows, columns)` is called at once, and
    after each change of the window. Stopped from outside (kill -TSTP) it is given back meanwhile:
    termios(3)."""

    def __init__(self, resize: Callable[[int, int], None], *, stdin: bool = True) -> None:
        self._resize, self._stdin = resize, stdin
        self._before: list[Any] | None = None

    def __enter__(self) -> Raw:
        if self._stdin:
            self._before = termios.tcgetattr(0)
            tty.setraw(0, termios.TCSANOW)
            signal.signal(signal.SIGTSTP, self._stopped)
            if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:  # it is nobody else's
                signal.signal(signal.SIGTERM, _ended)
        signal.signal(signal.SIGWINCH, self._changed)
        self._changed()
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGWINCH, signal.SIG_DFL)
        if self._before is not None:
            signal.signal(signal.SIGTSTP, signal.SIG_DFL)
            if signal.getsignal(signal.SIGTERM) == _ended:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
            termios.tcsetattr(0, termios.TCSADRAIN, self._before)

    def _changed(self, *_: object) -> None:
        try:
            size = os.get_terminal_size(1 if os.isatty(1) else 0)
            self._resize(size.lines, size.columns)
        except OSError:  # no window, or the program is gone: then that is seen elsewhere
            pass

    def _stopped(self, *_: object) -> None:
        assert self._before is not None
        termios.tcsetattr(0, termios.TCSADRAIN, self._before)
        os.kill(os.getpid(), signal.SIGSTOP)
        tty.setraw(0, termios.TCSANOW)  # we go on
        self._changed()


def _ended(*_: object) -> None:
    """The terminal is given back on the way out."""
    raise SystemExit(128 + signal.SIGTERM)
