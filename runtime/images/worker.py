"""Effects: the unpack worker, a process of its own, chrooted into the new layer. It decompresses the blob
that comes on descriptor 0, hashes what that gives, and makes files of it.

One thread decompresses and hashes, the other makes the files: both spend their time outside of the
interpreter. `python -I -S` and few imports start this in 20 ms; all that it needs is loaded before the
chroot. Nothing that it is given is trusted, and nothing that it says is: only the digest of the plain stream
is taken from it, by a parent that has verified the blob.

It reports a line when the stream has ended (digest, entries, bytes), waits for a byte on the control
descriptor, which says that the layers below are there, and reports another line at its end. Each line is
a Python literal, a dict; `error` is in it when something went wrong.
"""

from __future__ import annotations

import gc
import hashlib
import os
import resource
import sys
import threading
from queue import SimpleQueue

from runtime.images.decompress import INPUT, CompressionError, detect, load, stream
from runtime.images.lowers import Lowers
from runtime.images.tarstream import Pieces, Reader, TarError
from runtime.images.unpack import MAX_NAME, Refused, Unpacker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

AHEAD = 4  # pieces (decompress.OUTPUT) that may be decompressed before they are needed
MAX_DESCRIPTORS = 4096
MAX_LAYER = 1 << 40  # bytes, decompressed
FREE_EXPANSION = 1 << 30  # bytes, decompressed, that any blob may give
MAX_EXPANSION = 200  # times its size that a blob may give beyond


class Inflater:
    """Pieces of a decompressed stream, made ahead by a thread; at the end `digest` is that of all of them."""

    def __init__(self, kind: str, head: bytes) -> None:
        self._kind, self._head = kind, head
        self._hash = hashlib.sha256()
        self._read = len(head)
        self._ready: SimpleQueue[bytes | Exception] = SimpleQueue()
        self._room: SimpleQueue[None] = SimpleQueue()
        for _ in range(AHEAD):
            self._room.put(None)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"

    def __iter__(self) -> Iterator[bytes]:
        while True:
            piece = self._ready.get()
            if isinstance(piece, Exception):
                raise piece
            if not piece:
                return
            yield piece
            self._room.put(None)

    def _run(self) -> None:
        size = 0
        try:
            for piece in stream(self._kind, self._head, self._take):
                self._room.get()
                self._hash.update(piece)
                self._ready.put(piece)
                size += len(piece)
                if size > FREE_EXPANSION and size > self._read * MAX_EXPANSION:
                    raise Refused(f"the archive gives more than {MAX_EXPANSION} times its {self._read} bytes")
                if size > MAX_LAYER:
                    raise Refused(f"the archive gives more than {MAX_LAYER} bytes")
            self._ready.put(b"")
        except Exception as error:
            self._ready.put(error)

    def _take(self, size: int) -> bytes:
        data = os.read(0, size)
        self._read += len(data)
        return data


def report(error: Exception, entry: bytes) -> dict[str, object]:
    """What the parent turns into a Fault. `errno` 0: the archive is to blame."""
    name = entry[:MAX_NAME].decode("utf-8", "backslashreplace")
    if isinstance(error, OSError):
        return {"error": (error.strerror or str(error)).lower(), "entry": name, "errno": error.errno or 0}
    if isinstance(error, CompressionError):
        name = ""
    return {"error": str(error), "entry": name, "errno": 0}


def main(arguments: list[str]) -> int:
    """`TARGET LAYERS_FD CONTROL_FD LOWER...`: names of lower layers in the directory LAYERS_FD, top first."""
    target, layers, control, *names = arguments
    gc.disable()
    os.umask(0)
    _allow_descriptors()
    head = os.read(0, INPUT)
    while len(head) < 16 and (more := os.read(0, INPUT)):
        head += more
    kind = detect(head)
    if kind:
        load(kind)
    os.chroot(target)
    os.chdir("/")
    unpacker = Unpacker()
    try:
        inflater = Inflater(kind, head)
        pieces = Pieces(iter(inflater))
        unpacker.take(Reader(pieces))
        pieces.drain()
        _say({"digest": inflater.digest, "entries": unpacker.count})
        if not os.read(int(control), 1):
            return 1  # nobody wants it any more
        unpacker.finish(Lowers(int(layers), names))
        _say({"bytes": unpacker.bytes})
    except (Refused, TarError, CompressionError, OSError, OverflowError) as error:
        _say(report(error, unpacker.entry))
        return 1
    return 0


def _allow_descriptors() -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    limit = MAX_DESCRIPTORS if most == resource.RLIM_INFINITY else min(MAX_DESCRIPTORS, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, most))


def _say(words: dict[str, object]) -> None:
    os.write(1, ascii(words).encode() + b"\n")


def start() -> None:
    """As `main` for the process: without what an interpreter does at its end."""
    os._exit(main(sys.argv[2:]))
