"""Effects: the content store. A file under its digest's name is complete and was verified, always.

A blob is written to `partial/<hex>`, whose flock is the lock of that digest for threads and processes alike:
the holder renames it away when it is complete, so whoever waited finds another file (or none) under the name
and looks again. What an interrupted download leaves in `partial` is where the next one resumes.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from runtime.faults import Fault, faults
from runtime.images.arrival import Arrival
from runtime.images.manifests import Descriptor

CHUNK = 1024 * 1024  # bytes
PARTIAL_LIFETIME = 24 * 3600.0  # seconds that an abandoned download is kept to be resumed


class Writer:
    """Appends to one blob's partial file and keeps its running digest. Whoever reads along is told."""

    def __init__(self, fd: int, descriptor: Descriptor, arrival: Arrival | None = None) -> None:
        self._fd, self._descriptor, self._arrival = fd, descriptor, arrival
        self._hash = hashlib.sha256()
        self.done = 0

    def resume(self) -> None:
        """Read what is there already into the digest."""
        os.lseek(self._fd, 0, os.SEEK_SET)
        while data := os.read(self._fd, CHUNK):
            self._hash.update(data)
            self.done += len(data)
        if self.done > self._descriptor.size:
            self.restart()
        if self._arrival is not None:
            self._arrival.begin(self._fd, self.done)

    def restart(self) -> None:
        """Forget all bytes: they were wrong, or the server cannot go on in the middle."""
        if self._arrival is not None:
            self._arrival.restarted()
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        self._hash, self.done = hashlib.sha256(), 0

    def write(self, data: bytes) -> None:
        """Fault digest-mismatch as soon as more bytes come than the descriptor promised."""
        self.done += len(data)
        if self.done > self._descriptor.size:
            raise mismatch(
                self._descriptor, f"more than the {self._descriptor.size} bytes that were promised came"
            )
        self._hash.update(data)
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]
        if self._arrival is not None:
            self._arrival.grown(self.done)

    @property
    def missing(self) -> int:
        """Bytes that have not come yet."""
        return self._descriptor.size - self.done

    def verify(self) -> None:
        if self.done != self._descriptor.size:
            raise mismatch(self._descriptor, f"{self.done} of {self._descriptor.size} bytes came")
        if self._hash.hexdigest() != self._descriptor.hex:
            raise mismatch(self._descriptor, f"its bytes have sha256:{self._hash.hexdigest()}")


def mismatch(descriptor: Descriptor, cause: str) -> Fault:
    return Fault("digest-mismatch", "store blob", descriptor.digest, cause)


