"""Effects: the files of an image archive, be it a directory or a tar, by relative name.

Nothing in an archive is trusted: what is read into memory has a limit, no name and no link leads out of it.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, Protocol

from runtime.faults import Fault
from runtime.images.blobs import CHUNK, Writer
from runtime.images.compression import CompressionError, decompressed, detect
from runtime.images.tarstream import FILE, LINK, SYMLINK, Reader, Source, TarError
from runtime.images.unpack import Refused, clean
from runtime.images.worker import FREE_EXPANSION, MAX_EXPANSION

SNIFF = 1024 * 1024  # bytes in which the first entry of an archive is looked for
MAX_LINKS = 8  # links that lead to one member
MAX_MEMBERS = 100_000  # of one archive: 1000 images of 50 layers, each with its directory


class Tree(Protocol):
    """The files of an OCI layout or docker-archive."""

    def has(self, name: str) -> bool: ...
    def open(self, name: str) -> tuple[BinaryIO, int]:
        """A file that stands at the member's first byte, and the member's size. FileNotFoundError."""
        ...


def invalid(subject: str, cause: str, hint: str = "") -> Fault:
    return Fault("archive-invalid", "import image", subject, cause, hint)


def member(tree: Tree, name: str, subject: str) -> tuple[BinaryIO, int]:
    try:
        return tree.open(name)
    except (FileNotFoundError, ValueError):
        raise invalid(subject, f"it has no {name[:200]}") from None


def read(tree: Tree, name: str, limit: int, subject: str) -> bytes:
    """A whole member of at most `limit` bytes."""
    file, size = member(tree, name, subject)
    with file:
        if size > limit:
            raise invalid(subject, f"its {name[:200]} has more than {limit} bytes")
        return file.read(size)


def pieces(tree: Tree, name: str, subject: str, start: int = 0) -> Iterator[bytes]:
    """A member's bytes from `start` on."""
    file, size = member(tree, name, subject)
    with file:
        file.seek(start, os.SEEK_CUR)
        left = size - start
        while left > 0 and (data := file.read(min(CHUNK, left))):
            yield data
            left -= len(data)


def copy(tree: Tree, name: str, writer: Writer, subject: str) -> None:
    for data in pieces(tree, name, subject, writer.done):
        writer.write(data)


class Folder:
    """Files below a directory; a name that leads out of it is not there."""

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()

    def _path(self, name: str) -> Path:
        path = (self._root / name).resolve()
        if not path.is_relative_to(self._root) or not path.is_file():
            raise FileNotFoundError(name)
        return path

    def has(self, name: str) -> bool:
        try:
            return self._path(name).is_file()
        except (OSError, ValueError):
            return False

    def open(self, name: str) -> tuple[BinaryIO, int]:
        file = open(self._path(name), "rb")  # noqa: SIM115 - the caller closes it
        return file, os.fstat(file.fileno()).st_size


class Transport:
    """A directory of skopeo's dir: (podman's docker-dir), shown as the OCI layout that it could be.

    containers-transports(5): manifest.json beside blobs under their hexadecimal digests, manifests of an
    index as HEX.manifest.json.
    """

    def __init__(self, folder: Folder, manifest: bytes) -> None:
        self._folder = folder
        digest = hashlib.sha256(manifest).hexdigest()
        entry = {"digest": f"sha256:{digest}", "size": len(manifest)}
        index = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
        self._made = {"oci-layout": b"{}", "index.json": index, f"blobs/sha256/{digest}": manifest}

    def has(self, name: str) -> bool:
        return name in self._made or any(self._folder.has(item) for item in self._names(name))

    def open(self, name: str) -> tuple[BinaryIO, int]:
        if name in self._made:
            return io.BytesIO(self._made[name]), len(self._made[name])
        for item in self._names(name):
            if self._folder.has(item):
                return self._folder.open(item)
        raise FileNotFoundError(name)

    def _names(self, name: str) -> tuple[str, ...]:
        plain = name.removeprefix("blobs/sha256/")
        return () if plain == name else (plain, f"{plain}.manifest.json")


class TarFile:
    """Members of an uncompressed tar file; `docker save` links members that are the same."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._members: dict[bytes, tuple[int, int]] = {}
        self._links: dict[bytes, bytes] = {}
        os.lseek(file.fileno(), 0, os.SEEK_SET)
        for count, entry in enumerate(Reader(Source(file.fileno(), seekable=True))):
            if count >= MAX_MEMBERS:
                raise TarError(f"it has more than {MAX_MEMBERS} entries, too many for an image archive")
            try:
                name = clean(entry.name)
            except Refused as error:
                raise TarError(str(error)) from error
            if entry.kind == FILE and entry.sparse is None:
                self._members[name] = (entry.offset, entry.size)
            elif entry.kind == SYMLINK:
                self._links[name] = os.path.normpath(os.path.join(os.path.dirname(name), entry.link))
            elif entry.kind == LINK:
                self._links[name] = os.path.normpath(entry.link)

    def _find(self, name: str) -> tuple[int, int]:
        key = os.path.normpath(os.fsencode(name))
        for _ in range(MAX_LINKS):
            if key in self._members:
                return self._members[key]
            if key not in self._links:
                break
            key = self._links[key]
        raise FileNotFoundError(name)

    def has(self, name: str) -> bool:
        try:
            return self._find(name)[1] >= 0
        except FileNotFoundError:
            return False

    def open(self, name: str) -> tuple[BinaryIO, int]:
        offset, size = self._find(name)
        # an open file description of its own, since members are read side by side; the caller closes it
        file = open(f"/proc/self/fd/{self._file.fileno()}", "rb")  # noqa: SIM115
        file.seek(offset)
        return file, size


def expanded(file: BinaryIO) -> Iterator[bytes]:
    """The file's decompressed bytes. CompressionError for more than it can be worth, as of layers."""
    size = os.fstat(file.fileno()).st_size
    most, done = max(FREE_EXPANSION, size * MAX_EXPANSION), 0
    for piece in decompressed(file):
        done += len(piece)
        if done > most:
            raise CompressionError(f"more than {MAX_EXPANSION} times its {size} bytes come out of it")
        yield piece


def first_member(file: BinaryIO, subject: str) -> bytes:
    """The name of a (compressed) tar's first entry. Fault when there is no tar at all."""
    head = b""
    for piece in decompressed(file):
        head += piece
        if len(head) >= SNIFF:
            break
    with tempfile.TemporaryFile() as copy:
        copy.write(head)
        copy.flush()
        os.lseek(copy.fileno(), 0, os.SEEK_SET)
        try:
            for entry in Reader(Source(copy.fileno())):
                if name := clean(entry.name):
                    return name
        except (TarError, Refused) as error:
            raise invalid(subject, f"it is not a tar archive: {error}") from error
    raise invalid(subject, "it is empty")


def tar_file(file: BinaryIO, scratch: Path, stack: ExitStack) -> TarFile:
    """The members of a tar file; of a compressed one, those of a plain copy in the directory `scratch`."""
    file.seek(0)
    compressed = bool(detect(file.read(16)))
    file.seek(0)
    return TarFile(stack.enter_context(_plain_copy(file, scratch)) if compressed else file)


def _plain_copy(file: BinaryIO, scratch: Path) -> BinaryIO:
    copy: BinaryIO = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115 - the caller closes it
    try:
        for piece in expanded(file):
            copy.write(piece)
        copy.flush()
        copy.seek(0)
    except BaseException:
        copy.close()
        raise
    return copy
