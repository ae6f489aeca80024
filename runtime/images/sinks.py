"""Effects: where an image archive goes: a tar or a directory, file by file, in the order that they are given.

A file whose length is not known beforehand goes into a tar in one pass where the tar can be written at any
place, else by way of a scratch file. The same files give the same tar.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

from runtime.images.blobs import CHUNK
from runtime.images.tarstream import DIRECTORY, FILE
from runtime.images.tarwriter import END, header, padding
from runtime.linux import libc, trees
from runtime.paths import beside


class Sink(Protocol):
    def put(self, name: str, data: bytes) -> None:
        """A file; directories on the way to it are made."""
        ...

    def stream(self, name: str, pieces: Iterable[bytes], size: int | None = None) -> int:
        """A file of `size` bytes, as many as come when that is None. Returns how many came."""
        ...


class TarSink:
    """A tar on `file`, from where it stands. `scratch` is a directory for files of unknown length."""

    def __init__(self, file: BinaryIO, scratch: Path) -> None:
        self._file, self._scratch = file, scratch
        self._made: set[str] = set()
        self._seekable = file.seekable() and not fcntl.fcntl(file, fcntl.F_GETFL) & os.O_APPEND

    def put(self, name: str, data: bytes) -> None:
        self.stream(name, (data,), len(data))

    def stream(self, name: str, pieces: Iterable[bytes], size: int | None = None) -> int:
        self._parents(name)
        if size is not None:
            self._file.write(_header(name, size))
            done = self._copy(pieces)
            if done != size:
                raise OSError(f"{name} has {done} bytes, not {size}")
        elif self._seekable:
            start = self._file.tell()
            self._file.write(_header(name, 0))
            done = self._copy(pieces)
            end = self._file.tell()
            self._file.seek(start)
            self._file.write(_header(name, done))
            self._file.seek(end)
        else:
            with tempfile.TemporaryFile(dir=self._scratch) as scratch:
                for piece in pieces:
                    scratch.write(piece)
                size = scratch.tell()
                scratch.seek(0)
                return self.stream(name, iter(lambda: scratch.read(CHUNK), b""), size)
        self._file.write(padding(done))
        return done

    def _copy(self, pieces: Iterable[bytes]) -> int:
        done = 0
        for piece in pieces:
            self._file.write(piece)
            done += len(piece)
        return done

    def _parents(self, name: str) -> None:
        parts = name.split("/")[:-1]
        for count in range(1, len(parts) + 1):
            parent = "/".join(parts[:count])
            if parent not in self._made:
                self._made.add(parent)
                self._file.write(header(os.fsencode(parent) + b"/", DIRECTORY, mode=0o755))

    def close(self) -> None:
        """The end mark; the file stays open."""
        self._file.write(END)
        self._file.flush()


def _header(name: str, size: int) -> bytes:
    return header(os.fsencode(name), FILE, mode=0o644, size=size)


class FolderSink:
    """Files below a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def put(self, name: str, data: bytes) -> None:
        self.stream(name, (data,))

    def stream(self, name: str, pieces: Iterable[bytes], size: int | None = None) -> int:
        path = self._directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            for piece in pieces:
                file.write(piece)
            return file.tell()


# ---------------------------------------------------------------- under the final name only when complete


@contextmanager
def written(path: Path) -> Iterator[BinaryIO]:
    """The file `path`, which is there, and durable, only when it is complete. What is no regular file (a
    pipe, /dev/stdout) is written as it goes."""
    if path.exists() and not stat.S_ISREG(path.stat().st_mode):
        with path.open("wb") as direct:
            yield direct
        return
    temporary = beside(path)
    try:
        temporary.unlink(missing_ok=True)  # a crash left it
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def written_folder(path: Path) -> Iterator[Path]:
    """A directory to fill, which becomes `path`, durable, when it is complete. FileExistsError where `path`
    is something else than an empty directory."""
    temporary = beside(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    try:
        if temporary.is_dir():  # a crash left it
            trees.remove(temporary)
        temporary.mkdir()
        yield temporary
        fd = os.open(temporary, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            libc.call("syncfs", fd, subject=str(path))
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except BaseException:
        trees.remove(temporary, ignore_errors=True)
        raise
