"""Effects: what lies in a tree, and the sums of it that do not depend on when it was written.

Two things are the same when kind, mode, content, link target, device number and xattrs are; owners count
where asked for, times never. Sums of files of a lasting directory are kept with what stat(2) said of them:
while that is unchanged, the file is not read again.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import time
from pathlib import Path

from runtime.build import places
from runtime.build.watch import settled
from runtime.images.changes import MAX_DEPTH
from runtime.paths import write_atomically

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Protocol

    from runtime.build.watch import Watch

    class Filter(Protocol):
        """What of a tree there is to be seen: what is left out, and where to look below what is."""

        def excludes(self, path: str, is_dir: bool) -> bool: ...
        def may_descend(self, directory: str) -> bool: ...


Entry = tuple[str, os.stat_result]

#: Bytes read at once.
PIECE = 1 << 20
#: Files of which one directory's memory keeps sums.
MAX_KEPT = 500_000

_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def walk(root: int, start: str, seen: Filter | None = None, watch: Watch | None = None) -> list[Entry]:
    """Everything below the directory `start`, parents first, names in order; paths are relative to `start`.
    A directory that is excluded is there for what is in it and not excluded. `watch` is told all of them, and
    where it was looked for more. OSError ELOOP for one that is deeper than a layer may be."""
    found: list[Entry] = []
    noted = {} if watch is None else watch.seen
    _walk(places.open_directory(root, start), start, "", seen, found, noted)
    return found


def _walk(
    directory: int,
    full: str,
    path: str,
    seen: Filter | None,
    found: list[Entry],
    noted: dict[str, os.stat_result],
) -> None:
    """Closes `directory`. Sockets are nothing that can be copied."""
    try:
        with os.scandir(directory) as entries:
            listed = sorted((entry.name, entry.stat(follow_symlinks=False)) for entry in entries)
        above, below = f"{full}/" if full else "", f"{path}/" if path else ""
        for name, status in listed:
            mode = status.st_mode
            folder = stat.S_ISDIR(mode)
            hidden = seen is not None and seen.excludes(above + name, folder)
            if stat.S_ISSOCK(mode) or (hidden and not (folder and seen and seen.may_descend(above + name))):
                continue
            found.append((below + name, status))
            noted[above + name] = status
            if folder:
                if path.count("/") >= MAX_DEPTH:
                    cause = f"more than {MAX_DEPTH} directories in each other; .dockerignore leaves out"
                    raise OSError(errno.ELOOP, cause, f"{above[:100]}...")
                before = len(found)
                _walk(_enter(name, directory), above + name, below + name, seen, found, noted)
                if hidden and len(found) == before:
                    found.pop()
    finally:
        os.close(directory)


def _enter(name: str, directory: int) -> int:
    return os.open(name, places.DIRECTORY, dir_fd=directory)


class Sums:
    """Sums of files below `root`, kept in the file `memory` where one is given. Not thread-safe."""

    def __init__(self, root: int, memory: Path | None = None) -> None:
        self._root, self._memory = root, memory
        self._known: dict[str, str] = {}
        self._changed = False
        if memory is not None:
            try:
                self._known = json.loads(memory.read_bytes())
            except (OSError, ValueError):
                pass

    def of(self, start: str, entries: Iterable[Entry], owner: bool) -> str:
        """One sum over all entries, whose paths are relative to the directory `start`."""
        total = hashlib.sha256()
        for _, line in self.lines(start, entries, owner):
            total.update(line)
        return total.hexdigest()

    def lines(self, start: str, entries: Iterable[Entry], owner: bool) -> Iterator[tuple[str, bytes]]:
        """(path, all that counts of it) of each entry, in order."""
        above = f"{start}/" if start else ""
        with places.Walkway(self._root, start) as way:
            for path, status in entries:
                text = self._line(way, path, above + path, status, owner)
                yield path, text.encode("utf-8", "surrogateescape")

    def single(self, path: str, status: os.stat_result, owner: bool) -> str:
        """The sum of one thing that is no directory; its name does not count."""
        parent, _, name = path.rpartition("/")
        with places.Walkway(self._root, parent) as way:
            line = self._line(way, name, path, status, owner)
        return hashlib.sha256(line.partition("\0")[2].encode("utf-8", "surrogateescape")).hexdigest()

    def _line(self, way: places.Walkway, path: str, full: str, status: os.stat_result, owner: bool) -> str:
        mode = status.st_mode
        who = f"{status.st_uid}:{status.st_gid}" if owner else ""
        if stat.S_ISREG(mode):
            stamp = f"{status.st_ino:x}.{status.st_size:x}.{status.st_mtime_ns:x}.{status.st_ctime_ns:x} "
            known = self._known.get(full)
            if known is not None and known.startswith(stamp):
                return f"{path}\0{mode:o}\0{who}\0{known[len(stamp) :]}\0"
            content = self._read(way, path, full, status, stamp)
        else:
            content = self._special(way, path, status)
            mode = stat.S_IFLNK if stat.S_ISLNK(mode) else mode
        return f"{path}\0{mode:o}\0{who}\0{content}\0"

    def _read(self, way: places.Walkway, path: str, full: str, status: os.stat_result, stamp: str) -> str:
        parent, _, name = path.rpartition("/")
        began = time.time_ns()
        fd = os.open(name, _FILE, dir_fd=way.at(parent))
        try:
            found = os.fstat(fd)
            digest = hashlib.sha256()
            wanted = min(found.st_size + 1, PIECE)  # no more: memory for it would be mapped for each file
            while piece := os.read(fd, wanted):
                digest.update(piece)
            content = digest.hexdigest() + xattr_text(fd)
        finally:
            os.close(fd)
        same = (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns) == (
            status.st_ino,
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
        )
        if self._memory is not None and same and settled(found.st_ctime_ns, began):
            self._known[full] = stamp + content
            self._changed = True
        return content

    def _special(self, way: places.Walkway, path: str, status: os.stat_result) -> str:
        parent, _, name = path.rpartition("/")
        if stat.S_ISLNK(status.st_mode):
            return os.readlink(name, dir_fd=way.at(parent))
        if stat.S_ISDIR(status.st_mode):
            return xattr_text(way.at(path))
        return f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"

    def save(self) -> None:
        """Keep what was learnt. A memory that is lost is only slower."""
        if not self._changed or self._memory is None:
            return
        kept = self._known if len(self._known) <= MAX_KEPT else {}
        try:
            self._memory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(self._memory, json.dumps(kept).encode(), durable=False)
        except OSError:
            pass
        self._changed = False


def memory_of(directory: Path, root: int) -> Path:
    """Where the sums of the tree below `root` are kept: by what the directory is, not how it is called."""
    found = os.fstat(root)
    return directory / f"{found.st_dev:x}-{found.st_ino:x}.json"


def xattr_names(fd: int) -> list[str]:
    """The xattrs that are copied: not those of the host's policy, nor those of overlayfs itself."""
    try:
        names = os.listxattr(fd)
    except OSError:
        return []
    return [name for name in names if is_copied(name)] if names else names


def is_copied(name: str) -> bool:
    if name.startswith("security."):
        return name == "security.capability"
    return not name.startswith(("system.", "trusted.overlay."))


def xattr_text(fd: int) -> str:
    names = xattr_names(fd)
    if not names:
        return ""
    return "".join(f" {name}={os.getxattr(fd, name).hex()}" for name in sorted(names))


def children(root: int, start: str, wanted: Callable[[str], bool]) -> list[tuple[str, os.stat_result]]:
    """The entries of the directory `start` whose names are `wanted`, in order; none where it is no
    directory."""
    try:
        directory = places.open_directory(root, start)
    except (FileNotFoundError, NotADirectoryError):
        return []
    try:
        names = sorted(name for name in os.listdir(directory) if wanted(name))
        return [(name, os.stat(name, dir_fd=directory, follow_symlinks=False)) for name in names]
    finally:
        os.close(directory)
