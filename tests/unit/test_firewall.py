"""What the nftables table should hold, the text that brings it there, and how its listing is read."""

from __future__ import annotations

from typing import Any

from runtime.net import firewall
from runtime.net.firewall import Contents, Publication, Zone

ZONES = (Zone("stb1", "10.88.0.0/24", False), Zone("stb2", "10.88.1.0/24", True))
WEB = Publication("", 8080, "tcp", "10.88.0.2", 80)


def test_a_published_port_is_one_element() -> None:
    before = firewall.contents(ZONES, [])
    after = firewall.contents(ZONES, [WEB])
    text = firewall.change_text("stead_x", before, after)
    assert text == "add element ip stead_x published { 6 . 8080 : 10.88.0.2 . 80 }\n"
    back = firewall.change_text("stead_x", after, before)
    assert back == "delete element ip stead_x published { 6 . 8080 }\n"


def test_a_new_backend_is_swapped_in_one_transaction() -> None:
    new = Publication("", 8080, "tcp", "10.88.0.3", 80)
    text = firewall.change_text("t", firewall.contents(ZONES, [WEB]), firewall.contents(ZONES, [new]))
    assert text.splitlines() == [
        "delete element ip t published { 6 . 8080 }",
        "add element ip t published { 6 . 8080 : 10.88.0.3 . 80 }",
    ]


def test_nothing_to_change_is_no_transaction() -> None:
    wanted = firewall.contents(ZONES, [WEB])
    assert firewall.change_text("t", wanted, wanted) == ""


def test_a_port_for_one_address_has_a_map_of_its_own() -> None:
    wanted = firewall.contents(ZONES, [Publication("127.0.0.1", 53, "udp", "10.88.0.2", 53)])
    assert wanted.published == frozenset()
    assert wanted.published_at == {("127.0.0.1", "17", "53", "10.88.0.2", "53")}


def test_an_internal_network_is_not_masqueraded() -> None:
    wanted = firewall.contents(ZONES, [])
    assert wanted.internal == {("stb2",)}
    assert wanted.outgoing == {("10.88.0.0/24",)}


def test_the_whole_table_is_replaced_whether_it_exists_or_not() -> None:
    lines = firewall.build_text("t", firewall.contents(ZONES, [WEB])).splitlines()
    assert lines[:3] == ["table ip t", "delete table ip t", "table ip t {"]
    assert 'add element ip t bridges { "stb1", "stb2" }' in lines


def listing(elements: list[Any], handle: int = 7) -> dict[str, Any]:
    held = {"family": "ip", "name": "published", "table": "t", "handle": handle, "elem": elements}
    return {"nftables": [{"metainfo": {"version": "1.0.6"}}, {"map": held}]}


def test_a_listing_is_read_with_protocols_by_name_or_number() -> None:
    wanted = {("6", "8080", "10.88.0.2", "80")}
    for protocol in ("tcp", 6):
        elements = [[{"concat": [protocol, 8080]}, {"concat": ["10.88.0.2", 80]}]]
        assert firewall.read_listing(listing(elements)).contents.published == wanted


def test_intervals_are_read_as_prefixes_or_ranges() -> None:
    for element in ({"prefix": {"addr": "10.88.0.0", "len": 24}}, {"range": ["10.88.0.0", "10.88.0.255"]}):
        document = {"nftables": [{"set": {"name": "outgoing", "elem": [element]}}]}
        assert firewall.read_listing(document).contents.outgoing == {("10.88.0.0/24",)}


def test_handles_and_elements_are_not_part_of_the_rules() -> None:
    one = firewall.read_listing(listing([], handle=1))
    two = firewall.read_listing(listing([[{"concat": [6, 1]}, {"concat": ["10.0.0.1", 1]}]], handle=2))
    assert one.digest == two.digest
    rule = {"rule": {"chain": "passing", "expr": [{"drop": None}], "handle": 3}}
    assert firewall.read_listing({"nftables": [rule]}).digest != one.digest


def test_what_we_never_write_is_strange() -> None:
    document = {"nftables": [{"set": {"name": "outgoing", "elem": [{"weird": 1}]}}]}
    assert firewall.read_listing(document).strange


def test_differences_are_told_in_words() -> None:
    found, wanted = Contents(bridges=frozenset({("a",)})), Contents(bridges=frozenset({("b",)}))
    assert firewall.differences(found, wanted) == [
        "bridges lacks b",
        "bridges has a besides what we put there",
    ]


def chain(table: str, policy: str = "drop", hook: str = "forward", family: str = "ip") -> dict[str, Any]:
    fields = {"family": family, "table": table, "name": "FORWARD", "hook": hook, "policy": policy}
    return {"nftables": [{"chain": fields}]}


def test_only_a_dropping_forward_policy_of_others_stands_in_our_way() -> None:
    assert firewall.foreign_drops(chain("filter")) == ["ip filter FORWARD"]
    for harmless in (
        chain("filter", policy="accept"),
        chain("filter", hook="input"),
        chain("stead_0123"),
        chain("filter", family="ip6"),
    ):
        assert firewall.foreign_drops(harmless) == []


def test_a_rule_that_accepts_our_links_settles_it() -> None:
    match = {"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "st*"}}
    accept = {"nftables": [{"rule": {"expr": [match, {"accept": None}]}}]}
    assert firewall.lets_us_pass(accept)
    assert not firewall.lets_us_pass({"nftables": [{"rule": {"expr": [match, {"drop": None}]}}]})


def test_udp_ports_whose_backend_moved_are_named() -> None:
    old = firewall.contents(ZONES, [Publication("", 53, "udp", "10.88.0.2", 53), WEB])
    new = firewall.contents(ZONES, [Publication("", 53, "udp", "10.88.0.3", 53)])
    assert firewall.moved_udp(old, new) == {53: frozenset({"10.88.0.3"})}
    assert firewall.moved_udp(new, firewall.contents(ZONES, [])) == {53: frozenset()}
