"""What the runtime tells the name server, and what an older release told it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from runtime.net.dns import documents
from runtime.net.dns.zone import Endpoint, Files, Member

MEMBER = Member(
    "a" * 32,
    "shop/web",
    (Endpoint("shop/net", ("10.88.0.2", "fd00::2"), ("www",)),),
    "front",
    ("192.0.2.1",),
    Files("/var/lib/stead/containers/a", "10.88.0.1", ("a.test",), ("ndots:1",), True),
    leaving=True,
)


def test_a_member_is_read_as_it_was_written() -> None:
    assert documents.decode_member(documents.encode_member(MEMBER)) == MEMBER


def test_a_member_that_an_older_release_wrote_has_no_files_to_follow() -> None:
    document = json.loads(documents.encode_member(MEMBER))
    del document["files"], document["leaving"]
    assert documents.decode_member(json.dumps(document).encode()) == replace(
        MEMBER, files=Files(), leaving=False
    )


@pytest.mark.parametrize(
    ("phase", "health", "standing"),
    [
        ("running", "none", (True, True)),
        ("running", "healthy", (True, True)),
        ("running", "starting", (True, False)),
        ("running", "unhealthy", (False, False)),
        ("starting", "none", (True, False)),
        ("backoff", "none", (False, False)),
        ("exited", "healthy", (False, False)),
    ],
)
def test_a_containers_phase_and_health_decide_on_its_names(
    phase: str, health: str, standing: tuple[bool, bool]
) -> None:
    text = json.dumps({"v": 1, "phase": phase, "health": health})
    assert documents.standing(text.encode()) == standing
