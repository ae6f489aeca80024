"""Decisions: DNS messages as bytes. RFC 1035 section 4, RFC 6891 (EDNS), RFC 2181, RFC 9619 (one question).

Packets are untrusted: what is not well-formed raises Malformed with the answer that it deserves, and nothing
else is ever raised. Names are bytes as on the wire (labels with their lengths, the root's 0 at the end), in
lower case for comparing; an answer repeats the question as it was asked, so that the case survives.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

A, NS, SOA, PTR, AAAA, OPT, DS, DNSKEY, IXFR, AXFR, ANY = 1, 2, 6, 12, 28, 41, 43, 48, 251, 252, 255
IN = 1
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = 0, 1, 2, 3, 4, 5
#: Extended code of RFC 6891: its upper eight bits are 1, the four of the header 0.
BADVERS = 16

QR, AA, TC, RD, RA = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080
#: CD (checking disabled) is the asker's, and repeated: RFC 4035 section 3.2.2.
_KEPT = RD | 0x0010
_OPCODE = 0x7800

HEADER = 12
#: Bytes of a name with its lengths, of a label (RFC 1035, 2.3.4), of a UDP answer without EDNS (4.2.1).
MAX_NAME, MAX_LABEL, MAX_UDP = 255, 63, 512
#: The UDP size that we offer and use at most: what passes every path unbroken (DNS flag day 2020).
OUR_UDP = 1232
MAX_MESSAGE = 65535
#: Records beyond the question that a query may have (OPT, TSIG, SIG(0)).
MAX_ADDITIONAL = 4

_HEADER = struct.Struct("!HHHHHH")
_RECORD = struct.Struct("!HHIH")
_PLAIN = b"abcdefghijklmnopqrstuvwxyz0123456789-._"
_OWNER = b"\xc0\x0c"  # a pointer to the question's name


class Malformed(Exception):
    """A packet that is no query. `answer` is what to send back; None: nothing."""

    def __init__(self, answer: bytes | None) -> None:
        super().__init__("malformed query")
        self.answer = answer


@dataclass(frozen=True, slots=True)
class Query:
    """`name` is lower case, `question` as it was sent (name, type, class). `limit` is how many bytes of
    answer the asker takes by UDP; `edns` whether it sent an OPT record, `version` that record's, `do` its
    DNSSEC bit."""

    id: int
    flags: int
    name: bytes
    type: int
    klass: int
    question: bytes
    limit: int = MAX_UDP
    edns: bool = False
    version: int = 0
    do: bool = False

    @property
    def labels(self) -> int:
        """How many labels the name has; 0: the root."""
        return len(labels(self.name))


@dataclass(frozen=True, slots=True)
class Record:
    """A record of the name that was asked for, in class IN."""

    type: int
    data: bytes


# ---------------------------------------------------------------- names


def labels(name: bytes) -> list[bytes]:
    """The labels of a name that is well-formed."""
    found, at = [], 0
    while name[at]:
        found.append(name[at + 1 : at + 1 + name[at]])
        at += 1 + name[at]
    return found


def encode_name(text: str) -> bytes | None:
    """`a.b` as on the wire in lower case; None where it cannot be a name."""
    if not text.isascii():
        return None
    parts = text.lower().rstrip(".").split(".") if text.rstrip(".") else []
    if any(not 0 < len(part) <= MAX_LABEL for part in parts):
        return None
    name = b"".join(bytes((len(part),)) + part.encode() for part in parts) + b"\0"
    return name if len(name) <= MAX_NAME else None


def plain_text(name: bytes) -> str:
    """A name that is well-formed as a hosts file has it; empty where other letters are in it: hosts(5)."""
    text = b".".join(labels(name))
    return text.decode() if text and not text.translate(None, _PLAIN) else ""


def reverse_name(address: str) -> bytes:
    """The name under in-addr.arpa or ip6.arpa of an address: RFC 1035 section 3.5, RFC 3596 section 2.5."""
    if ":" in address:
        nibbles = socket.inet_pton(socket.AF_INET6, address).hex()
        text = ".".join(reversed(nibbles)) + ".ip6.arpa"
    else:
        text = ".".join(reversed(address.split("."))) + ".in-addr.arpa"
    name = encode_name(text)
    assert name is not None
    return name


def address_of(name: bytes) -> bytes | None:
    """The packed address whose reverse name this is; None for every other name."""
    parts = labels(name)
    try:
        if len(parts) == 6 and parts[4:] == [b"in-addr", b"arpa"]:
            return socket.inet_aton(_decimal(parts[3::-1]))
        if len(parts) == 34 and parts[32:] == [b"ip6", b"arpa"]:
            return bytes.fromhex(b"".join(parts[31::-1]).decode("ascii"))
    except (OSError, ValueError):
        return None
    return None


def _decimal(parts: Sequence[bytes]) -> str:
    """Four numbers of at most three digits: inet_aton(3) would take hexadecimal and octal ones as well."""
    for part in parts:
        if not (part.isdigit() and len(part) <= 3 and int(part) < 256):
            raise ValueError("no address")
    return ".".join(str(int(part)) for part in parts)


# ---------------------------------------------------------------- queries


def parse(data: bytes) -> Query:
    """A query with one question. Raises Malformed for everything else, answers included."""
    if len(data) < HEADER:
        raise Malformed(None)
    id, flags, questions, answers, authorities, additional = _HEADER.unpack_from(data)
    if flags & QR:
        raise Malformed(None)
    if flags & _OPCODE:
        raise Malformed(bare(id, flags, NOTIMP))
    wrong = Malformed(bare(id, flags, FORMERR))
    if questions != 1 or answers or authorities > 1 or additional > MAX_ADDITIONAL:
        raise wrong
    end = _plain_name(data, HEADER)
    if end is None or end + 4 > len(data):
        raise wrong
    question = data[HEADER : end + 4]
    type, klass = struct.unpack_from("!HH", data, end)
    options = _options(data, end + 4, authorities + additional)
    if options is None or (authorities and type != IXFR):
        raise wrong
    edns, size, version, do = options
    limit = max(size, MAX_UDP) if edns else MAX_UDP
    return Query(id, flags, question[:-4].lower(), type, klass, question, limit, edns, version, do)


def _plain_name(data: bytes, at: int) -> int | None:
    """Where the uncompressed name that begins at `at` ends; None when it does not, or is too long."""
    start = at
    while at < len(data):
        size = data[at]
        at += 1 + size
        if size == 0:
            return at if at - start <= MAX_NAME else None
        if size > MAX_LABEL:
            return None
    return None


def _any_name(data: bytes, at: int) -> int | None:
    """Where a name that may end in a pointer ends; where the pointer leads is of no interest here."""
    start = at
    while at < len(data) and at - start < MAX_NAME:
        size = data[at]
        if size >= 0xC0:
            return at + 2 if at + 2 <= len(data) else None
        if size > MAX_LABEL:
            return None
        at += 1 + size
        if size == 0:
            return at
    return None


def _options(data: bytes, at: int, count: int) -> tuple[bool, int, int, bool] | None:
    """(there is EDNS, UDP size, version, DO) of the records after the question; None when they are not as
    they should be, or when something follows them."""
    edns = (False, 0, 0, False)
    for _ in range(count):
        end = _any_name(data, at)
        if end is None or end + _RECORD.size > len(data):
            return None
        type, klass, ttl, size = _RECORD.unpack_from(data, end)
        if type == OPT:
            if edns[0] or data[at] != 0:
                return None
            edns = (True, klass, ttl >> 16 & 0xFF, bool(ttl & 0x8000))
        at = end + _RECORD.size + size
        if at > len(data):
            return None
    return edns if at == len(data) else None


def same_question(query: bytes, answer: bytes) -> bool:
    """Whether `answer` is one to `query`, which is well-formed: its id and its question, case included."""
    if len(answer) < HEADER or answer[:2] != query[:2] or not answer[2] & 0x80:
        return False
    end = _plain_name(query, HEADER)
    assert end is not None
    size = end + 4
    return answer[4:6] == b"\0\1" and answer[HEADER:size] == query[HEADER:size]


def rcode_of(answer: bytes) -> int:
    return answer[3] & 0xF


# ---------------------------------------------------------------- answers


def bare(id: int, flags: int, rcode: int) -> bytes:
    """An answer that has a header only, to what cannot be read any further."""
    return _HEADER.pack(id, QR | RA | flags & (_KEPT | _OPCODE) | rcode, 0, 0, 0, 0)


def respond(
    query: Query,
    rcode: int,
    records: Iterable[Record] = (),
    *,
    ttl: int = 0,
    limit: int = 0,
    own: bool = True,
) -> bytes:
    """The answer to `query`, at most `limit` bytes (0: by UDP, as the query allows). What does not fit is
    left out, and TC says so. `own`: we are the authority."""
    limit = limit or min(query.limit, OUR_UDP)
    tail = _opt(query, rcode) if query.edns else b""
    parts, size, count, flags = [], HEADER + len(query.question) + len(tail), 0, QR | RA
    for record in records:
        size += len(_OWNER) + _RECORD.size + len(record.data)
        if size > limit:
            flags |= TC
            break
        head = _RECORD.pack(record.type, IN, ttl, len(record.data))
        parts.append(_OWNER + head + record.data)
        count += 1
    flags |= query.flags & _KEPT | (AA if own else 0) | rcode & 0xF
    header = _HEADER.pack(query.id, flags, 1, count, 0, 1 if tail else 0)
    return b"".join((header, query.question, *parts, tail))


def truncated(query: Query) -> bytes:
    """Nothing but the advice to ask by TCP."""
    tail = _opt(query, NOERROR) if query.edns else b""
    flags = QR | RA | TC | query.flags & _KEPT
    return _HEADER.pack(query.id, flags, 1, 0, 0, 1 if tail else 0) + query.question + tail


def _opt(query: Query, rcode: int) -> bytes:
    """Our OPT record: size, the upper bits of the code, version 0, the asker's DO bit."""
    extended = rcode >> 4 << 24 | (0x8000 if query.do else 0)
    return b"\0" + _RECORD.pack(OPT, OUR_UDP, extended, 0)
