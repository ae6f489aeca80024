"""Who is called what, by whom, and what is passed on."""

from __future__ import annotations

import socket
import struct
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from runtime.net.dns import wire
from runtime.net.dns.zone import Answer, Asker, Endpoint, Forward, Member, Network, Zone

FRONT = Network(
    "shop/front", ("10.1.0.1", "fd00:1::1"), (ip_network("10.1.0.0/24"), ip_network("fd00:1::/64"))
)
BACK = Network("shop/back", ("10.2.0.1",), (ip_network("10.2.0.0/24"),), internal=True)
WEB = Member(
    "a" * 32,
    "shop/web",
    (Endpoint("shop/front", ("10.1.0.2", "fd00:1::2"), ("www",)), Endpoint("shop/back", ("10.2.0.2",))),
    hostname="Frontdoor",
)
DB = Member("b" * 32, "shop/db", (Endpoint("shop/back", ("10.2.0.3",), ("data.base",)),))
OTHER = Member("c" * 32, "blog/web", (Endpoint("shop/front", ("10.1.0.4",)),))
TYPES = {"A": wire.A, "AAAA": wire.AAAA, "PTR": wire.PTR, "MX": 15, "NS": wire.NS, "ANY": wire.ANY}


def zone(*members: Member) -> Zone:
    made = Zone((FRONT, BACK))
    for member in members or (WEB, DB, OTHER):
        made.put(member, up=True)
    return made


def ask(made: Zone, network: Network, source: str, name: str, type: str = "A") -> Answer | Forward | None:
    asker = made.asker(network, source)
    encoded = wire.encode_name(name)
    assert encoded is not None
    question = encoded + struct.pack("!HH", TYPES[type], 1)
    return made.answer(asker, wire.parse(bytes(4) + b"\0\1" + bytes(6) + question)) if asker else None


def addresses(made: Zone, network: Network, source: str, name: str, type: str = "A") -> list[str] | int:
    """What is answered, or the code of a refusal."""
    found = ask(made, network, source, name, type)
    assert isinstance(found, Answer), found
    if found.rcode:
        return found.rcode
    return sorted(str(ip_address(record.data)) for record in found.records)


@pytest.mark.parametrize("name", ["web", "WEB", "web.shop", "www", "a" * 12, "frontdoor"])
def test_a_container_has_its_name_its_aliases_its_short_id_and_its_hostname(name: str) -> None:
    assert addresses(zone(), FRONT, "10.1.0.2", name) == ["10.1.0.2"]
    assert addresses(zone(), FRONT, "10.1.0.2", name, "AAAA") == ["fd00:1::2"]


def test_a_name_with_addresses_of_one_family_has_none_of_the_other_and_no_other_records() -> None:
    for type in ("AAAA", "MX", "NS"):
        assert addresses(zone(), BACK, "10.2.0.2", "db", type) == []


def test_aliases_belong_to_one_network() -> None:
    assert addresses(zone(), BACK, "10.2.0.3", "www") == wire.NXDOMAIN
    assert addresses(zone(), BACK, "10.2.0.3", "data.base") == ["10.2.0.3"]


def test_all_networks_of_the_asker_count_whichever_gateway_it_asks() -> None:
    for network, source in ((FRONT, "10.1.0.2"), (BACK, "10.2.0.2")):
        assert addresses(zone(), network, source, "db") == ["10.2.0.3"]


def test_names_of_networks_that_are_not_shared_do_not_exist() -> None:
    assert addresses(zone(), FRONT, "10.1.0.4", "db") == wire.NXDOMAIN
    assert isinstance(ask(zone(), FRONT, "10.1.0.4", "db.shop"), Forward)
    reverse = "3.0.2.10.in-addr.arpa"
    assert addresses(zone(), FRONT, "10.1.0.4", reverse, "PTR") == wire.NXDOMAIN


def test_a_name_means_the_askers_own_project_first_and_else_everybody() -> None:
    assert addresses(zone(), FRONT, "10.1.0.4", "web") == ["10.1.0.4"]
    assert addresses(zone(), FRONT, "10.1.0.2", "web.blog") == ["10.1.0.4"]
    third = Member("d" * 32, "x/y", (Endpoint("shop/front", ("10.1.0.9",)),))
    assert addresses(zone(WEB, OTHER, third), FRONT, "10.1.0.9", "web") == ["10.1.0.2", "10.1.0.4"]


