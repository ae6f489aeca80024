"""Effects: directory trees that anybody may have made, as containers do: of any depth, changing meanwhile.

Python's own os.fwalk and trees.remove call themselves, or hold a descriptor, for each level (a thousand are
too many), and os.walk goes by paths, which end at 4096 bytes and lead elsewhere when a directory becomes a
link. Here one directory is open at a time: into a child by its name, back by `..`, which must be the one that
was left (path_resolution(7), openat(2)). What is mounted below is another tree, and is not entered.
"""

from __future__ import annotations

import errno
import os

from runtime.linux import openat2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Path = str | os.PathLike[str]

_TOP = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CHILD = os.O_RDONLY | os.O_DIRECTORY | os.O_NONBLOCK
#: It is no directory of this tree (any more): gone, replaced by something else, or a mount.
_ELSEWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV)


def walk(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Of each directory, from `path` downwards, a descriptor that is open until the next step, and the names
    in it that are no directories. OSError: one cannot be read, or was moved elsewhere (ESTALE). Directories
    that go meanwhile are passed over, and so are mounts."""
    cursor = _Cursor(path)
    try:
        while True:
            names, children = _read(cursor.fd)
            cursor.arrive(children)
            yield cursor.fd, names
            while not cursor.enter(_pass_over):
                if cursor.is_at_top:
                    return
                cursor.back()
    finally:
        cursor.close()


def remove(path: Path, *, dir_fd: int | None = None, ignore_errors: bool = False) -> None:
    """`rm -r` of a directory: what goes meanwhile is not missed, what cannot be removed is no reason to leave
    the rest. OSError, the first one that there was: FileNotFoundError where `path` is not, EBUSY where
    something is mounted in it, which is never touched."""
    removal = _Removal()
    try:
        removal.empty(path, dir_fd)
        os.rmdir(path, dir_fd=dir_fd)
    except OSError as error:
        removal.failed(error)
    if removal.error is not None and not ignore_errors:
        raise removal.error


def discard(path: Path, *, dir_fd: int | None = None) -> None:
    """Whatever is there, if anything: a directory with all in it, or what is none. OSError as of `remove`."""
    try:
        os.unlink(path, dir_fd=dir_fd)
    except FileNotFoundError:
        pass
    except IsADirectoryError:
        remove(path, dir_fd=dir_fd)


class _Removal:
    """What is removed, and what went wrong first."""

    def __init__(self) -> None:
        self.error: OSError | None = None

    def failed(self, error: OSError) -> None:
        if error.errno == errno.EXDEV:
            error = OSError(errno.EBUSY, os.strerror(errno.EBUSY), error.filename)
        if self.error is None:
            self.error = error

    def empty(self, path: Path, dir_fd: int | None) -> None:
        cursor = _Cursor(path, dir_fd)
        try:
            while True:
                cursor.arrive(self._clear(cursor.fd))
                while not cursor.enter(self._unless_gone):
                    if cursor.is_at_top:
                        return
                    name = cursor.back()
                    self._rmdir(name, cursor.fd)
        finally:
            cursor.close()

    def _unless_gone(self, error: OSError) -> None:
        if error.errno != errno.ENOENT:
            self.failed(error)

    def _clear(self, fd: int) -> list[str]:
        """Remove what is no directory, and directories that are empty; the names of the others."""
        names, children = _read(fd)
        for name in names:
            try:
                os.unlink(name, dir_fd=fd)
            except IsADirectoryError:  # since a moment ago
                children.append(name)
            except OSError as error:
                self._unless_gone(error)
        return [name for name in children if self._is_full(name, fd)]

    def _is_full(self, name: str, fd: int) -> bool:
        try:
            os.rmdir(name, dir_fd=fd)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                return True
            self._unless_gone(error)
        return False

    def _rmdir(self, name: str, fd: int) -> None:
        try:
            os.rmdir(name, dir_fd=fd)
        except OSError as error:
            self._unless_gone(error)


class _Level:
    """A directory on the way to the one that is open: what is to be visited in it yet, and which it is."""

    __slots__ = ("left", "name", "number")

    def __init__(self, name: str, number: tuple[int, int], left: list[str]) -> None:
        self.name, self.number, self.left = name, number, left


class _Cursor:
    """`fd` is the one directory that is open."""

    def __init__(self, path: Path, dir_fd: int | None = None) -> None:
        self.fd = os.open(path, _TOP, dir_fd=dir_fd)
        self._levels: list[_Level] = []
        self._name = ""

    @property
    def is_at_top(self) -> bool:
        return len(self._levels) == 1

    def arrive(self, children: list[str]) -> None:
        """The directory that is open has these, which are to be entered."""
        self._levels.append(_Level(self._name, _number(self.fd), children))

    def enter(self, refused: Callable[[OSError], None]) -> bool:
        """Into the next child. False when none is left; `refused` is told of those that cannot be opened."""
        left = self._levels[-1].left
        while left:
            self._name = left.pop()
            try:
                child = openat2.open_beneath(self.fd, self._name, _CHILD)
            except OSError as error:
                refused(error)
                continue
            os.close(self.fd)
            self.fd = child
            return True
        return False

    def back(self) -> str:
        """To the directory above; the name in it of the one that was left. OSError ESTALE."""
        above = os.open("..", _TOP, dir_fd=self.fd)
        if _number(above) != self._levels[-2].number:
            os.close(above)
            raise OSError(errno.ESTALE, "a directory was moved elsewhere meanwhile")
        os.close(self.fd)
        self.fd = above
        return self._levels.pop().name

    def close(self) -> None:
        os.close(self.fd)


def _number(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def _read(fd: int) -> tuple[list[str], list[str]]:
    """The names of what is no directory, and of the directories."""
    names: list[str] = []
    children: list[str] = []
    with os.scandir(fd) as entries:
        for entry in entries:
            (children if entry.is_dir(follow_symlinks=False) else names).append(entry.name)
    return names, children


def _pass_over(error: OSError) -> None:
    if error.errno not in _ELSEWHERE:
        raise error
