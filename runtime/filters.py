"""Effects: compiled system call filters under `run/seccomp`, one for each set of capabilities, compiled
once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from runtime.linux import seccomp
from runtime.paths import write_atomically


def filter_file(run: Path, granted: Iterable[str]) -> Path:
    """The default filter for a container that has these capabilities. Repeatable."""
    names = tuple(sorted(set(granted)))
    path = run / "seccomp" / f"{hashlib.sha256(' '.join(names).encode()).hexdigest()[:16]}.bpf"
    if not path.exists():
        path.parent.mkdir(mode=0o700, exist_ok=True)
        write_atomically(path, seccomp.compile_default(names), durable=False)
    return path
