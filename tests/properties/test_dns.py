"""Packets of strangers: the reader of questions never fails, and what it reads is what was asked."""

from __future__ import annotations

import struct
from ipaddress import ip_network
from random import Random

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


KNOWN = {b"web", b"www", b"web.s", b"www.s", b"a" * 12}
OWN, LOCAL = (b"\x0a\x01\0\x02",), (b"\x7f\0\0\1", bytes(15) + b"\1")


def said(data: bytes) -> tuple[bytes, int]:
    """The name in lower case and the type of a question that has been found well-formed."""
    parts, at = [], 12
    while data[at]:
        parts.append(data[at + 1 : at + 1 + data[at]].lower().replace(b".", b"\\."))
        at += 1 + data[at]
    return b".".join(parts), int.from_bytes(data[at + 1 : at + 3], "big")


def check_answer(data: bytes, query: wire.Query, found: Answer) -> None:
    """An answer from our own names is to the question, fits, and says what is so and no more."""
    answer = wire.respond(query, found.rcode, found.records)
    assert wire.same_question(data, answer) and len(answer) <= max(query.limit, wire.MAX_UDP)
    name, type = said(data)
    addresses = tuple(record.data for record in found.records if record.type in (wire.A, wire.AAAA))
    local = name == b"localhost" or name.endswith(b".localhost")
    if found.rcode or not (local or name in KNOWN):
        assert addresses == ()
    else:
        size = {wire.A: (4,), wire.AAAA: (16,), wire.ANY: (4, 16)}.get(type, ())
        assert addresses == tuple(item for item in (LOCAL if local else OWN) if len(item) in size)
    assert all(record.type in (wire.A, wire.AAAA, wire.PTR) for record in found.records)
    if found.rcode == wire.NXDOMAIN:
        assert name not in KNOWN and (b"." not in name.replace(b"\\.", b"") or name.endswith(b".arpa"))


def check(data: bytes) -> None:
    """A packet as it comes: it is answered rightly, refused as it deserves, or passed on."""
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
        check_answer(data, query, found)
    assert wire.truncated(query)[:2] == data[:2]


@settings(max_examples=400, deadline=None)
@given(st.one_of(st.binary(max_size=600), questions, cut, turned))
def test_no_packet_breaks_the_reader_and_every_answer_is_to_the_question(data: bytes) -> None:
    check(data)


whole = st.builds(
    lambda id, flags, name, type, klass, edns: (
        struct.pack("!HH4H", id, flags, 1, 0, 0, len(edns) // 11)
        + b"".join(bytes([len(part)]) + part for part in name.split(b"."))
        + struct.pack("!xHH", type, klass)
        + edns
    ),
    u16,
    st.sampled_from([0, wire.RD]),
    st.sampled_from(
        [*sorted(KNOWN), b"wEb", b"localhost", b"2.0.1.10.in-addr.arpa", b"example.org", b"nobody"]
    ),
    st.sampled_from([wire.A, wire.AAAA, wire.ANY, wire.PTR, wire.NS, 15, 16]),
    st.sampled_from([1, 1, 1, 3]),
    st.sampled_from([b"", b"\0" + struct.pack("!HHIH", wire.OPT, 4096, 0x8000, 0)]),
)


def broken(data: bytes, chance: Random) -> bytes:
    """The packet with some of it turned, cut out, doubled or put elsewhere; often it can be read still."""
    made = bytearray(data)
    if chance.random() < 0.4:
        at = chance.randrange(12, len(made))
        made[at] = chance.choice((made[at] ^ 0x20, made[at] ^ 1, made[at]))
        made[:2] = chance.randbytes(2)
        return bytes(made)
    for _ in range(chance.randrange(1, 4)):
        at, end = sorted(chance.randrange(len(made) + 1) for _ in range(2))
        what = chance.randrange(6)
        if what < 3 and made:
            made[at - 1] = chance.choice((0, 1, 0x3F, 0x40, 0xC0, 0xFF, chance.randrange(256)))
        elif what == 3:
            del made[at:end]
        elif what == 4:
            made[at:at] = made[at:end][:64]
        else:
            made[at:at] = chance.randbytes(chance.randrange(8))
    return bytes(made[:2000])


@settings(max_examples=250, deadline=None)
@given(st.one_of(questions, whole), st.integers(0, 2**32))
def test_a_hundred_thousand_broken_packets_neither_break_it_nor_make_it_lie(data: bytes, seed: int) -> None:
    chance = Random(seed)
    sent = wire.respond(wire.parse(bytes(4) + b"\0\1" + bytes(6) + b"\3web\0\0\1\0\1"), wire.NOERROR)
    for _ in range(200):
        packet = broken(data, chance)
        check(packet)
        answer = broken(sent, chance)  # of a server that was asked
        if wire.same_question(sent[:2] + b"\1\0" + sent[4:], answer):
            assert answer[:2] == sent[:2] and answer[4:6] == b"\0\1" and answer[12:21] == sent[12:21]


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
