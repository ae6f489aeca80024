"""A blob that is read while it comes: whole, or not at all."""

from __future__ import annotations

import fcntl
import hashlib
import os
import random
import threading
from pathlib import Path

import pytest

from runtime.images.arrival import Arrival, Restarted
from runtime.images.blobs import Writer
from runtime.images.manifests import Descriptor

CONTENT = bytes(range(256)) * 4000


def descriptor(content: bytes) -> Descriptor:
    return Descriptor("", f"sha256:{hashlib.sha256(content).hexdigest()}", len(content))


def test_what_is_read_is_the_blob_however_often_its_writer_begins_anew(tmp_path: Path) -> None:
    chance, path, arrival = random.Random(7), tmp_path / "blob", Arrival()
    read: list[bytes] = []
    attempts = [0]

    def reading() -> None:
        while True:
            attempts[0] += 1
            arrival.wait()
            try:
                read[:] = arrival.pieces()
                return
            except Restarted:
                continue

    thread = threading.Thread(target=reading)
    thread.start()
    with path.open("w+b", buffering=0) as file:
        writer = Writer(file.fileno(), descriptor(CONTENT), arrival)
        writer.resume()
        for turn in range(200):
            wrong = turn < 199
            while writer.missing and not (wrong and chance.random() < 0.2):
                size = min(writer.missing, chance.randrange(1, 50_000))
                part = CONTENT[writer.done : writer.done + size]
                writer.write(bytes(size) if wrong else part)
            if wrong:
                writer.restart()
        writer.verify()
        arrival.complete(path)
        thread.join(30)
    assert not thread.is_alive()
    assert b"".join(read) == CONTENT
    assert attempts[0] > 1
    arrival.close()


def test_the_reader_learns_why_no_more_comes(tmp_path: Path) -> None:
    arrival = Arrival()
    with (tmp_path / "blob").open("w+b", buffering=0) as file:
        writer = Writer(file.fileno(), descriptor(CONTENT), arrival)
        writer.resume()
        writer.write(CONTENT[:1000])
        pieces = arrival.pieces()
        assert next(pieces) == CONTENT[:1000]
        arrival.fail(ValueError("broken"))
        with pytest.raises(ValueError, match="broken"):
            next(pieces)
        with pytest.raises(ValueError, match="broken"):
            arrival.wait(complete=True)
    arrival.close()


def test_reading_along_keeps_no_lock_of_the_writer(tmp_path: Path) -> None:
    arrival, path = Arrival(), tmp_path / "blob"
    with path.open("w+b", buffering=0) as file:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        Writer(file.fileno(), descriptor(CONTENT), arrival).resume()
    other = os.open(path, os.O_RDWR)
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(other)
    arrival.close()
