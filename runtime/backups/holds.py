"""Effects: who has a volume for himself while it is backed up or restored.

A hold is an exclusive flock(2) on a file under `run`, so that it ends with its holder, however that ends.
Whoever starts a container that uses the volume has a shared one until its mounts are made: a hold is never
taken in the middle of a start, and no container is started against one.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from runtime.faults import Fault, faults
from runtime.paths import Paths

#: seconds that starts which are under way are waited for, and another holder is
STARTS, OTHERS = 30.0, 0.5
_LOOK = 0.005
#: Behind the name of a volume: one at a time does that, and it keeps nobody from using the volume. (No volume
#: has such a name.)
READING, DRILLING = "%backup", "%drill"
#: Before the id of a container that does not run: what it wrote is mounted by somebody else for a moment.
COPYING = "%copy-"


class Holds:
    """Of one state directory. Threads and processes alike."""

    def __init__(self, paths: Paths) -> None:
        self._directory = paths.run / "holds"

    @contextmanager
    def hold(self, volume: str, what: str) -> Iterator[None]:
        """`what` is what people are told: "being backed up". Fault volume-in-use when another has it."""
        with faults("hold volume", volume):
            fd = self._open(volume)
            try:
                self._lock(fd, volume)
                while not self._is_there(fd, volume):  # it was forgotten while it was waited for
                    os.close(fd)
                    fd = self._open(volume)
                    self._lock(fd, volume)
                os.ftruncate(fd, 0)
                os.pwrite(fd, f"{what} by process {os.getpid()}".encode(), 0)
            except BaseException:
                os.close(fd)
                raise
        try:
            yield
        finally:
            os.ftruncate(fd, 0)
            os.close(fd)

    def _is_there(self, fd: int, volume: str) -> bool:
        try:
            return os.path.samestat(os.fstat(fd), os.stat(self._path(volume)))
        except FileNotFoundError:
            return False

    def _lock(self, fd: int, volume: str) -> None:
        begin = time.monotonic()
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                said, waited = os.pread(fd, 200, 0).decode(errors="replace"), time.monotonic() - begin
                if waited > (OTHERS if said else STARTS):
                    raise _in_use("use volume", volume, said) from None
            time.sleep(_LOOK)

    @contextmanager
    def starting(self, volumes: Collection[str], container: str) -> Iterator[None]:
        """No hold on `volumes` begins within the block. Fault volume-in-use when there is one."""
        with ExitStack() as stack:
            for volume in sorted(set(volumes)):
                with faults("start container", container):
                    stack.enter_context(self._shared(volume, "start container", container))
            yield

    @contextmanager
    def sharing(self, volume: str) -> Iterator[None]:
        """As `starting`, for who only reads."""
        with self._shared(volume, "use volume", volume):
            yield

    @contextmanager
    def _shared(self, volume: str, operation: str, subject: str) -> Iterator[None]:
        fd = self._open(volume)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                said = os.pread(fd, 200, 0).decode(errors="replace")
                what = "its file system" if volume.startswith(COPYING) else f"volume {volume}"
                raise _in_use(operation, subject, f"{what} is {said}") from None
            yield
        finally:
            os.close(fd)

    def forget(self, volume: str) -> None:
        """By its holder, of a volume that is gone."""
        for name in (volume, volume + READING, volume + DRILLING):
            self._path(name).unlink(missing_ok=True)

    def held(self) -> dict[str, str]:
        """Volume -> what is done with it, of every volume that somebody has."""
        found: dict[str, str] = {}
        try:
            with os.scandir(self._directory) as entries:
                names = [entry.name for entry in entries]
        except FileNotFoundError:
            return found
        for name in names:
            if said := self._said(name):
                found[name.replace("@", "/")] = said
        return found

    def _said(self, name: str) -> str:
        """What its holder says; empty where there is none, as in most files: a look at those is enough."""
        try:
            if not os.stat(self._directory / name).st_size:
                return ""
            file = (self._directory / name).open("rb")
        except FileNotFoundError:  # the volume went at this moment
            return ""
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return file.read(200).decode(errors="replace")
        return ""

    def _open(self, volume: str) -> int:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(self._path(volume), flags, 0o600)

    def _path(self, volume: str) -> Path:
        return self._directory / volume.replace("/", "@")


def _in_use(operation: str, subject: str, said: str) -> Fault:
    return Fault(
        "volume-in-use", operation, subject, said or "it is being read, or containers that use it are started"
    )
