"""Subnets, addresses, MACs and names: values in, values out."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest

from runtime.net import addresses

NET = IPv4Network("10.88.0.0/24")
GATEWAY = IPv4Address("10.88.0.1")
POOL = IPv4Network("10.88.0.0/16")


def test_the_first_free_subnet_overlaps_nothing() -> None:
    taken = [IPv4Network(text) for text in ("10.88.0.0/24", "10.88.2.0/23", "10.0.0.0/24", "192.168.0.0/16")]
    assert addresses.free_subnet(POOL, taken) == IPv4Network("10.88.1.0/24")
    taken.append(IPv4Network("10.88.1.128/30"))
    assert addresses.free_subnet(POOL, taken) == IPv4Network("10.88.4.0/24")


def test_a_pool_under_a_wider_route_has_no_free_subnet() -> None:
    assert addresses.free_subnet(POOL, [IPv4Network("10.0.0.0/8")]) is None


def test_a_small_pool_is_one_subnet() -> None:
    pool = IPv4Network("10.9.0.128/25")
    assert addresses.free_subnet(pool, []) == pool
    assert addresses.free_subnet(pool, [pool]) is None


def test_an_address_is_not_reused_at_once() -> None:
    first = addresses.next_address(NET, GATEWAY, [], None)
    assert first == IPv4Address("10.88.0.2")
    second = addresses.next_address(NET, GATEWAY, [], first)
    assert second == IPv4Address("10.88.0.3")


def test_allocation_goes_round_and_ends_when_full() -> None:
    small = IPv4Network("10.1.1.0/29")
    gateway = IPv4Address("10.1.1.1")
    taken: list[IPv4Address] = []
    last = None
    for _ in range(5):
        last = addresses.next_address(small, gateway, taken, last)
        assert last is not None
        taken.append(last)
    assert addresses.next_address(small, gateway, taken, last) is None
    freed = taken.pop(0)
    assert addresses.next_address(small, gateway, taken, last) == freed


@pytest.mark.parametrize(
    ("text", "why"), [("10.0.0.1/24", "host bits"), ("fd00::/64", "IPv6"), ("10.0.0.0/31", "too small")]
)
def test_a_bad_subnet_is_refused_in_words(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        addresses.parse_subnet(text)


@pytest.mark.parametrize("text", ["10.88.1.1", "10.88.0.0", "10.88.0.255", "x"])
def test_a_gateway_is_a_host_address_of_its_subnet(text: str) -> None:
    with pytest.raises(ValueError):
        addresses.parse_gateway(text, NET)


def test_macs_are_local_unicast_and_follow_from_the_address() -> None:
    assert addresses.mac_of("10.88.0.2") == "02:5d:0a:58:00:02"


def test_names_fit_the_kernel_and_differ_by_root() -> None:
    names = {addresses.bridge_name(root, "p/net") for root in ("/a", "/b")}
    names |= {addresses.link_name(root, "id", "p/net") for root in ("/a", "/b")}
    assert len(names) == 4
    assert all(len(name) == 15 and name.startswith("st") for name in names)
