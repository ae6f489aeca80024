"""Effects: output that a program wrote and its shim, which was killed, had not taken yet.

It is still in the program's pipes, as long as the program lives: its ends can be read, too (see
runtime.shim.streams), so that nobody got SIGPIPE when the shim was gone. Whoever ends the program empties
them first.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from runtime.inside import same_process
from runtime.shim import client
from runtime.shim.logs import LogWriter
from runtime.shim.messages import STDERR, STDOUT

#: Turns at one pipe, each of up to a MiB: the largest that a pipe is made.
TURNS = 2


def salvage(live: Path, home: Path) -> None:
    """Into the log, if the container's first process lives and its shim does not. Never fails: what cannot be
    read is lost with the program."""
    state = client.read_state(live)
    if state is None or client.is_alive(state) or not same_process(state.pid, state.pid_start):
        return
    try:
        document = json.loads((home / "supervise.json").read_bytes())
        sizes = int(document["log_max_size"]), int(document["log_max_files"])
        nothing = (document.get("log") or {}).get("driver") == "none"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return
    if nothing:
        return
    log = LogWriter(str(home / "log"), *sizes)
    try:
        for number, stream in ((1, STDOUT), (2, STDERR)):
            _empty(f"/proc/{state.pid}/fd/{number}", stream, log)
    finally:
        log.close()


def _empty(path: str, stream: int, log: LogWriter) -> None:
    try:
        if not os.readlink(path).startswith("pipe:"):
            return
        pipe = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return
    try:
        for _ in range(TURNS):
            if not log.splice(pipe, stream):
                break
    except OSError:
        pass
    finally:
        os.close(pipe)
