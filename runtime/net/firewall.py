"""Decisions and effects: the one nftables table of a state directory; published ports are elements of maps.

`Contents` says what the sets and maps should hold, `RULES` never changes with it: publishing a port is one
element, never a rewrite of rules. `Firewall.publish` brings the kernel there in one transaction and `check`
says how the kernel differs. nft(8), libnftables-json(5); the table is read as JSON and written as nft text.

What the rules promise, in the order of a packet's way:
- a container cannot reach services on the host's loopback, though route_localnet is on for our bridges;
- a published port is redirected for every local address (or the one asked for), also for packets of the host;
- between our networks and into them nothing passes but answers and what came by a published port;
- an internal network has no way out;
- packets leave with the host's address where they leave the host, where a container reaches its own network
  through a published port (hairpin), and where the host comes from 127.0.0.1.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from runtime.faults import Fault
from runtime.interface import Defect
from runtime.net import addresses, flows
from runtime.net.netlink import NETLINK_NETFILTER, NLM_F_DUMP, Netlink, attributes
from runtime.net.netlink import text as words
from runtime.paths import write_atomically
from specs.values import PortBinding

#: An nft command that takes longer than this (seconds) is stuck.
TIMEOUT = 30.0

PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
_PROTOCOL_NAMES = {str(number): name for name, number in PROTOCOLS.items()}

#: An element of a set or map in canonical form: words, as nft text has them; protocols are numbers.
Element = tuple[str, ...]

RULES = """\
map published { type inet_proto . inet_service : ipv4_addr . inet_service; }
map published_at { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }
set bridges { type ifname; }
set within { type ifname . ifname; }
set internal { type ifname; }
set hairpin { type ifname . ipv4_addr; flags interval; }
set outgoing { type ipv4_addr; flags interval; }
chain guard {
  type filter hook prerouting priority -300; policy accept;
  iifname @bridges ip daddr 127.0.0.0/8 drop
}
chain arriving {
  type nat hook prerouting priority -100; policy accept;
  fib daddr type local dnat to ip daddr . meta l4proto . th dport map @published_at
  fib daddr type local dnat to meta l4proto . th dport map @published
}
chain own {
  type nat hook output priority -100; policy accept;
  fib daddr type local dnat to ip daddr . meta l4proto . th dport map @published_at
  fib daddr type local dnat to meta l4proto . th dport map @published
}
chain leaving {
  type nat hook postrouting priority 100; policy accept;
  oifname . ip saddr @hairpin ct status dnat masquerade
  oifname @bridges ip saddr 127.0.0.0/8 masquerade
  ip saddr @outgoing oifname != @bridges masquerade
}
chain passing {
  type filter hook forward priority 0; policy accept;
  ct state established,related accept
  iifname . oifname @within accept
  iifname @internal drop
  ct status dnat accept
  oifname @bridges drop
}
"""


@dataclass(frozen=True, slots=True)
class Contents:
    """What the sets and maps hold; a map's element is its key, its value after the key."""

    published: frozenset[Element] = frozenset()
    published_at: frozenset[Element] = frozenset()
    bridges: frozenset[Element] = frozenset()
    within: frozenset[Element] = frozenset()
    internal: frozenset[Element] = frozenset()
    hairpin: frozenset[Element] = frozenset()
    outgoing: frozenset[Element] = frozenset()


#: Set or map -> how many words of an element are its key.
KEYS = {
    "published": 2,
    "published_at": 3,
    "bridges": 1,
    "within": 2,
    "internal": 1,
    "hairpin": 2,
    "outgoing": 1,
}


@dataclass(frozen=True, slots=True)
class Zone:
    """A network as the firewall sees it."""

    bridge: str
    subnet: str
    internal: bool


@dataclass(frozen=True, slots=True)
class Publication:
    """One published port. `host_ip` empty: every address of the host."""

    host_ip: str
    host_port: int
    protocol: str
    address: str
    port: int


def contents(zones: Iterable[Zone], publications: Iterable[Publication]) -> Contents:
    """What the table should hold for these networks and ports."""
    zones = tuple(zones)
    everywhere, somewhere = set(), set()
    for item in publications:
        key = (str(PROTOCOLS[item.protocol]), str(item.host_port))
        value = (item.address, str(item.port))
        if item.host_ip in ("", "0.0.0.0"):
            everywhere.add(key + value)
        else:
            somewhere.add((item.host_ip, *key, *value))
    return Contents(
        published=frozenset(everywhere),
        published_at=frozenset(somewhere),
        bridges=frozenset((zone.bridge,) for zone in zones),
        within=frozenset((zone.bridge, zone.bridge) for zone in zones),
        internal=frozenset((zone.bridge,) for zone in zones if zone.internal),
        hairpin=frozenset((zone.bridge, zone.subnet) for zone in zones),
        outgoing=frozenset((zone.subnet,) for zone in zones if not zone.internal),
    )


