"""What the nftables table should hold, the text that brings it there, and how its listing is read."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from runtime.net import contents, foreign, rules
from runtime.net.contents import Contents, Held, Publication, Zone, maps_of, port_of

ZONES = (Zone("stb1", "10.88.0.0/24", False), Zone("stb2", "10.88.1.0/24", True))
WEB = Publication("", 8080, "tcp", "10.88.0.2", 80)


def test_a_published_port_is_one_element() -> None:
    before = contents.contents(ZONES, [])
    after = contents.contents(ZONES, [WEB])
    text = rules.change_text("stead_x", before, after)
    assert text == "add element inet stead_x published { 6 . 8080 : 10.88.0.2 . 80 }\n"
    back = rules.change_text("stead_x", after, before)
    assert back == "delete element inet stead_x published { 6 . 8080 }\n"


def test_a_new_backend_is_swapped_in_one_transaction() -> None:
    new = Publication("", 8080, "tcp", "10.88.0.3", 80)
    text = rules.change_text("t", contents.contents(ZONES, [WEB]), contents.contents(ZONES, [new]))
    assert text.splitlines() == [
        "delete element inet t published { 6 . 8080 }",
        "add element inet t published { 6 . 8080 : 10.88.0.3 . 80 }",
    ]


def test_nothing_to_change_is_no_transaction() -> None:
    wanted = contents.contents(ZONES, [WEB])
    assert rules.change_text("t", wanted, wanted) == ""


def test_a_port_for_one_address_has_a_map_of_its_own() -> None:
    wanted = contents.contents(ZONES, [Publication("127.0.0.1", 53, "udp", "10.88.0.2", 53)])
    assert wanted.published == frozenset()
    assert wanted.published_at == {("127.0.0.1", "17", "53", "10.88.0.2", "53")}


def test_an_internal_network_is_not_masqueraded() -> None:
    wanted = contents.contents(ZONES, [])
    assert wanted.internal == {("stb2",)}
    assert wanted.outgoing == {("10.88.0.0/24",)}


def test_the_whole_table_is_replaced_whether_it_exists_or_not() -> None:
    wanted = contents.contents(ZONES, [WEB])
    lines = rules.build_text("t", wanted, rules.rules(wanted)).splitlines()
    assert lines[:5] == [
        "table ip t",
        "delete table ip t",
        "table inet t",
        "delete table inet t",
        "table inet t {",
    ]
    assert 'add element inet t bridges { "stb1", "stb2" }' in lines


def listing(elements: list[Any], handle: int = 7) -> dict[str, Any]:
    held = {"family": "ip", "name": "published", "table": "t", "handle": handle, "elem": elements}
    return {"nftables": [{"metainfo": {"version": "1.0.6"}}, {"map": held}]}


def test_a_listing_is_read_with_protocols_by_name_or_number() -> None:
    wanted = {("6", "8080", "10.88.0.2", "80")}
    for protocol in ("tcp", 6):
        elements = [[{"concat": [protocol, 8080]}, {"concat": ["10.88.0.2", 80]}]]
        assert rules.read_listing(listing(elements)).contents.published == wanted


def test_intervals_are_read_as_prefixes_or_ranges() -> None:
    for element in ({"prefix": {"addr": "10.88.0.0", "len": 24}}, {"range": ["10.88.0.0", "10.88.0.255"]}):
        document = {"nftables": [{"set": {"name": "outgoing", "elem": [element]}}]}
        assert rules.read_listing(document).contents.outgoing == {("10.88.0.0/24",)}


def test_handles_and_elements_are_not_part_of_the_rules() -> None:
    one = rules.read_listing(listing([], handle=1))
    two = rules.read_listing(listing([[{"concat": [6, 1]}, {"concat": ["10.0.0.1", 1]}]], handle=2))
    assert one.digest == two.digest
    rule = {"rule": {"chain": "passing", "expr": [{"drop": None}], "handle": 3}}
    assert rules.read_listing({"nftables": [rule]}).digest != one.digest


def test_what_we_never_write_is_strange() -> None:
    document = {"nftables": [{"set": {"name": "outgoing", "elem": [{"weird": 1}]}}]}
    assert rules.read_listing(document).strange


def test_differences_are_told_in_words() -> None:
    found, wanted = Contents(bridges=frozenset({("a",)})), Contents(bridges=frozenset({("b",)}))
    assert contents.differences(found, wanted) == [
        "bridges lacks b",
        "bridges has a besides what we put there",
    ]


def chain(table: str, policy: str = "drop", hook: str = "forward", family: str = "ip") -> dict[str, Any]:
    fields = {"family": family, "table": table, "name": "FORWARD", "hook": hook, "policy": policy}
    return {"nftables": [{"chain": fields}]}


def test_only_a_dropping_forward_policy_of_others_stands_in_our_way() -> None:
    assert foreign.foreign_drops(chain("filter")) == ["ip filter FORWARD"]
    for harmless in (
        chain("filter", policy="accept"),
        chain("filter", hook="input"),
        chain("stead_0123"),
        chain("filter", family="bridge"),
    ):
        assert foreign.foreign_drops(harmless) == []


def test_a_rule_that_accepts_our_links_settles_it() -> None:
    match = {"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "st*"}}
    accept = {"nftables": [{"rule": {"expr": [match, {"accept": None}]}}]}
    assert foreign.lets_us_pass(accept, "stbabcde")
    assert not foreign.lets_us_pass({"nftables": [{"rule": {"expr": [match, {"drop": None}]}}]}, "stbabcde")


def test_udp_ports_whose_backend_moved_are_named() -> None:
    old = contents.contents(ZONES, [Publication("", 53, "udp", "10.88.0.2", 53), WEB])
    new = contents.contents(ZONES, [Publication("", 53, "udp", "10.88.0.3", 53)])
    assert contents.moved_udp(maps_of(old), maps_of(new)) == {53: frozenset({"10.88.0.3"})}
    assert contents.moved_udp(maps_of(new), {}) == {53: frozenset()}
    grown = [Publication("", 53, "udp", f"10.88.0.{last}", 53) for last in (3, 4)]
    assert contents.moved_udp(maps_of(new), contents.elements(grown)) == {}, "old flows may go on"
    assert contents.moved_udp(contents.elements(grown), maps_of(new)) == {53: frozenset({"10.88.0.3"})}


SIX = Zone("stb6", "10.88.6.0/24", False, "fd00:6::/64")


def test_a_container_with_both_families_is_published_on_both() -> None:
    both = Publication("", 80, "tcp", "10.88.6.2", 8080, "fd00:6::2")
    wanted = contents.contents([SIX], [both])
    assert wanted.published == {("6", "80", "10.88.6.2", "8080")}
    assert wanted.published6 == {("6", "80", "fd00:6::2", "8080")}
    assert wanted.hairpin6 == {("stb6", "fd00:6::/64")} and wanted.outgoing6 == {("fd00:6::/64",)}
    for host_ip, four, six in (("0.0.0.0", 1, 0), ("::", 0, 1)):
        found = contents.elements([replace(both, host_ip=host_ip)])
        assert (len(found["published"]), len(found["published6"])) == (four, six)
    found = contents.elements([replace(both, host_ip="::1")])
    assert found["published6_at"] == {("::1", "6", "80", "fd00:6::2", "8080")} and not found["published_at"]


@pytest.mark.parametrize("count", [2, 3, 7, 60])
def test_backends_of_one_port_get_equal_parts(count: int) -> None:
    backends = [Publication("", 80, "tcp", f"10.88.0.{last + 2}", 80) for last in range(count)]
    found = contents.elements(backends)
    assert found["published"] == set() and len(found["spread"]) == contents.SLOTS
    parts = Counter(element[3] for element in found["spread"])
    assert len(parts) == count and max(parts.values()) - min(parts.values()) <= 1


def test_connections_go_to_those_that_are_ready_or_to_all_where_none_is() -> None:
    one, two = (Publication("", 80, "tcp", f"10.88.0.{last}", 80) for last in (2, 3))
    assert contents.elements([one, replace(two, ready=False)])["published"] == {
        ("6", "80", "10.88.0.2", "80")
    }
    none = contents.elements([replace(one, ready=False), replace(two, ready=False)])
    assert {element[3] for element in none["spread"]} == {"10.88.0.2", "10.88.0.3"}


def test_contents_changed_port_by_port_are_the_same_as_made_at_once() -> None:
    before = [WEB, Publication("::1", 53, "udp", "10.88.0.3", 53, "fd00::3")]
    after = [WEB, *(Publication("", 9, "sctp", f"10.88.0.{last}", 9, f"fd00::{last}") for last in (4, 5))]
    held = Held(contents.contents(ZONES, before))
    ports = {port_of(item.host_ip, item.protocol, item.host_port) for item in (*before[1:], *after[1:])}
    assert held.of(ports) == contents.elements(before[1:])
    held.put(ports, contents.elements(after[1:]))
    assert held.whole() == contents.contents(ZONES, after)


def table_of(*rules: tuple[str, int, list[dict[str, Any]]]) -> dict[str, Any]:
    where = {"family": "ip", "table": "filter"}
    chains = [{"chain": {**where, "name": name}} for name in sorted({rule[0] for rule in rules})]
    made = [
        {"rule": {**where, "chain": name, "handle": handle, "expr": expr}} for name, handle, expr in rules
    ]
    return {"nftables": [{"metainfo": {}}, *chains, *made]}


def accepts(key: str, pattern: str) -> list[dict[str, Any]]:
    match = {"match": {"op": "==", "left": {"meta": {"key": key}}, "right": pattern}}
    return [match, {"counter": {"packets": 0, "bytes": 0}}, {"accept": None}]


def test_our_rules_go_where_engines_have_theirs_and_are_found_again() -> None:
    chain, plain = "ip filter FORWARD", table_of(("FORWARD", 1, [{"drop": None}]))
    assert foreign.of_iptables(chain) and not foreign.of_iptables("inet wall forward")
    assert foreign.adaptation(chain, plain, "stbabcde").splitlines() == [
        'insert rule ip filter FORWARD iifname "stbabcde*" counter accept',
        'insert rule ip filter FORWARD oifname "stbabcde*" counter accept',
    ]
    docker = table_of(("DOCKER-USER", 1, [{"return": None}]))
    assert "ip filter DOCKER-USER iifname" in foreign.adaptation(chain, docker, "stbabcde")
    held = table_of(
        ("FORWARD", 4, accepts("iifname", "stbabcde*")),
        ("FORWARD", 5, accepts("oifname", "stbabcde*")),
        ("FORWARD", 6, accepts("oifname", "stbother*")),
    )
    assert foreign.lets_us_pass(held, "stbabcde") and not foreign.lets_us_pass(held, "stbxxxxx")
    assert foreign.withdrawal(held, "stbabcde").splitlines() == [
        "delete rule ip filter FORWARD handle 4",
        "delete rule ip filter FORWARD handle 5",
    ]
    assert foreign.withdrawal(plain, "stbabcde") == ""


def test_listings_of_iptables_legacy_are_read() -> None:
    both = "-A FORWARD -i stbabcde+ -j ACCEPT\n-A FORWARD -o stbabcde+ -j ACCEPT\n"
    assert foreign.legacy_drops("-P FORWARD DROP\n" + both)
    assert not foreign.legacy_drops("-P FORWARD ACCEPT\n")
    assert foreign.legacy_adapted(both, "stbabcde") and not foreign.legacy_adapted(both, "stbother")
    assert not foreign.legacy_adapted(both.splitlines()[0], "stbabcde")


def test_a_port_that_leads_elsewhere_is_told_in_words() -> None:
    one, two = (Publication("::1", 53, "udp", "", 53, f"fd00::{last}") for last in (2, 3))
    before, after = contents.contents((), [one]), contents.contents((), [one, two])
    (text,) = contents.changed_ports(before, after)
    assert text == "port [::1]:53/udp leads to fd00::2, fd00::3 from now on"
    assert contents.changed_ports(after, contents.contents((), [])) == [
        "port [::1]:53/udp leads to nothing from now on"
    ]