class BlobStore:
    """Blobs by sha256 under one directory. Thread-safe, and safe against other processes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._partial = directory.with_name("partial")

    def path(self, digest: str) -> Path:
        return self.directory / digest.partition(":")[2]

    def has(self, digest: str) -> bool:
        return bool(digest) and self.path(digest).exists()

    def size(self, digest: str) -> int:
        """In bytes; 0 where it is not here."""
        try:
            return os.stat(self.path(digest)).st_size if digest else 0
        except FileNotFoundError:
            return 0

    def open(self, digest: str) -> BinaryIO:
        """For reading; FileNotFoundError when it is not here."""
        return open(self.path(digest), "rb")

    def read(self, digest: str) -> bytes:
        return self.path(digest).read_bytes()

    def fetch(
        self, descriptor: Descriptor, get: Callable[[Writer], None], arrival: Arrival | None = None
    ) -> Path:
        """Make sure that the blob is here. `get` appends what is missing to the writer it is given, from
        `writer.done` on; `arrival` lets somebody read it meanwhile.

        Two callers for one digest: the second waits, then finds it. When `get` fails the bytes stay for the
        next attempt, unless they are wrong or the disk is full.
        """
        final = self.path(descriptor.digest)
        with faults("store blob", descriptor.digest):
            while not final.exists():
                with self._locked(descriptor.hex) as (fd, partial):
                    if fd >= 0 and not final.exists():
                        self._complete(fd, partial, final, Writer(fd, descriptor, arrival), get)
                    elif fd >= 0:
                        partial.unlink(missing_ok=True)
        return final

    def _complete(
        self, fd: int, partial: Path, final: Path, writer: Writer, get: Callable[[Writer], None]
    ) -> None:
        try:
            writer.resume()
            self._fill(writer, get)
            os.fsync(fd)
            os.rename(partial, final)
            sync_directory(self.directory)
        except Fault as fault:
            if fault.code == "digest-mismatch" or not writer.done:
                partial.unlink(missing_ok=True)
            raise
        except OSError:
            partial.unlink(missing_ok=True)
            raise
        except BaseException:
            if not writer.done:
                partial.unlink(missing_ok=True)
            raise

    def _fill(self, writer: Writer, get: Callable[[Writer], None]) -> None:
        """Complete and verify; an earlier attempt's bytes that prove wrong (a power cut) come anew."""
        resumed = writer.done > 0
        try:
            if writer.missing:
                get(writer)
            writer.verify()
        except Fault as fault:
            if fault.code != "digest-mismatch" or not resumed:
                raise
            writer.restart()
            get(writer)
            writer.verify()

    @contextmanager
    def _locked(self, name: str) -> Iterator[tuple[int, Path]]:
        """(descriptor, path) of the partial file, locked; (-1, path) when its former holder ended it."""
        partial = self._partial / name
        self._partial.mkdir(parents=True, exist_ok=True)
        fd = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield (fd if _is_still(fd, partial) else -1), partial
        finally:
            os.close(fd)

    def put(self, data: bytes) -> str:
        """Store bytes that are in memory; returns their digest."""
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"

        def get(writer: Writer) -> None:
            writer.restart()
            writer.write(data)

        self.fetch(Descriptor("", digest, len(data)), get)
        return digest

    @contextmanager
    def incoming(self) -> Iterator[Incoming]:
        """A blob whose digest is known only when its last byte was written. Unless kept, nothing stays."""
        self._partial.mkdir(parents=True, exist_ok=True)
        path = self._partial / f"new.{os.getpid()}.{time.monotonic_ns()}"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield Incoming(self, fd, path)
        finally:
            os.close(fd)
            path.unlink(missing_ok=True)

    def remove(self, digest: str) -> None:
        self.path(digest).unlink(missing_ok=True)

    def abandon(self, digest: str) -> None:
        """Keep no bytes of a download that ended early and that nobody is going on with."""
        path = self._partial / digest.partition(":")[2]
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_still(fd, path):
                path.unlink()
        except BlockingIOError:
            pass
        finally:
            os.close(fd)

    def digests(self) -> list[str]:
        return [f"sha256:{name}" for name in os.listdir(self.directory)]

    def sweep(self, now: float) -> list[str]:
        """Remove abandoned files that nobody holds: unnamed ones now, downloads after PARTIAL_LIFETIME."""
        removed: list[str] = []
        names = os.listdir(self._partial) if self._partial.exists() else []
        for name in names:
            path = self._partial / name
            try:
                fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if name.startswith("new.") or now - os.fstat(fd).st_mtime > PARTIAL_LIFETIME:
                    path.unlink(missing_ok=True)
                    removed.append(f"partial blob {name[:12]}")
            except BlockingIOError:
                pass
            finally:
                os.close(fd)
        return removed


class Incoming:
    """A blob of unknown digest that is being written."""

    def __init__(self, store: BlobStore, fd: int, path: Path) -> None:
        self._store, self._fd, self._path = store, fd, path
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes | memoryview) -> None:
        self._hash.update(data)
        self.size += len(data)
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    def reader(self) -> BinaryIO:
        """What was written until now, from its first byte."""
        return open(self._path, "rb")

    def keep(self) -> str:
        """Durably under its digest, which is returned."""
        digest = f"sha256:{self._hash.hexdigest()}"
        if not self._store.has(digest):
            os.fsync(self._fd)
            os.rename(self._path, self._store.path(digest))
            sync_directory(self._store.directory)
        return digest


def _is_still(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


def sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