# ---------------------------------------------------------------- nft text


def build_text(table: str, wanted: Contents) -> str:
    """The transaction that replaces the whole table, whatever it holds."""
    lines = [f"table ip {table}", f"delete table ip {table}", f"table ip {table} {{", RULES + "}"]
    for field in fields(wanted):
        lines += _elements("add", table, field.name, getattr(wanted, field.name))
    return "\n".join(lines) + "\n"


def change_text(table: str, found: Contents, wanted: Contents) -> str:
    """The transaction from one content to the other; empty when they are equal."""
    lines: list[str] = []
    for field in fields(wanted):
        before, after = getattr(found, field.name), getattr(wanted, field.name)
        lines += _elements("delete", table, field.name, before - after)
        lines += _elements("add", table, field.name, after - before)
    return "\n".join(lines) + "\n" if lines else ""


def delete_text(table: str) -> str:
    """Adding before deleting makes it right whether the table exists or not."""
    return f"table ip {table}\ndelete table ip {table}\n"


def _elements(verb: str, table: str, name: str, elements: Iterable[Element]) -> list[str]:
    words = sorted(_element_text(name, element, verb == "delete") for element in elements)
    return [f"{verb} element ip {table} {name} {{ {', '.join(words)} }}"] if words else []


def _element_text(name: str, element: Element, key_only: bool) -> str:
    size = KEYS[name]
    key = " . ".join(f'"{word}"' if word[:1].isalpha() else word for word in element[:size])
    return key if key_only or len(element) == size else f"{key} : {' . '.join(element[size:])}"


# ---------------------------------------------------------------- nft JSON


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
            if kind in ("set", "map") and value.get("name") in KEYS:
                try:
                    held[value["name"]] = frozenset(map(_element, value.get("elem", ())))
                except (KeyError, TypeError, ValueError, IndexError):
                    strange = True
            kept = {key: value[key] for key in sorted(value) if key not in ("handle", "elem")}
            rest.append((kind, kept))
    text = json.dumps(rest, sort_keys=True)
    return Listing(Contents(**held), hashlib.sha256(text.encode()).hexdigest(), strange)


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
        first, last = (IPv4Address(end) for end in item["range"])
        size = int(last) - int(first) + 1
        return (str(IPv4Network((int(first), 33 - size.bit_length()))),)
    return (str(PROTOCOLS.get(item, item)),)


def differences(found: Contents, wanted: Contents) -> list[str]:
    """What a person should know of how the sets differ."""
    texts = []
    for field in fields(wanted):
        before, after = getattr(found, field.name), getattr(wanted, field.name)
        for element in sorted(after - before):
            texts.append(f"{field.name} lacks {' '.join(element)}")
        for element in sorted(before - after):
            texts.append(f"{field.name} has {' '.join(element)} besides what we put there")
    return texts


def moved_udp(found: Contents, wanted: Contents) -> dict[int, frozenset[str]]:
    """Host ports of UDP whose backends differ, with the backends' addresses that are right now."""
    changed = (found.published ^ wanted.published) | {
        element[1:] for element in found.published_at ^ wanted.published_at
    }
    now = wanted.published | {element[1:] for element in wanted.published_at}
    ports = {element[1] for element in changed if element[0] == str(PROTOCOLS["udp"])}
    return {
        int(port): frozenset(element[2] for element in now if element[:2] == (str(PROTOCOLS["udp"]), port))
        for port in ports
    }


def foreign_drops(document: Mapping[str, Any]) -> list[str]:
    """Base chains of others at the forward hook whose policy drops, as `family table chain`."""
    found = []
    for item in document.get("nftables", ()):
        chain = item.get("chain")
        drops = chain and chain.get("hook") == "forward" and chain.get("policy") == "drop"
        if drops and chain["family"] in ("ip", "inet") and not chain["table"].startswith(addresses.TABLE):
            found.append(f"{chain['family']} {chain['table']} {chain['name']}")
    return found


def lets_us_pass(document: Mapping[str, Any]) -> bool:
    """Whether a table lists a rule that accepts packets from or to links named st*: its owner knows of us."""
    for item in document.get("nftables", ()):
        expressions = item.get("rule", {}).get("expr", ())
        named = any(
            str(expression["match"].get("right", "")).startswith("st")
            for expression in expressions
            if "match" in expression
        )
        if named and any("accept" in expression for expression in expressions):
            return True
    return False


# ---------------------------------------------------------------- the kernel

_NFNL_SUBSYS_NFTABLES = 10
_NFT_MSG_GETGEN = 16
_NFTA_GEN_ID = 1
_NFT_MSG_GETTABLE = 1
_NFTA_TABLE_NAME = 1