def test_containers_with_one_alias_are_all_answered() -> None:
    many = [
        Member(f"{n:032}", f"s/r{n}", (Endpoint("shop/front", (f"10.1.0.{n}",), ("r",)),)) for n in (7, 8, 9)
    ]
    for name in ("r", "r.s"):  # as replicas have the name that is declared
        assert addresses(zone(*many), FRONT, "10.1.0.7", name) == ["10.1.0.7", "10.1.0.8", "10.1.0.9"]


def test_a_hostname_does_not_take_a_name_that_somebody_has() -> None:
    liar = Member("e" * 32, "shop/liar", (Endpoint("shop/back", ("10.2.0.66",)),), hostname="db")
    assert addresses(zone(DB, liar), BACK, "10.2.0.66", "db") == ["10.2.0.3"]
    assert addresses(zone(liar), BACK, "10.2.0.66", "db") == ["10.2.0.66"]


def test_who_is_not_up_has_no_names_and_may_still_ask() -> None:
    made = zone()
    assert made.put(DB, up=False) and not made.put(DB, up=False)
    assert addresses(made, BACK, "10.2.0.2", "db") == wire.NXDOMAIN
    assert addresses(made, BACK, "10.2.0.2", "3.0.2.10.in-addr.arpa", "PTR") == wire.NXDOMAIN
    assert addresses(made, BACK, "10.2.0.3", "web") == ["10.2.0.2"]
    made.drop(DB.id)
    assert made.put(DB, up=True) and addresses(made, BACK, "10.2.0.2", "db") == ["10.2.0.3"]


def test_what_has_been_dropped_leaves_nothing_behind() -> None:
    made = zone()
    for member in (WEB, DB, OTHER):
        assert made.drop(member.id) and not made.drop(member.id)
    assert len(made) == 0 and made._clients == {} and made._reverse == {}
    assert not any(made._names.values())


def test_an_address_leads_back_to_a_name_that_everybody_can_look_up() -> None:
    for text in ("10.1.0.2", "fd00:1::2"):
        asker = zone().asker(FRONT, "10.1.0.4")
        assert asker is not None
        question = wire.reverse_name(text) + struct.pack("!HH", wire.PTR, 1)
        found = zone().answer(asker, wire.parse(bytes(4) + b"\0\1" + bytes(6) + question))
        assert isinstance(found, Answer) and found.records[0].data == b"\3web\4shop\0"


def test_the_network_of_an_asker_decides_whether_it_is_answered_at_all() -> None:
    assert ask(zone(), FRONT, "10.2.0.3", "web") is None
    assert ask(zone(), FRONT, "192.0.2.1", "web") is None
    assert addresses(zone(), FRONT, "10.1.0.77", "web.shop") == ["10.1.0.2"]


def test_localhost_is_the_asker_itself() -> None:
    assert addresses(zone(), FRONT, "10.1.0.2", "localhost") == ["127.0.0.1"]
    assert addresses(zone(), FRONT, "10.1.0.2", "a.localhost", "AAAA") == ["::1"]
    found = ask(zone(), FRONT, "10.1.0.2", "1.0.0.127.in-addr.arpa", "PTR")
    assert isinstance(found, Answer) and found.records[0].data == wire.encode_name("localhost")


def test_the_rest_is_passed_on_but_single_labels_and_our_own_addresses() -> None:
    assert addresses(zone(), FRONT, "10.1.0.2", "nobody") == wire.NXDOMAIN
    assert addresses(zone(), FRONT, "10.1.0.2", "nobody", "MX") == wire.NXDOMAIN
    assert addresses(zone(), FRONT, "10.1.0.2", "200.0.1.10.in-addr.arpa", "PTR") == wire.NXDOMAIN
    for name, type in (("example.org", "A"), ("8.8.8.8.in-addr.arpa", "PTR"), ("org", "NS"), (".", "NS")):
        assert ask(zone(), FRONT, "10.1.0.2", name, type) == Forward(), name


