"""What a probe said, as a state record keeps it."""

from __future__ import annotations

import json

import pytest

from runtime.shim import messages
from runtime.shim.probes import readable


@pytest.mark.parametrize(
    "data", [b"\0" * 4096, b"\xff" * 4096, "é".encode() * 2048, "𝄞".encode() * 1024, b'"' * 4096]
)
def test_no_output_makes_a_record_that_is_too_large_for_a_packet(data: bytes) -> None:
    result = {"started_at": 1.7e9, "finished_at": 1.7e9, "exit_code": 1, "output": readable(data)}
    logs = {name: [result] * messages.HEALTH_LOG_ENTRIES for name in messages.PROBE_LOGS}
    assert len(messages.encode({"ok": True, "state": logs})) < messages.MAX_PACKET - 10_000


def test_lines_stay_and_what_would_be_an_order_to_a_terminal_does_not() -> None:
    assert readable(b"a\tb\r\nc\x1b[2Jd\xff") == "a\tb\r\nc?[2Jd?"
    assert json.loads(json.dumps(readable(b"\x00"))) == "?"
