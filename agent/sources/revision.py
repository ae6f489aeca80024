"""Values: what a source yields. A revision is a whole, consistent set of files with a name."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

#: limits of one revision; more is refused, since specs are written by people
MAX_FILES = 20_000
MAX_FILE_BYTES = 1 << 20
MAX_TOTAL_BYTES = 64 << 20
MAX_DEPTH = 32

#: files that specs are made of or may refer to (env_file, seccomp); nothing else is read or watched
_SUFFIXES = (
    ".toml",
    ".yaml",
    ".yml",
    ".env",
    ".txt",
    ".conf",
    ".cfg",
    ".properties",
    ".vars",
    ".list",
    ".age",
)


@dataclass(frozen=True, slots=True)
class Revision:
    """`files` maps paths relative to the source's root to bytes. `root` is where they lie on disk, `tree`
    where they stay as they are in this revision (empty: `root`): what is mounted is of `root`, what is built
    of `tree`."""

    id: str  # commit id, or a hash of the files
    note: str  # for people
    files: Mapping[str, bytes]
    root: str
    tree: str = ""
    secrets: Mapping[str, str] = field(default_factory=dict)  # digests, once it was taken


@dataclass(frozen=True, slots=True)
class Touched:
    """Files that are no specs changed, of a directory that images are built from."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The source could not be read: "cannot <verb> <thing>: <cause>". What was in force stays in force."""

    text: str


Yield = Revision | Failure | Touched


def relevant(path: str) -> bool:
    """Whether a file can matter to specs, by its relative path. Hidden directories never do."""
    *parents, name = path.split("/")
    if any(parent.startswith(".") for parent in parents) or len(parents) > MAX_DEPTH:
        return False
    lower = name.lower()
    if name == ".steadignore" or lower.startswith(".env"):
        return not lower.endswith(("~", ".swp", ".swx", ".tmp"))
    if name.startswith((".", "#")) or name.endswith("~"):
        return False
    if lower.endswith(".json"):
        return "seccomp" in path.lower()
    return lower.endswith(_SUFFIXES) or lower in ("env", "environment")


def digest(files: Mapping[str, bytes]) -> str:
    """A hash of names and contents: 16 hexadecimal digits."""
    total = hashlib.sha256()
    for name in sorted(files):
        content = files[name]
        named = os.fsencode(name)
        total.update(b"%d %d %s" % (len(named), len(content), named))
        total.update(content)
    return total.hexdigest()[:16]
