"""Effects: the process that forks shims. Started by the agent as `python -I -S -OO zygote.py`, standard
library only.

It has imported what a shim needs, once, and is single-threaded, so that a fork is cheap and safe; the agent
is neither. Requests come on the SEQPACKET socket that is its standard input, one packet a shim:
{"v":1,"op":"spawn","bundle":DIR,"live":DIR}, or "keep" for a shim that will have little to do
(runtime.shim.keeper), with one descriptor: a SEQPACKET socket on which that shim waits for messages.GO before
it reads the bundle, and then answers itself how its first start went; it ends where that socket ends before.
With "cgroup" and "early" in the request (runtime.shim.early) it forks the container's first process when
messages.GROUND comes. Any number may be under way. It ends when its client does (end of file on the socket);
the shims belong to init then and live on. They are born in its cgroup, which is for shims alone.

What it does for shims to share its memory is told in runtime/shim/sharing.py.
"""

from __future__ import annotations

import array  # noqa: F401
import contextlib  # noqa: F401  imported here so that it lies apart from our own modules
import ctypes  # noqa: F401
import errno  # noqa: F401
import fcntl  # noqa: F401
import functools  # noqa: F401
import gc
import json  # noqa: F401
import os
import pathlib  # noqa: F401
import select  # noqa: F401
import signal  # noqa: F401
import socket
import struct  # noqa: F401
import sys
import termios  # noqa: F401
import time  # noqa: F401


def main() -> int:
    """Serve until the client is gone."""
    control = socket.socket(fileno=0)
    os.closerange(3, 1024)  # the interpreter's own file, see lean.py
    os.chdir("/")
    os.umask(0o077)
    from runtime.shim import sharing

    gc.collect()
    kept = [sharing.fill_holes()]
    from runtime.shim import spawning

    host = spawning.prepare()
    gc.collect()
    kept.append(sharing.fill_holes())
    sharing.make_immortal()
    gc.disable()
    gc.freeze()
    spawning.rehearse()
    spawning.serve(control, host)
    return 0


if __name__ == "__main__":
    # -I leaves out the directory that our packages are in
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    sys.exit(main())
