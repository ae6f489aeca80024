"""Trees that are deeper than paths are long."""

from __future__ import annotations

import os
from pathlib import Path


def dig(top: Path, depth: int, name: str = "deep") -> None:
    """A chain of directories, each with a file of three bytes in it, but for the first one."""
    fd = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = below
        file = os.open("file", os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=fd)
        os.write(file, b"abc")
        os.close(file)
    os.close(fd)
