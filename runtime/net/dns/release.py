"""Effects: which name server this is, so that a newer one takes over from one that runs."""

from __future__ import annotations

import os

from runtime.net.dns import documents

#: Besides the files beside this one, from the directory `runtime`: what the server is made of.
OTHERS = ("net/names.py", "net/resolvconf.py", "shim/loop.py", "linux/inotify.py")

_found: documents.Release | None = None


def release() -> documents.Release:
    """Of the code beside this file, as it was when this was called first."""
    global _found
    if _found is None:
        _found = documents.Release(documents.VERSION, _written(os.path.dirname(os.path.abspath(__file__))))
    return _found


def _written(here: str) -> int:
    """When the newest file was: whoever installs another release writes its files later."""
    top = os.path.dirname(os.path.dirname(here))
    with os.scandir(here) as entries:
        paths = [entry.path for entry in entries if entry.name.endswith(".py")]
    return max(os.stat(path).st_mtime_ns for path in paths + [f"{top}/{name}" for name in OTHERS])
