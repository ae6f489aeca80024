"""Effects: containers that do nothing for a while, and go on afterwards however this process ends.

One that a person paused before, or meanwhile, does not go on (runtime.frozen).
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from runtime import frozen
from runtime.faults import faults
from runtime.linux.cgroups import Cgroups
from runtime.paths import Paths

#: Ends when its standard input does, and lets the cgroups go on: whoever froze them may have been killed.
_GUARD = """
import os, sys
os.read(0, 1)
for mark, name, text in zip(sys.argv[1::3], sys.argv[2::3], sys.argv[3::3]):
    if os.path.exists(mark):
        continue
    try:
        with open(name, "w") as file:
            file.write(text)
    except OSError:
        pass
"""


@contextmanager
def paused(cgroups: Cgroups, groups: Sequence[tuple[str, str]], paths: Paths) -> Iterator[None]:
    """No process of `groups`, (container, path of its cgroup), runs within the block. What is gone meanwhile
    does not run either. Fault kernel-error when one does not stop, or cannot be stopped here."""

    def go_on(path: str) -> None:
        if not frozen.is_paused(_live(paths, path)):
            cgroups.thaw(path)

    groups = [group for group in groups if not frozen.is_paused(_live(paths, group[1]))]
    with ExitStack() as stack:
        if groups:
            stack.enter_context(_guard(cgroups, [path for _, path in groups], paths))
        for name, path in groups:
            with faults("pause container", name):
                if not cgroups.exists(path):
                    continue
                stack.callback(go_on, path)
                cgroups.freeze(path)
                frozen.leave_trace(_live(paths, path))
        yield


def _live(paths: Paths, group: str) -> Path:
    """The last part of a container's cgroup is its id."""
    return paths.live(group.rpartition("/")[2])


@contextmanager
def _guard(cgroups: Cgroups, groups: Sequence[str], paths: Paths) -> Iterator[None]:
    """A process that thaws the cgroups when this one ends, however it ends."""
    words = []
    for path in groups:
        mark = str(_live(paths, path) / frozen.MARK)
        words += [word for pair in cgroups.thawing(path) for word in (mark, *pair)]
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