def generation() -> int | None:
    """The number of the last nftables transaction in this network namespace; None when it cannot be told."""
    try:
        with Netlink(NETLINK_NETFILTER) as netlink:
            body = struct.pack("=BBH", socket.AF_UNSPEC, 0, 0)
            (answer,) = netlink.ask(_NFNL_SUBSYS_NFTABLES << 8 | _NFT_MSG_GETGEN, body)[:1]
        return int.from_bytes(attributes(answer, 4)[_NFTA_GEN_ID], "big")
    except (OSError, KeyError, ValueError):
        return None


def tables() -> list[str]:
    """Names of the tables of family ip in this network namespace; none where nftables is not there."""
    try:
        with Netlink(NETLINK_NETFILTER) as netlink:
            body = struct.pack("=BBH", socket.AF_INET, 0, 0)
            answers = netlink.ask(_NFNL_SUBSYS_NFTABLES << 8 | _NFT_MSG_GETTABLE, body, NLM_F_DUMP)
        return [words(attributes(answer, 4).get(_NFTA_TABLE_NAME)) for answer in answers]
    except OSError:
        return []


def published_elsewhere(own: str) -> list[tuple[str, PortBinding]]:
    """(table, port) of what other state directories publish here: of two dnat maps, only one is asked."""
    found = []
    for table in tables():
        if table.startswith(addresses.TABLE) and table != own:
            held = read_listing(_listed(["list", "table", "ip", table]) or {}).contents
            for element in (*(("", *e) for e in held.published), *held.published_at):
                host_ip, protocol, host_port, _, port = element
                binding = PortBinding(host_ip, int(host_port), int(port), _PROTOCOL_NAMES[protocol])
                found.append((table, binding))
    return found


_PATH = {"PATH": "/usr/sbin:/sbin:/usr/bin:/bin:/usr/local/sbin", "LC_ALL": "C"}


def _nft(arguments: list[str], given: str = "") -> subprocess.CompletedProcess[str]:
    """Fault firewall-failed when nft is not installed or stuck."""
    try:
        return subprocess.run(
            ["nft", *arguments],
            input=given,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **_PATH},
            timeout=TIMEOUT,
        )
    except FileNotFoundError:
        hint = "install nftables: apt-get install nftables"
        raise Fault("firewall-failed", "run", "nft", "the command is not installed", hint) from None
    except subprocess.TimeoutExpired:
        raise Fault("firewall-failed", "run", "nft", f"no answer within {TIMEOUT:.0f} s") from None


def _listed(arguments: list[str]) -> dict[str, Any] | None:
    """The JSON of a list command; None when there is no such table."""
    done = _nft(["-j", *arguments])
    if done.returncode:
        if "No such file or directory" in done.stderr:
            return None
        raise _refused("read", done)
    document: dict[str, Any] = json.loads(done.stdout or "{}")
    return document


def _refused(verb: str, done: subprocess.CompletedProcess[str]) -> Fault:
    lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    hint = ""
    if "Operation not supported" in done.stderr or "Protocol not supported" in done.stderr:
        hint = "load the kernel's nf_tables and nft_* modules, or install the full kernel package"
    cause = lines[0].removeprefix("/dev/stdin:").strip().lower()
    return Fault("firewall-failed", verb, "nftables table", cause, hint)


