"""Effects: the worker of a backup, a process of its own: it writes a tree as an archive, makes a tree of one,
or compares the two. It spends minutes in loops over files, which in the agent's process would hold up all
else; and what it unpacks it unpacks chrooted.

It reports one line at its end, a Python literal, a dict; `error` is in it when something went wrong. It ends
with the process that started it (prctl(2), PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from collections.abc import Iterator

from runtime.backups import form
from runtime.backups.walk import Walk
from runtime.images.changes import Unwritable
from runtime.images.compression import ZstdCompressor
from runtime.images.decompress import INPUT, CompressionError, load, stream
from runtime.images.tarstream import Pieces, Reader, TarError
from runtime.images.unpack import Refused, Unpacker
from runtime.linux import libc

LEVEL = 3  # of zstd
#: differences that are told
TOLD = 5

_PDEATHSIG = 1  # PR_SET_PDEATHSIG
_NAMES = ("kind", "path", "mode", "owner", "group", "mtime", "size", "content", "attributes")


class _Sink:
    """A descriptor with the digest and the count of what was written to it."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._digest = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> None:
        self._digest.update(data)
        self.size += len(data)
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()


def write(root: int, target: int, scratch: int) -> dict[str, object]:
    """The tree `root` as all but the last frame of a backup. `scratch` is an empty file for this moment."""
    sink, engine, plain = _Sink(target), ZstdCompressor(level=LEVEL), 0
    with os.fdopen(scratch, "w+b") as kept:
        lines = ZstdCompressor(level=LEVEL)

        def note(line: bytes) -> None:
            kept.write(lines.compress(line))

        walk = Walk(note)
        for piece in walk.write(root):
            plain += len(piece)
            sink.write(engine.compress(piece))
        sink.write(engine.flush())
        kept.write(lines.flush())
        archive, size = sink.size, kept.tell()
        if size > form.MAX_FRAME:
            raise Unwritable("it has too many entries for one backup")
        sink.write(form.frame(size))
        kept.seek(0)
        while data := kept.read(INPUT):
            sink.write(data)
    return {
        "entries": walk.entries,
        "size": walk.bytes,
        "tar": plain,
        "archive": archive,
        "lines": size,
        "digest": sink.digest,
        "sockets": walk.sockets,
        "changed": walk.changed,
    }


def _limited(fd: int, offset: int, size: int) -> Iterator[bytes]:
    """What a part of the file decompresses to."""
    left = size

    def read(count: int) -> bytes:
        nonlocal left
        data = os.pread(fd, min(count, left), offset + size - left)
        left -= len(data)
        return data

    return stream("zstd", read(INPUT), read)


def _at_most(pieces: Iterator[bytes], size: int) -> Iterator[bytes]:
    for piece in pieces:
        size -= len(piece)
        if size < 0:
            raise Refused("the archive gives more than its summary says")
        yield piece


def unpack(root: int, file: int, archive: int, plain: int) -> dict[str, object]:
    """The archive becomes the empty directory that is open as `root`."""
    os.umask(0)
    load("zstd")
    fds = os.open("/proc/self/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    os.fchdir(root)
    os.chroot(".")
    unpacker = Unpacker(exact=True, fds=fds)
    try:
        pieces = Pieces(_at_most(_limited(file, 0, archive), plain))
        unpacker.take(Reader(pieces))
        pieces.drain()
        unpacker.finish()
    except (Refused, TarError, OSError) as error:
        error.add_note(os.fsdecode(unpacker.entry))
        raise
    return {"entries": unpacker.count, "size": unpacker.bytes}


def compare(root: int, file: int, offset: int, size: int) -> dict[str, object]:
    """What differs between the tree `root` and the lines of the backup: `differences` are lines for people,
    TOLD of them at most, `count` is how many there are."""
    wanted = _lines(_limited(file, offset, size))
    differences: list[str] = []
    count = 0

    def look(line: bytes) -> None:
        nonlocal count
        found = next(wanted, b"")
        if found != line:
            count += 1
            if len(differences) < TOLD:
                differences.append(_difference(found, line))

    walk = Walk(look)
    for _ in walk.write(root):
        pass
    for line in wanted:
        count += 1
        if len(differences) < TOLD:
            differences.append(_difference(line, b""))
    return {"entries": walk.entries, "count": count, "differences": differences}


def _lines(pieces: Iterator[bytes]) -> Iterator[bytes]:
    rest = b""
    for piece in pieces:
        lines = (rest + piece).split(b"\n")
        rest = lines.pop()
        for line in lines:
            yield line + b"\n"


def _difference(wanted: bytes, found: bytes) -> str:
    """One clause. The paths differ when one of the trees lacks an entry: all that follows is off by one."""
    if not wanted or not found:
        what = "is there and not in the backup" if found else "is in the backup and not there"
        return f"{json.loads(wanted or found)[1]!r} {what}"
    one, other = json.loads(wanted), json.loads(found)
    if one[1] != other[1]:
        return f"{one[1]!r} is in the backup, where {other[1]!r} is found"
    names = [name for name, a, b in zip(_NAMES, one, other, strict=True) if a != b]
    return f"{one[1]!r} has another {', '.join(names)}"


# ---------------------------------------------------------------- the process


def main(arguments: list[str]) -> int:
    verb, *words = arguments
    libc.prctl(_PDEATHSIG, signal.SIGKILL, subject="death signal")
    if os.getppid() == 1:
        return 1  # it died before
    try:
        if verb == "write":
            found = write(*map(int, words))
        elif verb == "unpack":
            found = unpack(*map(int, words))
        else:
            found = compare(*map(int, words))
    except (Unwritable, Refused, TarError, CompressionError) as error:
        found = {"error": str(error), "entry": _entry(error), "errno": 0}
    except OSError as error:
        said = (error.strerror or str(error)).lower()
        found = {"error": said, "entry": _entry(error) or _named(error), "errno": error.errno or 0}
    os.write(1, ascii(found).encode() + b"\n")
    return 1 if "error" in found else 0


def _entry(error: BaseException) -> str:
    return next(iter(getattr(error, "__notes__", ())), "")


def _named(error: OSError) -> str:
    name = error.filename
    return os.fsdecode(name) if isinstance(name, str | bytes) else ""


def start() -> None:
    """As `main` for the process: without what an interpreter does at its end."""
    os._exit(main(sys.argv[2:]))
