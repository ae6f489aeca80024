"""Effects: where backups go: a file is there under its name, and durable, only when it is complete.

Until then it is `.NAME.PID.partial`, whose flock its writer holds: what nobody holds is of a crash, and
removed by the next backup into that directory. A name that is taken is never overwritten.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from runtime.backups import form
from runtime.backups.form import SUFFIX, Summary, Unreadable
from runtime.faults import Fault
from runtime.images.blobs import sync_directory

_PARTIAL = ".partial"
_OURS = re.compile(r"\.[0-9]+\.partial$")


@dataclass(frozen=True, slots=True)
class Found:
    path: Path
    summary: Summary
    bytes: int  # of the file


def file_name(volume: str, at: float) -> str:
    """`shop/data` -> `shop-data-20260131T030000.000Z.tar.zst`"""
    stamp = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return f"{volume.replace('/', '-')}-{re.sub('[-:]', '', stamp)}{SUFFIX}"


def chosen(target: Path, volume: str, at: float) -> Path:
    """Into a directory goes a file with a name of its own."""
    return target / file_name(volume, at) if target.is_dir() else target


@contextmanager
def written(path: Path) -> Iterator[BinaryIO]:
    """The file `path`, which is there only when the block has ended well. FileExistsError: it is there."""
    clean(path.parent)
    if os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, "it is there already", str(path))
    temporary = path.with_name(f".{path.name}.{os.getpid()}{_PARTIAL}")
    with open(os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.rename(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    sync_directory(path.parent)


def clean(directory: Path) -> None:
    """Remove what writers that are dead have left there."""
    for name in os.listdir(directory):
        if not (name.startswith(".") and _OURS.search(name)):
            continue
        path = directory / name
        try:
            with open(os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC), "r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink(missing_ok=True)
        except (BlockingIOError, FileNotFoundError):
            continue


def backups(directory: Path, volume: str) -> list[Found]:
    """The whole backups of `volume` in the directory, oldest first. What is not ours is not in it."""
    found = []
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    for name in names:
        if name.startswith(".") or not name.endswith(SUFFIX):
            continue
        try:
            with open(os.open(directory / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
                summary = form.read_summary(file)
                size = os.fstat(file.fileno()).st_size
        except (Unreadable, OSError):
            continue
        if summary.volume == volume:
            found.append(Found(directory / name, summary, size))
    return sorted(found, key=lambda item: (item.summary.at, item.path))


def opened(path: Path, operation: str) -> tuple[BinaryIO, Summary]:
    """The file and its summary. Fault backup-invalid; kernel-error where it cannot be read."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise Fault("backup-invalid", operation, str(path), str(error.strerror).lower()) from error
    try:
        return file, form.read_summary(file)
    except (Unreadable, OSError) as error:
        file.close()
        raise Fault("backup-invalid", operation, str(path), str(error).lower()) from error