class Firewall:
    """The table of one state directory. Thread-safe; callers of `publish` at one time share a transaction.

    `wanted` tells what should be there: None for no table at all. `memory` is a file under `run` that holds
    how nft listed the rules after we wrote them, since each version of nft has its own way to list them.
    """

    def __init__(self, table: str, memory: Path, wanted: Callable[[], Contents | None]) -> None:
        self._table = table
        self._memory = memory
        self._wanted = wanted
        self._tickets = threading.Lock()
        self._asked = 0
        self._forced = 0
        self._working = threading.Lock()
        self._done = 0
        self._known: tuple[int, Contents] | None = None  # (generation, contents), rules as we wrote them
        self._drops: tuple[int, tuple[Defect, ...]] | None = None
        self._gone: int | None = None  # the generation in which there was no table of ours

    def publish(self, *, force: bool = False) -> None:
        """The table as it should be when this was called, or newer. `force`: read it back first."""
        with self._tickets:
            self._asked += 1
            ticket = self._asked
            if force:
                self._forced = ticket
        with self._working:
            if self._done >= ticket:
                return
            with self._tickets:
                target, forced = self._asked, self._forced > self._done
            self._apply(forced)
            self._done = target

    def check(self) -> tuple[Defect, ...]:
        """How the kernel differs from what is wanted; reads the table only if something changed it."""
        with self._working:
            wanted = self._wanted()
            if wanted is None:
                text = "its nftables table is left, though there is no network"
                return () if self._is_gone() else (Defect("firewall", text),)
            found = self._find()
            if isinstance(found, str):
                return (Defect("firewall", found), *self._foreign())
            texts = differences(found, wanted)
            if len(texts) > 3:
                texts = [*texts[:3], f"and {len(texts) - 3} more differences"]
            return (*(Defect("firewall", text) for text in texts), *self._foreign())

    # ------------------------------------------------------------

    def _apply(self, forced: bool) -> None:
        wanted = self._wanted()
        if wanted is None:
            self._remove()
            return
        if forced:
            self._known = None
        found = self._find()
        if isinstance(found, str):
            self._write(build_text(self._table, wanted), None)
            self._remember(wanted)
            found = Contents()
        else:
            text = change_text(self._table, found, wanted)
            if text:
                self._write(text, wanted)
        moved = moved_udp(found, wanted)
        if moved:
            flows.forget_udp(moved)

    def _find(self) -> Contents | str:
        """What the sets hold, or why the table must be built anew."""
        now = generation()
        if self._known is not None and now is not None and self._known[0] == now:
            return self._known[1]
        self._known = None
        document = _listed(["list", "table", "ip", self._table])
        if document is None:
            return "its nftables table is gone"
        listing = read_listing(document)
        if listing.strange:
            return "a set of its nftables table holds what we never write"
        if self._expected() != (_rules_digest(), listing.digest):
            return "the rules of its nftables table are not as we wrote them"
        if now is not None and now == generation():
            self._known = (now, listing.contents)
        return listing.contents

    def _write(self, text: str, after: Contents | None) -> None:
        before = generation()
        done = _nft(["-f", "-"], text)
        if done.returncode:
            self._known = None
            raise _refused("change", done)
        now = generation()
        alone = before is not None and now is not None and now == before + 1
        self._known = (now, after) if alone and now is not None and after is not None else None

    def _remember(self, wanted: Contents) -> None:
        """Read back how this nft lists what we have just written."""
        now = generation()
        document = _listed(["list", "table", "ip", self._table])
        if document is None:
            raise Fault("firewall-failed", "read", "nftables table", "it vanished as soon as it was written")
        listing = read_listing(document)
        memory = json.dumps({"rules": _rules_digest(), "listed": listing.digest})
        self._memory.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self._memory, memory.encode(), durable=False)
        if now is not None and now == generation() and listing.contents == wanted:
            self._known = (now, wanted)

    def _expected(self) -> tuple[str, str] | None:
        try:
            memory = json.loads(self._memory.read_bytes())
            return memory["rules"], memory["listed"]
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _remove(self) -> None:
        self._known = None
        if not self._is_gone():
            done = _nft(["-f", "-"], delete_text(self._table))
            if done.returncode:
                raise _refused("delete", done)
        self._memory.unlink(missing_ok=True)

    def _is_gone(self) -> bool:
        """Whether the kernel has no table of ours; asked again only when something changed nftables."""
        now = generation()
        if now is None or now != self._gone:
            if shutil.which("nft", path=_PATH["PATH"]) is None:
                return True  # without networks there is no need of it
            gone = _listed(["list", "table", "ip", self._table]) is None
            self._gone = now if gone else None
            return gone
        return True

    def _foreign(self) -> tuple[Defect, ...]:
        """Chains of others that drop what we forward: no table can overrule another one's drop."""
        now = generation()
        if self._drops is not None and now is not None and self._drops[0] == now:
            return self._drops[1]
        found = []
        for chain in foreign_drops(_listed(["list", "chains"]) or {}):
            family, table, name = chain.split(" ", 2)
            if not lets_us_pass(_listed(["list", "table", family, table]) or {}):
                found.append(Defect("forwarding", _advice(family, table, name)))
        if now is not None:
            self._drops = (now, tuple(found))
        return tuple(found)


def _rules_digest() -> str:
    return hashlib.sha256(RULES.encode()).hexdigest()


def _advice(family: str, table: str, chain: str) -> str:
    text = (
        f"chain {chain} of nftables table {family} {table} drops what it does not know, also our containers'"
    )
    if (family, table, chain) == ("ip", "filter", "FORWARD"):
        chain = "DOCKER-USER" if Path("/sys/class/net/docker0").exists() else chain
        cure = f"iptables -I {chain} -i 'st+' -j ACCEPT; iptables -I {chain} -o 'st+' -j ACCEPT"
    else:
        add = f"nft insert rule {family} {table} {chain}"
        cure = f"{add} iifname 'st*' accept; {add} oifname 'st*' accept"
    return f"{text} packets; let them pass: {cure}"
