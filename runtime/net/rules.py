"""Decisions: the nftables table as nft text, and the table as nft lists it.

nft(8), libnftables-json(5): it is written as text and read as JSON.

What the rules promise, in the order of a packet's way:
- where bridged packets pass the hooks (br_netfilter), they are tracked on the bridge that has the network's
  address only: what was seen on a bridge before would not be translated there any more;
- a container cannot reach services on the host's loopback, though route_localnet is on for our bridges, nor
  by ::1, for which there is a way back through them (loopback.py);
- a published port is redirected for every local address (or the one asked for), also for packets of the host;
- between our networks and into them nothing passes but answers and what came by a published port;
- an internal network has no way out;
- packets leave with the host's address where they leave the host, where a container reaches its own network
  through a published port (hairpin), and where the host comes from 127.0.0.1 or ::1.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, summarize_address_range
from typing import Any

from runtime.net.contents import KEYS, NAMES, PROTOCOLS, SLOTS, Contents, Element

FAMILY = "inet"
#: Where releases before IPv6 had their table.
OLD_FAMILY = "ip"

_PORT = "meta l4proto . th dport"
_SLOT = f"numgen random mod {SLOTS}"


def _map(name: str, address: str, keys: str) -> str:
    return f"map {name} {{ typeof {keys} : {address} . th dport; }}"


def _redirects() -> str:
    """Own addresses before every address; of several backends only one rule can match."""
    lines = [
        f"  fib daddr type local dnat {family} to {at}{_PORT}{spread} map @{name}{six}{suffix}"
        for suffix in ("_at", "")
        for family, six in (("ip", ""), ("ip6", "6"))
        for name, spread in (("published", ""), ("spread", f" . {_SLOT}"))
        for at in (f"{family} daddr . " if suffix else "",)
    ]
    return "\n".join(lines)


#: Each packet passes guard and passing, so what is compared comes before what is looked up in a set, and what
#: most hosts have no need of is left out: a lookup for each packet costs published ports 2 %, a chain 1 %.
_RULES = f"""\
map published {{ type inet_proto . inet_service : ipv4_addr . inet_service; }}
map published_at {{ type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }}
map published6 {{ type inet_proto . inet_service : ipv6_addr . inet_service; }}
map published6_at {{ type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service; }}
{_map("spread", "ip daddr", f"{_PORT} . {_SLOT}")}
{_map("spread_at", "ip daddr", f"ip daddr . {_PORT} . {_SLOT}")}
{_map("spread6", "ip6 daddr", f"{_PORT} . {_SLOT}")}
{_map("spread6_at", "ip6 daddr", f"ip6 daddr . {_PORT} . {_SLOT}")}
set bridges {{ type ifname; }}
set further {{ type ifname; }}
set within {{ type ifname . ifname; }}
set internal {{ type ifname; }}
set hairpin {{ type ifname . ipv4_addr; flags interval; }}
set hairpin6 {{ type ifname . ipv6_addr; flags interval; }}
set outgoing {{ type ipv4_addr; flags interval; }}
set outgoing6 {{ type ipv6_addr; flags interval; }}
chain guard {{
  type filter hook prerouting priority -300; policy accept;
FURTHER  ip daddr 127.0.0.0/8 iifname @bridges drop
  ip6 daddr ::1 iifname @bridges drop
}}
chain arriving {{
  type nat hook prerouting priority -100; policy accept;
{_redirects()}
}}
chain own {{
  type nat hook output priority -100; policy accept;
{_redirects()}
}}
chain leaving {{
  type nat hook postrouting priority 100; policy accept;
  oifname . ip saddr @hairpin ct status dnat masquerade
  oifname . ip6 saddr @hairpin6 ct status dnat masquerade
  oifname @bridges ip saddr 127.0.0.0/8 masquerade
  oifname @bridges ip6 saddr ::1 masquerade
  ip saddr @outgoing oifname != @bridges masquerade
  ip6 saddr @outgoing6 oifname != @bridges masquerade
}}
chain passing {{
  type filter hook forward priority 0; policy accept;
  ct state established,related accept
  iifname . oifname @within accept
  iifname @internal drop
  ct status dnat accept
  oifname @bridges drop
}}
"""


_FURTHER = "  iifname @further notrack\n"


def rules(wanted: Contents) -> str:
    """As they are to be for these contents: they change with the first bridge of more members of a network,
    and not with ports."""
    return _RULES.replace("FURTHER", _FURTHER if wanted.further else "")


def rules_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# ---------------------------------------------------------------- text


def build_text(table: str, wanted: Contents, rules: str) -> str:
    """The transaction that replaces the whole table, whatever it holds, and that of an older release."""
    lines = [delete_text(table).rstrip(), f"table {FAMILY} {table} {{", rules + "}"]
    for name in NAMES:
        lines += _elements("add", table, name, getattr(wanted, name))
    return "\n".join(lines) + "\n"


def change_text(table: str, found: Contents, wanted: Contents) -> str:
    """The transaction from one content to the other; empty when they are equal."""
    lines: list[str] = []
    for name in NAMES:
        before, after = getattr(found, name), getattr(wanted, name)
        lines += _elements("delete", table, name, before - after)
        lines += _elements("add", table, name, after - before)
    return "\n".join(lines) + "\n" if lines else ""


def delete_text(table: str) -> str:
    """Adding before deleting makes it right whether the tables exist or not."""
    return "".join(
        f"table {family} {table}\ndelete table {family} {table}\n" for family in (OLD_FAMILY, FAMILY)
    )


def _elements(verb: str, table: str, name: str, elements: Iterable[Element]) -> list[str]:
    words = sorted(_element_text(name, element, verb == "delete") for element in elements)
    return [f"{verb} element {FAMILY} {table} {name} {{ {', '.join(words)} }}"] if words else []


def _element_text(name: str, element: Element, key_only: bool) -> str:
    size = KEYS.get(name, len(element))
    quoted = name in ("bridges", "further", "within", "internal", "hairpin", "hairpin6")
    key = " . ".join(f'"{word}"' if quoted and word.startswith("st") else word for word in element[:size])
    return key if key_only or len(element) == size else f"{key} : {' . '.join(element[size:])}"


# ---------------------------------------------------------------- JSON


@dataclass(frozen=True, slots=True)
class Listing:
    """A table as `nft -j list table` shows it: what its sets hold, and a digest of everything else."""

    contents: Contents
    digest: str
    strange: bool = False  # sets hold something that we never write


def read_listing(document: Mapping[str, Any]) -> Listing:
    """Handles are left out of the digest, since they differ with every build of the same rules."""
    held: dict[str, frozenset[Element]] = {}
    rest, strange = [], False
    for item in document.get("nftables", ()):
        for kind, value in item.items():
            if kind == "metainfo":
                continue
            if kind in ("set", "map") and value.get("name") in NAMES:
                try:
                    held[value["name"]] = frozenset(map(_element, value.get("elem", ())))
                except (KeyError, TypeError, ValueError, IndexError):
                    strange = True
            kept = {key: value[key] for key in sorted(value) if key not in ("handle", "elem")}
            rest.append((kind, kept))
    text = json.dumps(rest, sort_keys=True)
    return Listing(Contents(**held), hashlib.sha256(text.encode()).hexdigest(), strange)


def is_whole(document: Mapping[str, Any], rules: str) -> bool:
    """Whether a listed table has every chain of these rules, set and map, and as many rules."""
    lines = rules.splitlines()
    wanted = [line.split()[1] for line in lines if line.startswith(("chain ", "set ", "map "))]
    count = sum(line.startswith("  ") and not line.startswith("  type ") for line in lines)
    items = [(kind, value) for item in document.get("nftables", ()) for kind, value in item.items()]
    names = [value["name"] for kind, value in items if kind in ("chain", "set", "map")]
    return sorted(names) == sorted(wanted) and sum(kind == "rule" for kind, _ in items) == count


def _element(item: Any) -> Element:
    if isinstance(item, list):  # map: [key, value]
        return _words(item[0]) + _words(item[1])
    return _words(item)


def _words(item: Any) -> Element:
    if isinstance(item, dict):
        if "elem" in item:
            return _words(item["elem"]["val"])
        if "concat" in item:
            return tuple(word for part in item["concat"] for word in _words(part))
        if "prefix" in item:
            return (f"{item['prefix']['addr']}/{item['prefix']['len']}",)
        first, last = (ip_address(end) for end in item["range"])
        (network,) = summarize_address_range(first, last)
        return (str(network),)
    return (str(PROTOCOLS.get(item, item)),)
