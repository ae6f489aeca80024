"""Effects: finding and making places below an open root directory, as a process chrooted into it would.

Links are followed by hand, with every component opened relative to the one before and never through a link:
what a link names is known as text, for ignore rules and messages, and nothing leads out of the root
(path_resolution(7), openat(2)). Paths are relative to the root, without a leading slash; "" is the root.
"""

from __future__ import annotations

import errno
import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: Links followed in one path, as many as the kernel follows.
MAX_LINKS = 40
#: An /etc/passwd or /etc/group of an image larger than this is not read further (bytes).
MAX_TEXT = 4 << 20


def clean(path: str) -> str:
    """Without empty, `.` and `..` parts; `..` at the root stays there."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def resolve(root: int, path: str, *, last: bool = True) -> str:
    """`path` with every link in it followed; what does not exist is taken as it is written. `last`: the last
    part as well. OSError ELOOP, ENOTDIR never: a file in the middle ends the looking."""
    todo = [part for part in reversed(path.split("/")) if part not in ("", ".")]
    done: list[str] = []
    links = 0
    current = os.open(".", DIRECTORY, dir_fd=root)
    try:
        while todo:
            part = todo.pop()
            if part == "..":
                del done[-1:]
                current = _replace(current, open_directory(root, "/".join(done)))
                continue
            target = _link(current, part) if todo or last else None
            if target is not None:
                links += 1
                if links > MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                todo += [word for word in reversed(target.split("/")) if word not in ("", ".")]
                if target.startswith("/"):
                    done = []
                    current = _replace(current, os.open(".", DIRECTORY, dir_fd=root))
                continue
            done.append(part)
            if not todo:
                break
            try:
                current = _replace(current, os.open(part, DIRECTORY, dir_fd=current))
            except (FileNotFoundError, NotADirectoryError):
                return clean("/".join([*done, *reversed(todo)]))
        return "/".join(done)
    finally:
        os.close(current)


def _replace(old: int, new: int) -> int:
    os.close(old)
    return new


def _link(directory: int, name: str) -> str | None:
    """What the link `name` holds; None when it is no link."""
    try:
        return os.readlink(name, dir_fd=directory)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOENT, errno.ENOTDIR):
            return None
        raise


def open_directory(root: int, path: str) -> int:
    """A descriptor of the directory at `path`, in which no part is a link."""
    current = os.open(".", DIRECTORY, dir_fd=root)
    for part in path.split("/") if path else ():
        try:
            current = _replace(current, os.open(part, DIRECTORY, dir_fd=current))
        except OSError as error:
            os.close(current)
            raise OSError(error.errno, error.strerror, f"/{path}") from None
    return current


def status(root: int, path: str) -> os.stat_result | None:
    """Of what is at `path`, in which no part is a link (the last one may be); None when there is nothing."""
    parent, _, name = path.rpartition("/")
    try:
        directory = open_directory(root, parent)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return os.stat(name or ".", dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None
    finally:
        os.close(directory)


def make_directories(root: int, path: str, made: Callable[[int], None]) -> None:
    """The directory `path` (resolved) with its parents, 0755; `made` gets a descriptor of each new one.
    NotADirectoryError names what stands in the way."""
    current = os.open(".", DIRECTORY, dir_fd=root)
    try:
        done = ""
        for part in path.split("/") if path else ():
            done += f"/{part}"
            try:
                following = os.open(part, DIRECTORY, dir_fd=current)
            except FileNotFoundError:
                os.mkdir(part, 0o755, dir_fd=current)
                following = os.open(part, DIRECTORY, dir_fd=current)
                os.fchmod(following, 0o755)
                made(following)
            except OSError as error:
                raise OSError(error.errno, error.strerror, done) from None
            current = _replace(current, following)
    finally:
        os.close(current)


class Walkway:
    """Directories below a start, the last ones kept open: entries are visited in the order of a walk."""

    def __init__(self, root: int, start: str) -> None:
        self._fds = [open_directory(root, start)]
        self._parts: list[str] = []

    def at(self, path: str) -> int:
        """A descriptor of the directory `path` (relative to the start; "": the start itself)."""
        parts = path.split("/") if path else []
        if parts == self._parts:
            return self._fds[-1]
        same = 0
        while same < min(len(parts), len(self._parts)) and parts[same] == self._parts[same]:
            same += 1
        while len(self._parts) > same:
            self._parts.pop()
            os.close(self._fds.pop())
        for part in parts[same:]:
            try:
                self._fds.append(os.open(part, DIRECTORY, dir_fd=self._fds[-1]))
            except OSError as error:
                raise OSError(error.errno, error.strerror, f"/{path}") from None
            self._parts.append(part)
        return self._fds[-1]

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)
        self._fds = []

    def __enter__(self) -> Walkway:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def text(root: int, path: str) -> str:
    """A text file of the open root, its links followed within it; empty when it is not there."""
    from runtime.linux import openat2

    try:
        fd = openat2.open_in_root(root, path, os.O_RDONLY | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    with os.fdopen(fd, "rb") as file:
        return file.read(MAX_TEXT).decode("utf-8", "replace")


def is_directory(found: os.stat_result | None) -> bool:
    return found is not None and stat.S_ISDIR(found.st_mode)
