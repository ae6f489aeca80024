"""Effects: output that a program wrote and its shim, which was killed, had not taken yet.

It is still in the pipes, which another process holds, too (runtime.shim.holder). Whoever clears up after the
shim empties them into the log first.
"""

from __future__ import annotations

import json
from pathlib import Path

from runtime.linux.regular import read_regular
from runtime.paths import Paths
from runtime.shim import client, rescue
from runtime.shim.logs import LogWriter


def salvage(paths: Paths, id: str) -> None:
    """Into the log, if the container's shim was killed; to be called when nobody writes any more. What cannot
    be read is lost, and no reason to fail."""
    state, home = client.read_state(paths.live(id)), paths.container(id)
    if state is None or client.is_alive(state) or client.read_exit(home) is not None:
        return
    log = _log_of(home)
    if log is None:
        return
    try:
        rescue.into(log, str(paths.run), id)
    except OSError:
        pass
    finally:
        log.close()


def _log_of(home: Path) -> LogWriter | None:
    """None where no output is kept."""
    try:
        document = json.loads(read_regular(home / "supervise.json"))
        if (document.get("log") or {}).get("driver") == "none":
            return None
        return LogWriter(f"{home}/log", int(document["log_max_size"]), int(document["log_max_files"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
