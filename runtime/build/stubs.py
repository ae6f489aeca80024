"""Effects: places for mounts that the image lacks, without a trace of them in the layer.

What is mounted into a step (/proc, /etc/hosts, a secret) needs a file or directory to be mounted on. Those
that the layers below do not have are made in a layer of their own, which lies between them and the step's
changes while the step runs, and nowhere afterwards: what the step itself changes is all that its layer has.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from runtime.build import places
from runtime.build.workspace import Workspace
from runtime.linux import openat2

#: (destination, whether it is a directory)
Destination = tuple[str, bool]


def missing(base: int, wanted: Sequence[Destination]) -> list[Destination]:
    """Those that are not there, or not of their kind. What is below another one is that one's matter."""
    found: list[Destination] = []
    places_taken = sorted(path.rstrip("/") for path, _ in wanted)
    for path, is_dir in wanted:
        clean = path.rstrip("/")
        if any(clean.startswith(f"{other}/") for other in places_taken if other):
            continue
        try:
            fd = openat2.open_in_root(base, path, os.O_PATH)
        except (FileNotFoundError, NotADirectoryError):
            found.append((path, is_dir))
        else:
            os.close(fd)
    return found


def make(work: Workspace, chain: Sequence[str], wanted: Sequence[Destination]) -> Path:
    """A directory that has `wanted`, to lie over `chain`. What exists below looks as before, times
    included."""
    with work.draft(chain) as draft:
        for path, is_dir in wanted:
            os.close(openat2.make_target(draft.root, path, directory=is_dir))
        _restore(draft.upper, work.base(chain), "")
        return draft.upper


def _restore(upper: Path, base: int, path: str) -> None:
    """Directories that were changed by what was made in them get their times back, the outer ones last."""
    with os.scandir(upper) as entries:
        inner = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    for name in inner:
        _restore(upper / name, base, f"{path}/{name}" if path else name)
    before = places.status(base, path)
    if before is not None and stat.S_ISDIR(before.st_mode):
        os.utime(upper, ns=(before.st_atime_ns, before.st_mtime_ns))
