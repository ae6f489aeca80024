"""Effects: containers that do nothing for a while, and go on afterwards however this process ends."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from runtime.faults import faults
from runtime.linux.cgroups import Cgroups

#: Ends when its standard input does, and lets the cgroups go on: whoever froze them may have been killed.
_GUARD = """
import os, sys
os.read(0, 1)
for name, text in zip(sys.argv[1::2], sys.argv[2::2]):
    try:
        with open(name, "w") as file:
            file.write(text)
    except OSError:
        pass
"""


@contextmanager
def paused(cgroups: Cgroups, groups: Sequence[tuple[str, str]]) -> Iterator[None]:
    """No process of `groups`, (container, path of its cgroup), runs within the block. What is gone meanwhile
    does not run either. Fault kernel-error when one does not stop, or cannot be stopped here."""
    with ExitStack() as stack:
        if groups:
            stack.enter_context(_guard(cgroups, [path for _, path in groups]))
        for name, path in groups:
            with faults("pause container", name):
                if not cgroups.exists(path):
                    continue
                stack.callback(cgroups.thaw, path)
                cgroups.freeze(path)
        yield


@contextmanager
def _guard(cgroups: Cgroups, paths: Sequence[str]) -> Iterator[None]:
    """A process that thaws the cgroups when this one ends, however it ends."""
    words = [word for path in paths for pair in cgroups.thawing(path) for word in pair]
    guard = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _GUARD, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env={},
        start_new_session=True,
    )
    try:
        yield
    finally:
        assert guard.stdin is not None
        guard.stdin.close()
        guard.wait()
