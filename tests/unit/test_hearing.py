"""Which rules of the host are blamed when the name server does not hear containers."""

from __future__ import annotations

from typing import Any

from runtime.net import hearing


def chain(family: str, table: str, name: str, hook: str, policy: str = "accept") -> dict[str, Any]:
    return {"chain": {"family": family, "table": table, "name": name, "hook": hook, "policy": policy}}


def rule(family: str, table: str, verdict: str) -> dict[str, Any]:
    return {"rule": {"family": family, "table": table, "chain": "x", "expr": [{verdict: None}]}}


def blame(*items: dict[str, Any], legacy: bool = False) -> str:
    return hearing.blame({"nftables": [{"metainfo": {}}, *items]}, legacy, "stbabc")


def test_a_chain_whose_policy_drops_is_named_with_the_rule_that_lets_containers_ask() -> None:
    text = blame(chain("inet", "filter", "input", "input", "drop"))
    assert "nft insert rule inet filter input iifname 'st*' meta l4proto { tcp, udp } th dport 53" in text


def test_a_table_with_rules_that_reject_is_blamed_for_its_input_chain() -> None:
    accepting = chain("inet", "firewalld", "filter_INPUT", "input")
    assert "firewall-cmd" in blame(accepting, rule("inet", "firewalld", "reject"))
    assert blame(accepting) == "" and blame(accepting, rule("inet", "other", "drop")) == ""


def test_nobody_is_blamed_for_what_is_forwarded_nor_are_we_nor_other_families() -> None:
    for found in (
        chain("inet", "filter", "forward", "forward", "drop"),
        chain("ip", "stead_0123", "input", "input", "drop"),
        chain("bridge", "filter", "input", "input", "drop"),
        {"chain": {"family": "inet", "table": "filter", "name": "jumped_to"}},
    ):
        assert blame(found) == "", found


def test_chains_of_iptables_are_named_in_its_words() -> None:
    text = blame(chain("ip", "filter", "INPUT", "input", "drop"))
    assert "iptables -I INPUT -i 'st+' -p udp --dport 53 -j ACCEPT" in text and "-p tcp" in text
    assert "ip6tables -I INPUT" in blame(chain("ip6", "filter", "INPUT", "input", "drop"))
    assert "iptables-legacy -I INPUT" in blame(legacy=True) and blame() == ""


def test_rules_of_ours_are_put_in_input_of_iptables_alone_and_once() -> None:
    items = [chain("ip", "filter", "INPUT", "input", "drop"), chain("inet", "wall", "in", "input", "drop")]
    text = hearing.admission({"nftables": items}, "stbabc")
    assert text.splitlines() == [
        'insert rule ip filter INPUT iifname "stbabc*" udp dport 53 counter accept',
        'insert rule ip filter INPUT iifname "stbabc*" tcp dport 53 counter accept',
    ]
    match = {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "stbabc*"}
    expr = [{"match": match}, {"accept": None}]
    held = {"rule": {"family": "ip", "table": "filter", "chain": "INPUT", "expr": expr}}
    assert hearing.admission({"nftables": [*items, held]}, "stbabc") == ""
    assert "inet wall in" in blame(*items, held) and blame(items[0], held) == ""
    assert hearing.admission({"nftables": [*items, held]}, "stbother") != ""
    match["right"] = "st*"  # as a person puts it there who was told
    assert hearing.admission({"nftables": [*items, held]}, "stbother") == "" == blame(items[0], held)