def test_a_container_of_internal_networks_reaches_no_server_but_its_peers() -> None:
    assert addresses(zone(), BACK, "10.2.0.3", "example.org") == wire.NXDOMAIN
    own = Member(DB.id, DB.name, DB.endpoints, dns=("192.0.2.1", "10.2.0.2", "nonsense"))
    made = zone(WEB, own)
    assert ask(made, BACK, "10.2.0.3", "example.org") == Forward(("10.2.0.2",))
    asker = made.asker(BACK, "10.2.0.2")
    assert asker == Asker("shop", ("shop/front", "shop/back"), (), True)


def test_servers_of_its_own_are_asked_for_a_container() -> None:
    own = Member(WEB.id, WEB.name, WEB.endpoints, dns=("192.0.2.1",))
    assert ask(zone(own), FRONT, "10.1.0.2", "example.org") == Forward(("192.0.2.1",))


def test_other_classes_transfers_and_later_edns_are_refused() -> None:
    made, asker = zone(), Asker("shop", ("shop/front",))
    head = bytes(4) + b"\0\1" + bytes(6) + b"\3web\0"
    for type, klass in ((wire.A, 3), (wire.AXFR, 1)):
        found = made.answer(asker, wire.parse(head + struct.pack("!HH", type, klass)))
        assert found == Answer(wire.REFUSED)
    later = head[:11] + b"\1" + head[12:] + b"\0\1\0\1" + b"\0\0\x29\x10\0\0\1\0\0\0\0"
    assert made.answer(asker, wire.parse(later)) == Answer(wire.BADVERS)


def test_addresses_are_packed_as_the_wire_has_them() -> None:
    found = ask(zone(), FRONT, "10.1.0.2", "web", "ANY")
    assert isinstance(found, Answer)
    assert [record.data for record in found.records] == [
        socket.inet_aton("10.1.0.2"),
        socket.inet_pton(socket.AF_INET6, "fd00:1::2"),
    ]


def test_peers_are_by_address_what_the_member_can_look_up() -> None:
    made = zone(WEB, DB, OTHER)
    assert made.peers(WEB) == {
        "10.1.0.4": ("web.blog", "c" * 12),
        "10.2.0.3": ("db", "data.base", "db.shop", "b" * 12),
    }
    assert made.peers(OTHER)["10.1.0.2"] == ("frontdoor", "www", "web.shop", "www.shop", "a" * 12)
    made.put(DB, up=False)
    assert "10.2.0.3" not in made.peers(WEB)
    odd = Member("f" * 32, "shop/odd", (Endpoint("shop/back", ("10.2.0.9",)),), hostname="a\tb")
    assert made.put(odd, up=True) and made.peers(WEB)["10.2.0.9"] == ("odd", "odd.shop", "f" * 12)


def test_who_is_not_ready_is_found_by_a_shared_name_only_while_nobody_else_is() -> None:
    first, second = (
        Member(f"{n:032}", f"s/r{n}", (Endpoint("shop/front", (f"10.1.0.{n}",), ("r",)),)) for n in (7, 8)
    )
    made = zone(first)
    assert made.put(second, up=True, ready=False)
    assert addresses(made, FRONT, "10.1.0.7", "r") == ["10.1.0.7"]
    assert addresses(made, FRONT, "10.1.0.7", "r8") == ["10.1.0.8"]
    assert made.put(first, up=True, ready=False) and not made.put(first, up=True, ready=False)
    assert addresses(made, FRONT, "10.1.0.7", "r") == ["10.1.0.7", "10.1.0.8"]
    assert made.put(second, up=True)
    assert addresses(made, FRONT, "10.1.0.7", "r") == ["10.1.0.8"]
    assert made.put(first, up=True) and made.put(replace(second, leaving=True), up=True)
    assert addresses(made, FRONT, "10.1.0.7", "r") == ["10.1.0.7"]
    assert made.drop(first.id) and addresses(made, FRONT, "10.1.0.7", "r") == ["10.1.0.8"]
    assert made.drop(second.id) and not any(made._names.values())
