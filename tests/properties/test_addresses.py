"""Leases never collide, whatever is taken, released and taken again."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

from hypothesis import given
from hypothesis import strategies as st

from runtime.net import addresses

SUBNETS = st.builds(
    lambda base, prefix: IPv4Network((base, prefix), strict=False),
    st.integers(0x0A000000, 0x0AFFFFFF),
    st.integers(26, 30),
)


@given(SUBNETS, st.lists(st.tuples(st.booleans(), st.integers(0, 60)), max_size=200))
def test_leases_never_collide(subnet: IPv4Network, steps: list[tuple[bool, int]]) -> None:
    gateway = addresses.parse_gateway("", subnet)
    held: list[IPv4Address] = []
    last: IPv4Address | None = None
    for take, which in steps:
        if take:
            found = addresses.next_address(subnet, gateway, held, last)
            hosts = subnet.num_addresses - 3
            assert (found is None) == (len(held) == hosts)
            if found is None:
                continue
            assert found in subnet and found not in held and found != gateway
            assert found not in (subnet.network_address, subnet.broadcast_address)
            assert _is_next(subnet, found, last, held, gateway), "a released address is reused last"
            held.append(found)
            last = found
        elif held:
            held.pop(which % len(held))


def _is_next(
    subnet: IPv4Network,
    found: IPv4Address,
    last: IPv4Address | None,
    held: list[IPv4Address],
    gateway: IPv4Address,
) -> bool:
    """Whether nothing free lies between the last lease and the one found, going round."""
    at = int(last) if last is not None else int(subnet.network_address)
    while True:
        at = at + 1 if at + 1 < int(subnet.broadcast_address) else int(subnet.network_address) + 1
        if at == int(found):
            return True
        if IPv4Address(at) not in held and IPv4Address(at) != gateway:
            return False


@given(st.lists(SUBNETS, max_size=20), st.integers(16, 30))
def test_a_free_subnet_overlaps_nothing_and_is_missed_only_when_there_is_none(
    taken: list[IPv4Network], prefix: int
) -> None:
    pool = IPv4Network((0x0A580000, prefix), strict=False)
    found = addresses.free_subnet(pool, taken)
    pieces = pool.subnets(new_prefix=max(24, prefix))
    free = next((piece for piece in pieces if addresses.overlapping(piece, taken) is None), None)
    assert found == free


@given(st.sets(st.integers(0, 2**32 - 1), min_size=2, max_size=50))
def test_macs_differ_as_addresses_do(numbers: set[int]) -> None:
    assert len({addresses.mac_of(IPv4Address(number)) for number in numbers}) == len(numbers)
