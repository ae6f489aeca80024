"""Effects: elements of the maps of published ports, added and removed in one nftables transaction; and found.

The messages of nfnetlink are packed here, as starting the nft command takes twenty times as long. Only maps
without intervals; everything else goes through nft. linux/netfilter/nf_tables.h, nfnetlink.h; the layout of
a key is that of nft(8): each part of a concatenation is padded to 32 bits.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping

from runtime.net.contents import KEYS, Element
from runtime.net.netlink import (
    NETLINK_NETFILTER,
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    Netlink,
    attribute,
    attributes,
)

NFTABLES = 10
_NEWSETELEM, _DELSETELEM = NFTABLES << 8 | 12, NFTABLES << 8 | 14
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_BATCH_GENID = 1
_GETSETELEM = NFTABLES << 8 | 13
_FAMILIES = {"inet": 1, "ip": 2}  # NFPROTO_*
_LIST_TABLE, _LIST_SET, _LIST_ELEMENTS = 1, 2, 3
_LIST_ELEM, _ELEM_KEY, _ELEM_DATA, _DATA_VALUE = 1, 1, 2, 1
_NESTED = 0x8000
#: Elements of one message: an attribute is shorter than 64 KiB.
_MANY = 500

#: Map -> keys that it loses and elements (key, value) that it gets.
Change = Mapping[str, tuple[Iterable[Element], Iterable[Element]]]


def change(table: str, changes: Change, generation: int) -> None:
    """One transaction: every loss, then every gain. Raises OSError, and nothing has changed then: ERESTART
    when another transaction came after `generation`, ENOENT or EEXIST when an element is not as expected."""
    begin = struct.pack("=BBH", socket.AF_UNSPEC, 0, socket.htons(NFTABLES))
    messages = [(_BATCH_BEGIN, 0, begin + attribute(_BATCH_GENID, struct.pack("!I", generation)))]
    for name, (losses, _) in changes.items():
        messages += [(_DELSETELEM, NLM_F_ACK, body) for body in _bodies(table, name, losses, False)]
    for name, (_, gains) in changes.items():
        flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL
        messages += [(_NEWSETELEM, flags, body) for body in _bodies(table, name, gains, True)]
    messages.append((_BATCH_END, 0, struct.pack("=BBH", socket.AF_UNSPEC, 0, socket.htons(NFTABLES))))
    with Netlink(NETLINK_NETFILTER) as netlink:
        code = netlink.batch(messages)
    if code:
        raise OSError(code, os.strerror(code), table)


def has(family: str, table: str, name: str, key: Element) -> bool:
    """Whether a map has an element of this key, at a cost that does not grow with the map."""
    element = attribute(_LIST_ELEM | _NESTED, attribute(_ELEM_KEY | _NESTED, _value(pack_key(name, key))))
    try:
        with Netlink(NETLINK_NETFILTER) as netlink:
            body = _head(family, table, name) + attribute(_LIST_ELEMENTS | _NESTED, element)
            return bool(netlink.ask(_GETSETELEM, body))
    except OSError:  # no such element, map or table
        return False


def keys(family: str, table: str, name: str) -> Iterator[bytes]:
    """The packed key of every element of a map (pack_key); none where there is no such map."""
    try:
        with Netlink(NETLINK_NETFILTER) as netlink:
            answers = netlink.ask(_GETSETELEM, _head(family, table, name), NLM_F_DUMP)
    except OSError:
        return
    for answer in answers:
        listed = attributes(answer, 4).get(_LIST_ELEMENTS, b"")
        at = 0
        while at + 4 <= len(listed):
            (length,) = struct.unpack_from("=H", listed, at)
            if length < 4:
                break
            found = attributes(attributes(listed[at + 4 : at + length]).get(_ELEM_KEY, b""))
            yield found.get(_DATA_VALUE, b"")
            at += (length + 3) & ~3


def _head(family: str, table: str, name: str) -> bytes:
    head = struct.pack("=BBH", _FAMILIES[family], 0, 0)
    return head + attribute(_LIST_TABLE, table.encode() + b"\0") + attribute(_LIST_SET, name.encode() + b"\0")


def _value(data: bytes) -> bytes:
    return attribute(_DATA_VALUE, data)


def _bodies(table: str, name: str, elements: Iterable[Element], with_value: bool) -> Iterable[bytes]:
    """As many messages as the elements need."""
    items = [_element(name, element, with_value) for element in sorted(elements)]
    head = _head("inet", table, name)
    for at in range(0, len(items), _MANY):
        yield head + attribute(_LIST_ELEMENTS | _NESTED, b"".join(items[at : at + _MANY]))


def _element(name: str, element: Element, with_value: bool) -> bytes:
    size = KEYS[name]
    parts = attribute(_ELEM_KEY | _NESTED, _value(pack_key(name, element[:size])))
    if with_value:
        address, port = element[size:]
        value = _address(address) + struct.pack("!HH", int(port), 0)
        parts += attribute(_ELEM_DATA | _NESTED, _value(value))
    return attribute(_LIST_ELEM | _NESTED, parts)


def pack_key(name: str, key: Element) -> bytes:
    """[address,] protocol, port[, slot]; a slot is a number of the machine's order (numgen)."""
    packed = b""
    if name.endswith("_at"):
        packed, key = _address(key[0]), key[1:]
    packed += struct.pack("=BBH", int(key[0]), 0, 0) + struct.pack("!HH", int(key[1]), 0)
    return packed + (struct.pack("=I", int(key[2])) if len(key) > 2 else b"")


def _address(text: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)
