"""Effects: whether all that a command to build came from is as it was, told by one look at each thing.

A glance lists what runtime.build.recipes looked at when it last found that a recipe holds: files, directories
and links of the contexts, the Dockerfile, the ignore files, the database, the layers; of each what stat(2)
says. While that is the same for all, so is what their sums and rows would tell, and nothing is read.
Anything else, or any doubt, and the recipe is gone through. Imports nothing: `stead build` begins here.
"""

from __future__ import annotations

import os
import time

try:
    from _blake2 import blake2b  # hashlib would load OpenSSL, which takes as long as a thousand files
except ImportError:
    from hashlib import blake2b

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

#: Of recipes and glances; changes with what they hold or mean.
FORMAT = "2"
#: Seconds after which a recipe is gone through again, so that its steps are known to be in use (as in
#: runtime.build.cache).
TOUCH = 600.0
#: The last field, so that a file without its end is known.
END = "end"
#: Fields before the lists: FORMAT, when it was noted, what Answer has, state of the database, and the lengths
#: of the lists: variables, things that paths lead to, things that are there.
HEAD = 10


class Answer:
    """What the command came to: the image's id, what it prints, and the file that it writes the id to."""

    __slots__ = ("err", "file", "image", "out")

    def __init__(self, image: str, out: str, err: str, file: str) -> None:
        self.image, self.out, self.err, self.file = image, out, err, file


def place_of(root: str, said: str) -> str:
    """Where the glance of a command is; `said` is all of it, and is kept nowhere: it may have secrets."""
    return f"{root}/build/recipes/{_sum(said)}.glance"


def _sum(text: str) -> str:
    return blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def find(root: str, said: str) -> Answer | None:
    """What the command came to, where all is as it was."""
    try:
        with open(place_of(root, said), "rb", buffering=0) as file:
            fields = file.read().decode("utf-8", "surrogateescape").split("\0")
        return _answer(root, fields)
    except (OSError, ValueError, IndexError):
        return None


def _answer(root: str, fields: list[str]) -> Answer | None:
    form, noted, image, out, err, file, database = fields[: HEAD - 3]
    told = HEAD + int(fields[HEAD - 3])
    followed = told + int(fields[HEAD - 2])
    seen = followed + int(fields[HEAD - 1])
    if form != FORMAT or len(fields) != seen + 1 or fields[seen] != END:
        return None
    if not 0 <= time.time() - float(noted) < TOUCH or state_of(f"{root}/stead.db") != database:
        return None
    if any(variable(text.partition("=")[0]) != text for text in fields[HEAD:told]):
        return None
    if any(stamp_of(path) != was for path, was in _pairs(fields[told:followed])):
        return None
    lstat = os.lstat
    for path, was in _pairs(fields[followed:seen]):
        if stamp(lstat(path)) != was:
            return None
    return Answer(image, out, err, file)


def _pairs(fields: list[str]) -> zip[tuple[str, str]]:
    return zip(fields[::2], fields[1::2], strict=True)


def stamp(status: os.stat_result) -> str:
    return (
        f"{status.st_mode:x}.{status.st_dev:x}.{status.st_ino:x}.{status.st_size:x}"
        f".{status.st_mtime_ns:x}.{status.st_ctime_ns:x}"
    )


def stamp_of(path: str, note: Callable[[int], object] = bool) -> str:
    """Of what the path leads to; empty where that is nothing. `note` is told when it changed (ns)."""
    try:
        status = os.stat(path)
    except OSError:
        return ""
    note(status.st_ctime_ns)
    return stamp(status)


def state_of(database: str, note: Callable[[int], object] = bool) -> str:
    """The same as long as nothing is written to it (sqlite.org/wal.html). A log without a byte is there while
    somebody only reads, and who opens it as root gives it its owner again: its ctime tells nothing."""
    try:
        log = os.stat(f"{database}-wal")
    except OSError:
        return stamp_of(database, note)
    if not log.st_size:
        return stamp_of(database, note)
    note(log.st_mtime_ns)
    return f"{stamp_of(database, note)} {log.st_ino:x}.{log.st_size:x}.{log.st_mtime_ns:x}"


def variable(name: str) -> str:
    """A variable of the environment, with a sum of its value where it has one."""
    value = os.environ.get(name)
    return name if value is None else f"{name}={_sum(value)}"
