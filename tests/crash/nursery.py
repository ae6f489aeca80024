"""Effects: a process that has imported the command `stead` once and forks for each call of it.

A line of JSON on standard input is one call: {"words": [...], "out": FILE, "place": PLACE or null}; the
answer is a line with its status as waitpid(2) has it. A place arms a bomb (tests.crash.bomb); an empty one
writes the places that the call passed to FILE.places. An import costs half a second; a loop over a hundred
crashes would be made of nothing else.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import sys
from pathlib import Path

from runtime.linux import libc
from tests.crash.bomb import Bomb

PRELOADED = (
    *(f"agent.cli.{name}" for name in ("apply", "down", "plan", "ps", "image")),
    *(f"agent.{name}" for name in ("converge", "machine", "journal", "lock")),
    "specs.resolve",
    "runtime.local",
)


def child(words: list[str], out: str, place: str | None) -> int:
    """The code of the call; only for a forked process."""
    from agent.cli.main import main

    libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: it ends with us
    fd = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    null = os.open("/dev/null", os.O_RDONLY)
    for source, target in ((null, 0), (fd, 1), (fd, 2)):
        os.dup2(source, target)
    os.close(fd)
    os.close(null)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    bomb = None
    if place is not None:
        bomb = Bomb(place, Path(f"{out}.survivors"))
        bomb.arm()
    try:
        code = main(words)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    sys.stdout.flush()
    sys.stderr.flush()
    if bomb is not None:
        sys.setprofile(None)
        Path(f"{out}.places").write_text(json.dumps(bomb.seen))
    return code


def serve() -> None:
    for name in PRELOADED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    print("ready", flush=True)
    for line in sys.stdin:
        call = json.loads(line)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                code = child(call["words"], call["out"], call["place"])
            finally:
                os._exit(code)
        print(os.waitpid(pid, 0)[1], flush=True)


if __name__ == "__main__":
    serve()
