"""Decisions and effects: chains of others that drop what we forward. No table overrules another one's drop.

A drop is final wherever it is said, an accept is final only in its own table: where somebody else's chain
drops what it does not know, our packets need a rule there, and rules.py goes on to decide what may pass.

In the tables of iptables, where every container engine has its rules, we have ours: two that accept what
comes from or goes to our bridges, in DOCKER-USER where that chain is (Docker leaves it alone when it starts),
else first in FORWARD. They have the bridges' prefix in them, which is how they are found again; they go with
the last network. firewalld forwards nothing between interfaces that it does not know: our bridges are put in
its zone `trusted` until it loads its rules anew (firewall-cmd(1)), and then again. A table of a person is
left alone: it is told, with the rules that it needs.

iptables-nft(8) reads rules that nft(8) wrote if they are such as its own. iptables-legacy has its tables
elsewhere; it is asked for them where the kernel has any (/proc/net/ip_tables_names).
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from runtime.net import addresses, nft
from runtime.observations import Defect

#: Seconds for which the answer of iptables-legacy is believed: its changes are told by nobody.
LEGACY_LOOK = 10.0
_FIREWALLD, _FORWARD = ("inet", "firewalld"), "inet firewalld filter_FORWARD"
_CURE = "firewall-cmd --permanent --zone=trusted --add-interface=st+; firewall-cmd --reload"
_LEGACY = {"ip": ("ip_tables_names", "iptables-legacy"), "ip6": ("ip6_tables_names", "ip6tables-legacy")}

# ---------------------------------------------------------------- decisions


def foreign_drops(document: Mapping[str, Any]) -> list[str]:
    """Base chains of others at the forward hook whose policy drops, as `family table chain`."""
    found = []
    for item in document.get("nftables", ()):
        chain = item.get("chain")
        if not chain or chain.get("hook") != "forward" or chain.get("policy") != "drop":
            continue
        if chain["family"] in ("ip", "ip6", "inet") and not chain["table"].startswith(addresses.TABLE):
            found.append(f"{chain['family']} {chain['table']} {chain['name']}")
    return found


def of_iptables(chain: str) -> bool:
    """Whether it is the chain in which engines have their rules."""
    return chain in ("ip filter FORWARD", "ip6 filter FORWARD")


def lets_us_pass(document: Mapping[str, Any], prefix: str) -> bool:
    """Whether a table lists a rule that accepts packets from or to links that begin with `prefix`, be it by
    `st*`: then its owner knows of us. One that accepts some packets only, such as what containers ask the
    name server, does not count."""
    return any(
        prefix.startswith(pattern[:-1])
        for rule in _rules(document)
        for pattern in _patterns(rule)
        if pattern.startswith("st")
        and any("accept" in item for item in rule.get("expr", ()))
        and not any("payload" in item["match"].get("left", ()) for item in rule["expr"] if "match" in item)
    )


def adaptation(chain: str, document: Mapping[str, Any], prefix: str) -> str:
    """nft text that lets us pass a chain of iptables; `document` lists its table."""
    family, table, name = chain.split(" ", 2)
    chains = {item["chain"]["name"] for item in document.get("nftables", ()) if "chain" in item}
    name = "DOCKER-USER" if "DOCKER-USER" in chains else name
    return "".join(
        f'insert rule {family} {table} {name} {key} "{prefix}*" counter accept\n'
        for key in ("iifname", "oifname")
    )


def withdrawal(document: Mapping[str, Any], prefix: str) -> str:
    """nft text that takes back every rule of `adaptation` that a table lists."""
    return "".join(
        f"delete rule {rule['family']} {rule['table']} {rule['chain']} handle {rule['handle']}\n"
        for rule in _rules(document)
        if f"{prefix}*" in _patterns(rule)
    )


def advice(chain: str) -> str:
    family, table, name = chain.split(" ", 2)
    add = f"nft insert rule {family} {table} {name}"
    return (
        f"chain {name} of nftables table {family} {table} drops what it does not know, also our containers'"
        f" packets; let them pass: {add} iifname 'st*' accept; {add} oifname 'st*' accept"
    )


def _rules(document: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    return (item["rule"] for item in document.get("nftables", ()) if "rule" in item)


def _patterns(rule: Mapping[str, Any]) -> list[str]:
    """What the names of interfaces are compared with, where that ends with a star."""
    matches = (item["match"].get("right") for item in rule.get("expr", ()) if "match" in item)
    return [right for right in matches if isinstance(right, str) and right.endswith("*")]


def legacy_drops(listing: str) -> bool:
    """Whether `iptables -S FORWARD` says that the policy drops."""
    return "-P FORWARD DROP" in listing.splitlines()


def legacy_adapted(listing: str, prefix: str) -> bool:
    lines = listing.splitlines()
    return all(any(f" {key} {prefix}+ -j ACCEPT" in line for line in lines) for key in ("-i", "-o"))


# ---------------------------------------------------------------- effects


class Foreign:
    """`prefix` begins the name of each bridge of ours. Not thread-safe."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._known: tuple[int, tuple[Defect, ...]] | None = None  # of nftables, at a generation
        self._legacy: tuple[float, tuple[Defect, ...]] | None = None

    def defects(self) -> tuple[Defect, ...]:
        """Chains that drop our packets now. Fault firewall-failed."""
        now = nft.generation()
        if self._known is None or now is None or self._known[0] != now:
            found = []
            for chain in foreign_drops(nft.listed(["list", "chains"]) or {}):
                if not lets_us_pass(_table(chain), self._prefix):
                    found.append(Defect("forwarding", _told(chain) if of_iptables(chain) else advice(chain)))
            if _FIREWALLD in nft.tables() and not lets_us_pass(_table(_FORWARD), self._prefix):
                text = (
                    "firewalld does not forward what containers send: their bridges are in no zone that does"
                )
                found.append(Defect("forwarding", f"{text}; let it: {_CURE}"))
            self._known = (now or 0, tuple(found))
        return self._known[1] + self._legacy_defects()

    def adapt(self) -> None:
        """Our rules in the tables of iptables whose FORWARD drops; repeatable. Fault firewall-failed."""
        for chain in foreign_drops(nft.listed(["list", "chains"]) or {}):
            table = _table(chain) if of_iptables(chain) else {}
            if table and not lets_us_pass(table, self._prefix):
                done = nft.run(["-f", "-"], adaptation(chain, table, self._prefix))
                if done.returncode:
                    raise nft.refused("change", done)
        if _FIREWALLD in nft.tables() and not lets_us_pass(_table(_FORWARD), self._prefix):
            _asked("firewall-cmd", "--zone=trusted", f"--add-interface={self._prefix}+")
        for command, listing in _legacy_tables():
            if legacy_drops(listing) and not legacy_adapted(listing, self._prefix):
                chain = "DOCKER-USER" if _asked(command, "-w", "-S", "DOCKER-USER") else "FORWARD"
                for key in ("-i", "-o"):
                    _asked(command, "-w", "-I", chain, key, f"{self._prefix}+", "-j", "ACCEPT")
        self._legacy = None

    def withdraw(self) -> None:
        """Our rules go. Fault firewall-failed."""
        for family in ("ip", "ip6"):
            if (family, "filter") in nft.tables():
                text = withdrawal(nft.listed(["list", "table", family, "filter"]) or {}, self._prefix)
                done = nft.run(["-f", "-"], text) if text else None
                if done is not None and done.returncode:
                    raise nft.refused("change", done)
        if _FIREWALLD in nft.tables():
            _asked("firewall-cmd", "--zone=trusted", f"--remove-interface={self._prefix}+")
        for command, _ in _legacy_tables():
            for chain in ("DOCKER-USER", "FORWARD"):
                for key in ("-i", "-o"):
                    _asked(command, "-w", "-D", chain, key, f"{self._prefix}+", "-j", "ACCEPT")

    def _legacy_defects(self) -> tuple[Defect, ...]:
        if self._legacy is None or time.monotonic() > self._legacy[0] + LEGACY_LOOK:
            found = tuple(
                Defect("forwarding", _told(f"{command} filter FORWARD"))
                for command, listing in _legacy_tables()
                if legacy_drops(listing) and not legacy_adapted(listing, self._prefix)
            )
            self._legacy = (time.monotonic(), found)
        return self._legacy[1]


def _told(chain: str) -> str:
    owner, table, name = chain.split(" ", 2)
    return f"chain {name} of {owner} {table} has a policy that drops, and no rule for our bridges"


def _table(chain: str) -> Mapping[str, Any]:
    family, table, _ = chain.split(" ", 2)
    return nft.listed(["list", "table", family, table]) or {}


def _legacy_tables() -> Iterator[tuple[str, str]]:
    """(command, its listing of filter FORWARD and DOCKER-USER) of each family that has a legacy table."""
    for names, command in _LEGACY.values():
        try:
            there = "filter" in Path("/proc/thread-self/net", names).read_text().split()
        except OSError:
            continue
        if there and (listing := _asked(command, "-w", "-S", "FORWARD")):
            yield command, listing + _asked(command, "-w", "-S", "DOCKER-USER")


def _asked(command: str, *words: str) -> str:
    """What it prints; empty where it cannot, or is not there."""
    try:
        done = subprocess.run(
            [command, *words],
            capture_output=True,
            text=True,
            env=nft.environment(),
            timeout=nft.TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
