"""Decisions: where `cp` puts what it copies, by the rules of docker (and of tar archives).

SOURCE a file:       DESTINATION is not there      it becomes a file of that name; its directory must be there
                     ... and ends with `/`         refused: there is no such directory
                     is a file                     replaced
                     is a directory                the file goes into it, with its own name
SOURCE a directory:  DESTINATION is not there      made, with the content of SOURCE
                     is a file                     refused
                     is a directory                SOURCE goes into it; with `/.` at its end, its content does

A link at the end of SOURCE is copied as a link, unless -L or a `/` says to follow it. A link at the end of
DESTINATION is always followed, also one that leads to nothing yet.
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass


class Refused(Exception):
    """What was asked for makes no sense; the text says why, for people."""


@dataclass(frozen=True, slots=True)
class Found:
    """What is at a path. `path` is absolute within its root, with links at its end followed where they were
    to be; `target` is where an unfollowed link leads to."""

    path: str
    exists: bool = False
    directory: bool = False
    target: str = ""


@dataclass(frozen=True, slots=True)
class Landing:
    """An archive is unpacked in `directory`; its first name is `name`, or "." for the content alone."""

    directory: str
    name: str


def only_content(path: str) -> bool:
    """SOURCE says that not the directory itself is meant."""
    return path in (".", "/") or path.endswith(("/.", "/.."))


def is_followed(path: str) -> bool:
    """Its form says that it is no link."""
    return path.endswith("/") or only_content(path)


def says_directory(path: str) -> bool:
    """DESTINATION must be a directory by its form."""
    return path in ("", ".", "..") or path.endswith(("/", "/.", "/.."))


def landing(source: str, found: Found, destination: str, there: Found) -> Landing:
    """`found` is at SOURCE, `there` at DESTINATION. Raises Refused."""
    base = "." if only_content(source) else posixpath.basename(source.rstrip("/")) or "."
    if there.exists and there.directory:
        return Landing(there.path, base)
    if found.directory and there.exists:
        raise Refused(f"cannot copy a directory onto a file: {destination}")
    if not found.directory and says_directory(destination):
        what = "it is no directory" if there.exists else "there is no such directory"
        raise Refused(f"cannot copy to {destination}: {what}")
    directory, name = posixpath.split(there.path.rstrip("/"))
    return Landing(directory or "/", name)
