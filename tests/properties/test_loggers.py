"""Output that goes on to a logger, whatever pieces it comes in."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.shim.loggers import MAX_LINE, Lines, Queue
from runtime.shim.logs import LogWriter
from runtime.shim.messages import STDERR, STDOUT

pieces = st.binary(max_size=40) | st.sampled_from([b"\n", b"\n\n", b"x" * MAX_LINE, b"y" * (MAX_LINE + 1)])
streams = st.sampled_from([STDOUT, STDERR])


def joined(lines: Lines, chunks: list[tuple[int, bytes]]) -> dict[int, bytes]:
    """What each stream said, put together again from its messages."""
    found = {STDOUT: b"", STDERR: b""}
    for stream, data in chunks:
        for message in lines.feed(stream, 0, data):
            assert len(message.data) <= MAX_LINE and b"\n" not in message.data
            assert not message.partial or len(message.data) == MAX_LINE
            found[message.stream] += message.data + (b"" if message.partial else b"\n")
    for message in lines.rest():
        found[message.stream] += message.data
    return found


@given(st.lists(st.tuples(streams, pieces), max_size=30))
def test_messages_put_together_are_what_was_written(chunks: list[tuple[int, bytes]]) -> None:
    expected = {
        stream: b"".join(data for one, data in chunks if one == stream) for stream in (STDOUT, STDERR)
    }
    assert joined(Lines({}), chunks) == expected


class Told(LogWriter):
    """A log whose queue hears of each chunk."""

    queue: Queue | None = None

    def _record(self, length: int, stream: int) -> None:
        number = self._number
        super()._record(length, stream)
        assert self.queue is not None
        self.queue.grew(number, length)


steps = st.tuples(st.integers(1, 6000), st.booleans(), st.booleans())


@settings(max_examples=40, deadline=None)
@given(st.lists(steps, max_size=30))
def test_a_queue_gives_every_chunk_in_order_over_rotation_and_deaths(
    steps: list[tuple[int, bool, bool]],
) -> None:
    """Each step writes; then maybe the queue is read to its end, maybe it dies and another one follows."""
    with tempfile.TemporaryDirectory() as directory:
        log = Told(str(Path(directory, "log")), 4096, 1000)
        log.queue = queue = Queue(log.directory)
        said = got = b""
        for number, (size, reads, dies) in enumerate([*steps, (1, True, False)]):
            data = bytes([number]) * size
            said += data
            log.write(data, STDOUT)
            while reads and (chunk := queue.next()) is not None:
                got += chunk[2]
                queue.done({})
            if reads:
                assert queue.size == 0
            if dies:
                queue.close()
                log.queue = queue = Queue(log.directory)
        assert (got, queue.lost) == (said, 0)
        queue.close()
        log.close()
