"""Effects: the missing layers of one image: downloaded and unpacked at the same time, side by side.

A layer's blob is unpacked while it comes; a layer waits for those below only when all that is in it is on
disk. What proves wrong about a blob (its digest, a broken connection) is the registry's fault and is said
before anything that the unpacking made of it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, CancelledError, Executor, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from runtime.faults import Fault
from runtime.images.arrival import Arrival, Restarted
from runtime.images.layers import LayerJob, LayerStore
from runtime.images.manifests import Descriptor

UNPACKERS = 4  # layers of one image that are unpacked at once

#: what may be no more than bytes that changed on the way: the blob's digest will say so
_OF_THE_BYTES = frozenset({"layer-invalid", "digest-mismatch"})


class Stopped(Exception):
    """Another layer of the image failed: this one is not wanted any more."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One layer that is missing. `lowers` are the chain ids below it, bottom first."""

    index: int  # 0: bottom
    chain_id: str
    diff_id: str
    blob: Descriptor
    lowers: Sequence[str]


@dataclass(frozen=True, slots=True)
class Source:
    """Where blobs come from. `fetch` makes sure that one is in the store, and lets the arrival be read along
    if it can; `path` is where it is then; `cancel` makes running fetches fail soon."""

    fetch: Callable[[Descriptor, Arrival], object]
    path: Callable[[str], Path]
    cancel: Callable[[], None] = lambda: None


class Watch:
    """What is told how it goes; any thread. Sizes are bytes of the blob."""

    def expect(self, layers: Sequence[Descriptor], missing: Sequence[Descriptor]) -> None: ...

    def extracting(self, layer: Descriptor, done: int) -> None: ...

    def ready(self, layer: Descriptor) -> None: ...


class Pipeline:
    """One run. `made` is called for each layer that is on disk (with its size in bytes, or None where it was
    there), bottom first or not."""

    def __init__(
        self,
        layers: LayerStore,
        downloads: Executor,
        source: Source,
        subject: str,
        made: Callable[[Piece, int | None], None],
        watch: Watch,
    ) -> None:
        self._layers, self._downloads, self._source, self._subject = layers, downloads, source, subject
        self._made, self._watch = made, watch
        self._arrivals: dict[int, Arrival] = {}
        self._unpacked: dict[int, Future[None]] = {}
        self._stopped = threading.Event()

    def run(self, pieces: Sequence[Piece]) -> None:
        """Have all of them, or raise what went wrong first; nothing of it goes on then."""
        if not pieces:
            return
        self._arrivals = {piece.index: Arrival() for piece in pieces}
        downloads = []
        try:
            for piece in pieces:
                downloads.append(self._downloads.submit(self._download, piece))
                downloads[-1].add_done_callback(partial(self._ended, piece))
            with ThreadPoolExecutor(min(UNPACKERS, len(pieces)), "unpack") as pool:
                try:
                    for piece in pieces:  # in order: a layer that waits for one below finds it begun
                        self._unpacked[piece.index] = pool.submit(self._unpack, piece)
                    self._wait([self._unpacked[piece.index] for piece in pieces])
                except BaseException:
                    self._stop(downloads)
                    raise
        finally:
            for download in downloads:
                with suppress(CancelledError):  # `wait` would wait for one that a closed pool has thrown away
                    download.exception()
            for arrival in self._arrivals.values():
                arrival.close()

    @staticmethod
    def _wait(running: Sequence[Future[None]]) -> None:
        done, _ = wait(running, return_when=FIRST_EXCEPTION)
        for future in running:
            if future in done and (error := future.exception()) is not None:
                raise error

    def _stop(self, downloads: Sequence[Future[None]]) -> None:
        self._stopped.set()
        self._source.cancel()
        for future in [*downloads, *self._unpacked.values()]:
            future.cancel()
        for arrival in self._arrivals.values():
            arrival.fail(Stopped())

    def _download(self, piece: Piece) -> None:
        arrival = self._arrivals[piece.index]
        try:
            self._source.fetch(piece.blob, arrival)
            arrival.complete(self._source.path(piece.blob.digest))
        except BaseException as error:
            arrival.fail(error)

    def _ended(self, piece: Piece, download: Future[None]) -> None:
        """One that was cancelled before it began (the store is being closed) is waited for no longer."""
        if download.cancelled():
            fault = Fault("registry-unreachable", "pull image", self._subject, "the pull was cancelled")
            self._arrivals[piece.index].fail(Stopped() if self._stopped.is_set() else fault)

    def _unpack(self, piece: Piece) -> None:
        arrival = self._arrivals[piece.index]
        while True:
            arrival.wait()
            generation = arrival.generation
            job = LayerJob(
                piece.chain_id,
                piece.diff_id,
                piece.lowers,
                lambda: self._data(piece.blob, arrival),
                lambda: self._lowers_of(piece),
            )
            try:
                size = self._layers.unpack(job, self._subject)
            except Restarted:
                continue
            except Fault as fault:
                if self._stopped.is_set():
                    raise Stopped from None
                if fault.code not in _OF_THE_BYTES:
                    raise
                arrival.wait(complete=True)
                if generation != arrival.generation:
                    continue
                raise
            arrival.wait(complete=True)
            self._made(piece, size)
            self._watch.ready(piece.blob)
            return

    def _data(self, blob: Descriptor, arrival: Arrival) -> Iterator[bytes]:
        done = 0
        for data in arrival.pieces():
            if self._stopped.is_set():
                raise Stopped
            yield data
            done += len(data)
            self._watch.extracting(blob, done)

    def _lowers_of(self, piece: Piece) -> None:
        """Wait for them."""
        try:
            for index, lower in list(self._unpacked.items()):
                if index < piece.index:
                    lower.result()
        except CancelledError:
            raise Stopped from None
