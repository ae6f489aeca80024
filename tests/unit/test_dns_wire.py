"""DNS messages: what is read of a question, what is refused, what an answer looks like."""

from __future__ import annotations

import struct

import pytest

from runtime.net.dns import wire
from runtime.net.dns.wire import Malformed, Record

WWW = b"\x03wWw\x04shop\x00"
OPT_4096_DO = b"\x00" + struct.pack("!HHIH", wire.OPT, 4096, 0x8000, 0)


def question(name: bytes = WWW, type: int = wire.A, *, flags: int = wire.RD, tail: bytes = b"") -> bytes:
    counts = struct.pack("!HHHH", 1, 0, 0, 1 if tail else 0)
    return struct.pack("!HH", 0x1234, flags) + counts + name + struct.pack("!HH", type, 1) + tail


def test_a_question_is_compared_in_lower_case_and_answered_as_it_was_asked() -> None:
    query = wire.parse(question())
    assert (query.id, query.name, query.type, query.labels) == (0x1234, b"\x03www\x04shop\x00", wire.A, 2)
    answer = wire.respond(query, wire.NOERROR, [Record(wire.A, b"\x0a\x58\x00\x02")], ttl=7)
    flags = wire.QR | wire.AA | wire.RD | wire.RA
    head = struct.pack("!HHHHHH", 0x1234, flags, 1, 1, 0, 0)
    record = b"\xc0\x0c" + struct.pack("!HHIH", wire.A, 1, 7, 4) + b"\x0a\x58\x00\x02"
    assert answer == head + WWW + struct.pack("!HH", wire.A, 1) + record


def test_edns_is_answered_with_our_size_and_the_askers_do_bit() -> None:
    query = wire.parse(question(tail=OPT_4096_DO))
    assert (query.edns, query.limit, query.do) == (True, 4096, True)
    assert wire.respond(query, wire.NOERROR).endswith(
        b"\x00" + struct.pack("!HHIH", wire.OPT, wire.OUR_UDP, 0x8000, 0)
    )
    assert wire.respond(query, wire.BADVERS)[-6:-2] == struct.pack("!I", 1 << 24 | 0x8000)


def test_what_does_not_fit_is_left_out_and_said() -> None:
    records = [Record(wire.A, bytes((10, 0, n >> 8, n & 255))) for n in range(100)]
    by_udp = wire.respond(wire.parse(question()), wire.NOERROR, records)
    assert len(by_udp) <= wire.MAX_UDP and by_udp[2] & 2
    by_tcp = wire.respond(wire.parse(question()), wire.NOERROR, records, limit=wire.MAX_MESSAGE)
    assert not by_tcp[2] & 2 and by_tcp[6:8] == b"\x00\x64"


@pytest.mark.parametrize(
    ("data", "rcode"),
    [
        (b"", None),
        (question()[:11], None),
        (question(flags=wire.QR), None),
        (question(flags=5 << 11), wire.NOTIMP),
        (question()[:-1], wire.FORMERR),
        (question() + b"\x00", wire.FORMERR),
        (question(b"\xc0\x0c"), wire.FORMERR),
        (question(b"\x40" + b"a" * 64 + b"\x00"), wire.FORMERR),
        (question((b"\x3f" + b"a" * 63) * 4 + b"\x00"), wire.FORMERR),
        (question(tail=OPT_4096_DO + OPT_4096_DO), wire.FORMERR),
        (question(tail=b"\x01a" + OPT_4096_DO), wire.FORMERR),
        (question(tail=OPT_4096_DO[:-2] + b"\xff\xff"), wire.FORMERR),
        (question()[:4] + b"\x00\x02" + question()[6:], wire.FORMERR),
        (question()[:4] + b"\x00\x00" + question()[6:], wire.FORMERR),
        (question()[:6] + b"\x00\x01" + question()[8:], wire.FORMERR),
        (question()[:10] + b"\xff\xff" + question()[12:], wire.FORMERR),
    ],
)
def test_what_is_no_question_gets_the_code_that_it_deserves_or_nothing(
    data: bytes, rcode: int | None
) -> None:
    with pytest.raises(Malformed) as caught:
        wire.parse(data)
    answer = caught.value.answer
    if rcode is None:
        assert answer is None
    else:
        assert answer is not None and len(answer) == wire.HEADER
        assert answer[:2] == data[:2] and wire.rcode_of(answer) == rcode and answer[2] & 0x80


def test_an_answer_counts_only_with_the_id_and_the_question_that_were_sent() -> None:
    sent = question()
    good = wire.respond(wire.parse(sent), wire.NXDOMAIN)
    assert wire.same_question(sent, good)
    assert not wire.same_question(sent, b"\x00\x00" + good[2:])
    assert not wire.same_question(sent, good.replace(b"wWw", b"www"))
    assert not wire.same_question(sent, sent)
    assert not wire.same_question(sent, good[:11])


@pytest.mark.parametrize("address", ["10.88.0.2", "fd00:5d::1:2", "0.0.0.0", "::"])
def test_reverse_names_lead_back_to_their_addresses(address: str) -> None:
    from ipaddress import ip_address

    assert wire.address_of(wire.reverse_name(address)) == ip_address(address).packed


@pytest.mark.parametrize(
    "text", ["1.2.3.in-addr.arpa", "1.2.3.256.in-addr.arpa", "0x1.2.3.4.in-addr.arpa", "x.ip6.arpa"]
)
def test_other_names_under_arpa_are_no_addresses(text: str) -> None:
    name = wire.encode_name(text)
    assert name is not None and wire.address_of(name) is None


@pytest.mark.parametrize("text", ["a..b", "a" * 64, "ä", ".".join(["abcdefg"] * 40)])
def test_what_cannot_be_a_name_is_none(text: str) -> None:
    assert wire.encode_name(text) is None
