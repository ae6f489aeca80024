"""Effects: whether what containers ask comes through to the name server; and, pure, which rules are to blame.

A server that listens hears nothing where a firewall of the host drops what comes in, and no table can
overrule another one's drop. There are too many kinds of rules to tell by reading them, so a question is asked
from inside of a container. Rules are read when there is no answer: without any that drop nobody is blamed.

In the tables of iptables, where ufw and container engines have their rules, two of ours are put first in
INPUT then; foreign.py takes them back with its own. A table of a person is left alone: it is told.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from runtime.linux import namespaces
from runtime.net import addresses, nft

PORT = 53
#: Seconds for one answer, questions that are asked, seconds between looks while rules change all the time.
TIMEOUT, ATTEMPTS, PAUSE = 0.5, 2, 2.0
#: Lists the tables of iptables-legacy in this network namespace.
LEGACY = Path("/proc/net/ip_tables_names")

_QUESTION = struct.pack("!5H", 0x0100, 1, 0, 0, 0) + b"\x09localhost\0" + struct.pack("!HH", 1, 1)


class Hearing:
    """`netns` says where a container's network namespace is bound, `prefix` begins the name of each bridge of
    ours. Thread-safe."""

    def __init__(self, netns: Callable[[str], Path], prefix: str) -> None:
        self._netns, self._prefix = netns, prefix
        self._known: dict[str, tuple[int | None, float, str]] = {}  # gateway -> (generation, time, wrong)

    def check(self, gateway: str, container: str, *, ask: bool = True) -> str:
        """What keeps this container, which is on the gateway's network, from being heard there; empty:
        nothing, or it cannot be told. Asked again when rules have changed, or while something is wrong."""
        generation, now = nft.generation(), time.monotonic()
        known = self._known.get(gateway)
        if not ask:
            return known[2] if known is not None else ""
        if known is not None and now - known[1] < PAUSE:
            return known[2]
        if known is not None and not known[2] and generation is not None and known[0] == generation:
            return ""
        heard = _is_heard(self._netns(container), gateway)
        wrong = ""
        if heard is False:
            wrong = blame(nft.listed(["list", "ruleset"]) or {}, _legacy(), self._prefix)
        if heard is not None:
            self._known[gateway] = (generation, now, wrong)
        return wrong

    def let_in(self, gateway: str) -> None:
        """Rules of ours in iptables, where its INPUT is what keeps containers of this network from being
        heard. Fault firewall-failed."""
        known = self._known.get(gateway)
        if known is None or not known[2]:
            return
        text = admission(nft.listed(["list", "ruleset"]) or {}, self._prefix)
        if text:
            done = nft.run(["-f", "-"], text)
            if done.returncode:
                raise nft.refused("change", done)
        self._known.pop(gateway, None)


def _is_heard(netns: Path, gateway: str) -> bool | None:
    """Whether a question from this namespace is answered; None: it could not be asked."""
    family = socket.AF_INET6 if ":" in gateway else socket.AF_INET
    try:
        with namespaces.in_netns(netns):
            sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        with sock:
            sock.connect((gateway, PORT))
            sock.settimeout(TIMEOUT)
            for _ in range(ATTEMPTS):
                sock.send(os.urandom(2) + _QUESTION)
                try:
                    return bool(sock.recv(512))
                except TimeoutError:
                    continue
                except ConnectionRefusedError:  # a rule may reject by icmp(7); or the server has just ended
                    return False
            return False
    except OSError:  # the container has gone
        return None


def _legacy() -> bool:
    try:
        return "filter" in LEGACY.read_text().split()
    except OSError:
        return False


# ---------------------------------------------------------------- decisions


def blame(ruleset: Mapping[str, Any], legacy: bool, prefix: str) -> str:
    """Which chain of somebody else at the input hook drops, and how to let containers ask; empty: none that
    has no rules of ours."""
    for family, table, chain in _dropping(ruleset):
        if not _admitted(ruleset, family, table, chain, prefix):
            return _advice(family, table, chain)
    return _iptables("iptables-legacy", "INPUT") if legacy else ""


def admission(ruleset: Mapping[str, Any], prefix: str) -> str:
    """nft text that lets containers ask where INPUT of iptables drops. iptables-nft(8) reads such rules."""
    return "".join(
        f'insert rule {family} {table} {chain} iifname "{prefix}*" {protocol} dport {PORT} counter accept\n'
        for family, table, chain in _dropping(ruleset)
        if _of_iptables(family, table, chain) and not _admitted(ruleset, family, table, chain, prefix)
        for protocol in ("udp", "tcp")
    )


def _of_iptables(family: str, table: str, chain: str) -> bool:
    return family in ("ip", "ip6") and (table, chain) == ("filter", "INPUT")


def _admitted(ruleset: Mapping[str, Any], family: str, table: str, chain: str, prefix: str) -> bool:
    """Whether the chain has rules as `admission` or `_advice` have them: for our bridges, or for `st*`."""
    return any(
        (rule.get("family"), rule.get("table"), rule.get("chain")) == (family, table, chain)
        and any(_matches(item.get("match", {}).get("right"), prefix) for item in rule.get("expr", ()))
        for rule in (item.get("rule", {}) for item in ruleset.get("nftables", ()))
    )


def _matches(pattern: object, prefix: str) -> bool:
    return (
        isinstance(pattern, str) and pattern.startswith("st") and prefix.startswith(pattern.removesuffix("*"))
    )


def _dropping(ruleset: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(family, table, chain) of others at the input hook whose policy drops, or in whose table a rule drops
    or rejects."""
    items = ruleset.get("nftables", ())
    dropping = {
        (item["rule"]["family"], item["rule"]["table"])
        for item in items
        if any("drop" in expr or "reject" in expr for expr in item.get("rule", {}).get("expr", ()))
    }
    for item in items:
        chain = item.get("chain", {})
        table = (chain.get("family"), chain.get("table"))
        ours = str(chain.get("table", "")).startswith(addresses.TABLE)
        if chain.get("hook") != "input" or ours or chain["family"] not in ("ip", "ip6", "inet"):
            continue
        if chain.get("policy") == "drop" or table in dropping:
            yield chain["family"], chain["table"], chain["name"]


def _advice(family: str, table: str, chain: str) -> str:
    if _of_iptables(family, table, chain):
        return _iptables("iptables" if family == "ip" else "ip6tables", chain)
    text = f"chain {chain} of nftables table {family} {table} drops what containers ask the name server"
    if table == "firewalld":
        return f"{text}; let them ask: firewall-cmd --permanent --zone=trusted --add-interface=st+"
    rule = "iifname 'st*' meta l4proto { tcp, udp } th dport 53 accept"
    return f"{text}; let them ask: nft insert rule {family} {table} {chain} {rule}"


def _iptables(command: str, chain: str) -> str:
    rules = "; ".join(
        f"{command} -I {chain} -i 'st+' -p {protocol} --dport {PORT} -j ACCEPT" for protocol in ("udp", "tcp")
    )
    return f"chain {chain} of {command} drops what containers ask the name server; let them ask: {rules}"
