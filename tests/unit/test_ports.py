"""Which published ports stand in each other's way."""

from __future__ import annotations

import pytest

from runtime.net import listening, ports
from runtime.net.ports import Listener
from specs.values import PortBinding


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (PortBinding("", 80, 1), PortBinding("", 80, 2), True),
        (PortBinding("", 80, 1), PortBinding("127.0.0.1", 80, 2), True),
        (PortBinding("0.0.0.0", 80, 1), PortBinding("127.0.0.1", 80, 2), True),
        (PortBinding("127.0.0.1", 80, 1), PortBinding("127.0.0.2", 80, 2), False),
        (PortBinding("", 80, 1), PortBinding("", 81, 1), False),
        (PortBinding("", 80, 1, "udp"), PortBinding("", 80, 1, "tcp"), False),
    ],
)
def test_bindings_overlap_by_address_port_and_protocol(
    one: PortBinding, other: PortBinding, expected: bool
) -> None:
    assert ports.overlap(one, other) is ports.overlap(other, one) is expected


@pytest.mark.parametrize(
    ("listener", "binding", "expected"),
    [
        (Listener("tcp", "0.0.0.0", 80), PortBinding("127.0.0.1", 80, 1), True),
        (Listener("tcp", "::", 80), PortBinding("", 80, 1), True),
        (Listener("tcp", "127.0.0.1", 80), PortBinding("", 80, 1), True),
        (Listener("tcp", "127.0.0.1", 80), PortBinding("192.0.2.1", 80, 1), False),
        (Listener("tcp", "::1", 80), PortBinding("", 80, 1), True),
        (Listener("tcp", "::1", 80), PortBinding("0.0.0.0", 80, 1), False),
        (Listener("tcp", "::", 80), PortBinding("0.0.0.0", 80, 1), True),
        (Listener("tcp", "::", 80, only6=True), PortBinding("0.0.0.0", 80, 1), False),
        (Listener("tcp", "::", 80, only6=True), PortBinding("::1", 80, 1), True),
        (Listener("tcp", "127.0.0.1", 80), PortBinding("::", 80, 1), False),
        (Listener("udp", "0.0.0.0", 80), PortBinding("", 80, 1), False),
    ],
)
def test_a_listener_on_the_same_packets_is_a_conflict(
    listener: Listener, binding: PortBinding, expected: bool
) -> None:
    assert (ports.conflict(binding, [listener]) is not None) is expected


def test_lines_of_proc_are_read() -> None:
    text = (
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
        "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4242 1\n"
        "   1: 0100007F:1F90 0100007F:C000 01 00000000:00000000 00:00000000 00000000     0        0 4243 1\n"
    )
    assert list(listening.parse_table("tcp", "0A", text)) == [Listener("tcp", "127.0.0.1", 8080, 4242)]


def test_endpoints_of_sctp_are_read() -> None:
    text = (
        " ENDPT     SOCK   STY SST HBKT LPORT   UID INODE LADDRS\n"
        "ffff8880 ffff8881 2   10  29   9000      0 4244 127.0.0.1 ::1\n"
    )
    assert list(listening.parse_endpoints(text)) == [
        Listener("sctp", "127.0.0.1", 9000, 4244),
        Listener("sctp", "::1", 9000, 4244),
    ]


def test_a_random_port_is_the_same_again_where_it_is_free() -> None:
    asked, span = PortBinding("", 0, 80), (40000, 40009)
    first = ports.choose(asked, span, "node shop/web", lambda _: False)
    assert first is not None and first.is_fixed and 40000 <= first.host_port <= 40009
    assert ports.choose(asked, span, "node shop/web", lambda _: False) == first
    seeds = {ports.choose(asked, span, f"node shop/{n}", lambda _: False) for n in range(50)}
    assert len(seeds) > 5, "others begin elsewhere"
    other = ports.choose(asked, span, "node shop/web", lambda found: found == first)
    assert other is not None and other != first
    assert ports.choose(asked, span, "node shop/web", lambda _: True) is None


def test_of_a_range_the_first_free_port_is_taken() -> None:
    asked = PortBinding("", 8000, 80, "udp", 8002)
    found = ports.choose(asked, (1, 2), "x", lambda binding: binding.host_port == 8000)
    assert found == PortBinding("", 8001, 80, "udp")
