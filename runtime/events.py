"""Effects: what happened to containers, images, volumes and networks: told by who does it, read by anyone.

Shims tell of starts, ends, health and signals (runtime.shim.chronicle), the runtime of the rest: so all of it
is there with its own time whether an agent lived then or not. Nothing is asked again and again: who follows
is woken by inotify(7).
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runtime.linux.regular import open_regular
from runtime.shim import chronicle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from runtime.records import ContainerRecord

DIRECTORY = "events"
#: bytes read at once, and of one line
PIECE, MAX_LINE = 1 << 20, 1 << 16
#: seconds after which who follows looks although nothing woke him, and where inotify is not to be had (its
#: instances or watches are used up)
LOOK_AGAIN, POLL = 5.0, 0.1


@dataclass(frozen=True, slots=True)
class Happened:
    """`at` is ns since the epoch. `type`: container, image, volume, network, agent."""

    at: int
    type: str
    action: str
    id: str
    name: str
    attributes: Mapping[str, str] = field(default_factory=dict)


def tell(root: Path, type: str, action: str, id: str, name: str, **attributes: Any) -> None:
    """Never fails."""
    chronicle.tell(f"{root}/{DIRECTORY}", type, action, id, name, **attributes)


def tell_container(root: Path, action: str, record: ContainerRecord, **more: Any) -> None:
    """With its image, as it was written on the command line, and labels."""
    try:
        request = json.loads(record.request)
    except ValueError:
        request = {}
    labels = request.get("labels") or {}
    image = request.get("image_called") or record.image
    said = {**{str(key): value for key, value in labels.items()}, "image": image, **more}
    tell(root, "container", action, record.id, record.name, **said)


def read(root: Path) -> Iterator[Happened]:
    """All that is written down, in the order of writing."""
    reader = _Reader(root)
    try:
        yield from reader.rest()
    finally:
        reader.close()


def follow(
    root: Path, *, replay: bool, left: Callable[[], float | None] = lambda: None
) -> Iterator[Happened]:
    """What comes, after all there is with `replay`, until `left()` seconds are over (None: without end)."""
    reader, wake = _Reader(root), _Wake(f"{root}/{DIRECTORY}")
    try:
        for item in reader.rest():
            if replay:
                yield item
        while True:
            yield from reader.rest()
            seconds = left()
            if seconds is not None and seconds <= 0:
                return
            wake.wait(LOOK_AGAIN if seconds is None else min(LOOK_AGAIN, seconds))
    finally:
        wake.close()
        reader.close()


class _Wake:
    """Waits for a change in the directory: inotify(7); by looking, as long as that is not to be had."""

    def __init__(self, directory: str) -> None:
        self._directory, self._fd = directory, -1
        self._watch()

    def _watch(self) -> None:
        from runtime.linux import inotify

        changes = inotify.IN_MODIFY | inotify.IN_CREATE | inotify.IN_MOVED_TO | inotify.IN_DELETE
        try:
            self._fd = inotify.open_inotify()
            inotify.add_watch(self._fd, self._directory, changes)
        except OSError as error:
            self.close()
            if not inotify.is_exhausted(error):
                raise

    def wait(self, seconds: float) -> None:
        import select

        from runtime.linux import inotify

        if self._fd < 0:
            time.sleep(min(POLL, seconds))
            self._watch()  # what came before it is read next
        elif select.select([self._fd], [], [], seconds)[0]:
            inotify.read_events(self._fd)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1


class _Reader:
    """A place in the files. A file that is done with is read to its end before the next one."""

    def __init__(self, root: Path) -> None:
        self._directory = f"{root}/{DIRECTORY}"
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        self._fd = -1
        self._read: dict[int, int] = {}  # inode -> descriptor of files that were begun: it is not used anew
        self._half: dict[int, bytes] = {}  # of a line that is not whole yet, by descriptor

    def close(self) -> None:
        for fd in self._read.values():
            os.close(fd)
        self._read.clear()

    def rest(self) -> Iterator[Happened]:
        while True:
            following = self._following()
            for fd in list(self._read.values()):  # who had opened a file that is done with may still write
                if fd != following:
                    yield from self._new(fd)
            if following < 0:
                return
            self._fd = following

    def _following(self) -> int:
        """The oldest file that was not begun yet, opened; -1 where there is none."""
        for number, fd in list(self._read.items()):
            if fd != self._fd and not os.fstat(fd).st_nlink:
                self._half.pop(fd, None)
                os.close(self._read.pop(number))
        for name in [*chronicle.old_files(self._directory), chronicle.NOW]:
            try:
                fd = open_regular(f"{self._directory}/{name}")
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                continue  # nobody can have written to it
            number = os.fstat(fd).st_ino
            if number not in self._read:
                self._read[number] = fd
                return fd
            os.close(fd)
        return -1

    def _new(self, fd: int) -> Iterator[Happened]:
        while data := os.read(fd, PIECE):
            *lines, half = (self._half.get(fd, b"") + data).split(b"\n")
            self._half[fd] = half if len(half) <= MAX_LINE else b""
            for line in lines:
                if (found := _parse(line)) is not None:
                    yield found


def _parse(line: bytes) -> Happened | None:
    """None for what is none: half a line of a full disk."""
    try:
        found = json.loads(line)
        attributes = {str(key): str(value) for key, value in found["a"].items()}
        type, action, id, name = (str(found[key]) for key in ("type", "action", "id", "name"))
        return Happened(int(found["t"]), type, action, id, name, attributes)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
