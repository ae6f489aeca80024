"""Packets of strangers: the reader of questions never fails, and what it reads is what was asked."""

from __future__ import annotations

import struct
from ipaddress import ip_network

from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.net.dns import wire
from runtime.net.dns.wire import Malformed
from runtime.net.dns.zone import Answer, Endpoint, Forward, Member, Network, Zone

NET = Network("s/n", ("10.1.0.1",), (ip_network("10.1.0.0/24"),))
ZONE = Zone([NET])
ZONE.put(Member("a" * 32, "s/web", (Endpoint("s/n", ("10.1.0.2",), ("www",)),)), up=True)
ASKER = ZONE.asker(NET, "10.1.0.2")

labels = st.one_of(
    st.sampled_from([b"web", b"WWW", b"s", b"localhost", b"arpa"]), st.binary(min_size=1, max_size=63)
)
names = st.lists(labels, max_size=4).map(lambda parts: b"".join(bytes([len(p)]) + p for p in parts) + b"\0")
u16 = st.integers(0, 0xFFFF)
records = st.builds(
    lambda name, type, klass, ttl, data: name + struct.pack("!HHIH", type, klass, ttl, len(data)) + data,
    st.sampled_from([b"\0", b"\xc0\x0c", b"\1a\0", b"\xc0"]),
    st.one_of(st.just(wire.OPT), u16),
    u16,
    st.integers(0, 2**32 - 1),
    st.binary(max_size=20),
)
questions = st.builds(
    lambda id, flags, counts, name, type, klass, more: (
        struct.pack("!HH4H", id, flags, *counts) + name + struct.pack("!HH", type, klass) + b"".join(more)
    ),
    u16,
    st.one_of(st.sampled_from([0, wire.RD]), u16),
    st.one_of(st.just((1, 0, 0, 0)), st.just((1, 0, 0, 1)), st.tuples(u16, u16, u16, u16)),
    names,
    st.one_of(st.sampled_from([1, 2, 6, 12, 28, 43, 252, 255]), u16),
    st.one_of(st.just(1), u16),
    st.lists(records, max_size=3),
)
cut = st.builds(lambda data, at: data[: at % (len(data) + 1)], questions, u16)
turned = st.builds(
    lambda data, at, byte: data[: at % len(data)] + bytes([byte]) + data[at % len(data) + 1 :],
    questions,
    u16,
    st.integers(0, 255),
)


@settings(max_examples=2000, deadline=None)
@given(st.one_of(st.binary(max_size=600), questions, cut, turned))
def test_no_packet_breaks_the_reader_and_every_answer_is_to_the_question(data: bytes) -> None:
    try:
        query = wire.parse(data)
    except Malformed as wrong:
        answer = wrong.answer
        assert answer is None or (len(answer) == 12 and answer[:2] == data[:2] and answer[3] & 15 in (1, 4))
        return
    assert data[12:].startswith(query.question) and len(query.name) <= wire.MAX_NAME
    assert ASKER is not None
    found = ZONE.answer(ASKER, query)
    assert isinstance(found, Answer | Forward)
    if isinstance(found, Answer):
        answer = wire.respond(query, found.rcode, found.records)
        assert wire.same_question(data, answer) and len(answer) <= max(query.limit, wire.MAX_UDP)
        addresses = [record for record in found.records if record.type == wire.A]
        known = {b"\3web\0", b"\3www\0", b"\3web\1s\0", b"\3www\1s\0", b"\x0caaaaaaaaaaaa\0"}
        if addresses and not query.name.endswith(b"\x09localhost\0"):
            assert query.name in known


@given(st.lists(st.tuples(st.integers(2, 6), st.booleans(), st.booleans()), max_size=30))
def test_a_zone_that_changed_step_by_step_is_the_one_that_is_made_at_once(
    steps: list[tuple[int, bool, bool]],
) -> None:
    stepwise, last = Zone([NET]), {}
    for number, there, up in steps:
        member = Member(f"{number:032}", f"s/c{number}", (Endpoint("s/n", (f"10.1.0.{number}",), ("r",)),))
        if there:
            stepwise.put(member, up=up)
            last[number] = (member, up)
        else:
            stepwise.drop(member.id)
            last.pop(number, None)
    once = Zone([NET])
    for member, up in last.values():
        once.put(member, up=up)
    query = wire.parse(bytes(4) + b"\0\1" + bytes(6) + b"\1r\0" + b"\0\1\0\1")
    asker = once.asker(NET, "10.1.0.200")
    assert asker is not None
    answers = [made.answer(asker, query) for made in (stepwise, once)]
    assert all(isinstance(answer, Answer) for answer in answers)
    assert len({(a.rcode, frozenset(a.records)) for a in answers if isinstance(a, Answer)}) == 1
    assert stepwise._reverse == once._reverse and stepwise._clients == once._clients
