"""Effects: the nft command, and what nfnetlink tells at once without it: the generation, names of tables.

nft(8), linux/netfilter/nf_tables.h. Everything is of the network namespace of the calling thread.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import struct
import subprocess
from typing import Any

from runtime.faults import Fault
from runtime.net.netlink import NETLINK_NETFILTER, NLM_F_DUMP, Netlink, attributes
from runtime.net.netlink import text as words

#: An nft command that takes longer than this (seconds) is stuck.
TIMEOUT = 30.0

_NFNL_SUBSYS_NFTABLES = 10
_NFT_MSG_GETGEN = 16
_NFTA_GEN_ID = 1
_NFT_MSG_GETTABLE = 1
_NFTA_TABLE_NAME = 1
_NFT_MSG_GETCHAIN = 4
_NFTA_CHAIN_TABLE, _NFTA_CHAIN_NAME, _NFTA_CHAIN_USE = 1, 3, 6
_FAMILIES = {1: "inet", 2: "ip", 5: "netdev", 10: "ip6"}  # NFPROTO_*, linux/netfilter.h


def generation() -> int | None:
    """The number of the last nftables transaction in this network namespace; None when it cannot be told."""
    try:
        with Netlink(NETLINK_NETFILTER) as netlink:
            body = struct.pack("=BBH", socket.AF_UNSPEC, 0, 0)
            (answer,) = netlink.ask(_NFNL_SUBSYS_NFTABLES << 8 | _NFT_MSG_GETGEN, body)[:1]
        return int.from_bytes(attributes(answer, 4)[_NFTA_GEN_ID], "big")
    except (OSError, KeyError, ValueError):
        return None


def tables() -> list[tuple[str, str]]:
    """(family, name) of the tables in this network namespace; none where nftables is not there."""
    try:
        with Netlink(NETLINK_NETFILTER) as netlink:
            body = struct.pack("=BBH", socket.AF_UNSPEC, 0, 0)
            answers = netlink.ask(_NFNL_SUBSYS_NFTABLES << 8 | _NFT_MSG_GETTABLE, body, NLM_F_DUMP)
        return [
            (_FAMILIES.get(answer[0], ""), words(attributes(answer, 4).get(_NFTA_TABLE_NAME)))
            for answer in answers
        ]
    except OSError:
        return []


def chains(family: str, table: str) -> dict[str, int]:
    """Names of a table's chains, with how many rules and jumps each has; none where there is no table."""
    number = next(number for number, name in _FAMILIES.items() if name == family)
    try:
        with Netlink(NETLINK_NETFILTER) as netlink:
            body = struct.pack("=BBH", number, 0, 0)
            answers = netlink.ask(_NFNL_SUBSYS_NFTABLES << 8 | _NFT_MSG_GETCHAIN, body, NLM_F_DUMP)
    except OSError:
        return {}
    found = (attributes(answer, 4) for answer in answers)
    return {
        words(chain.get(_NFTA_CHAIN_NAME)): int.from_bytes(chain.get(_NFTA_CHAIN_USE, b""), "big")
        for chain in found
        if words(chain.get(_NFTA_CHAIN_TABLE)) == table
    }


_PATH = {"PATH": "/usr/sbin:/sbin:/usr/bin:/bin:/usr/local/sbin", "LC_ALL": "C"}


def environment() -> dict[str, str]:
    """For commands of firewalls: they are not always on a service's path."""
    return {**os.environ, **_PATH}


def run(arguments: list[str], given: str = "") -> subprocess.CompletedProcess[str]:
    """Fault firewall-failed when nft is not installed or stuck."""
    try:
        return subprocess.run(
            ["nft", *arguments],
            input=given,
            capture_output=True,
            text=True,
            check=False,
            env=environment(),
            timeout=TIMEOUT,
        )
    except FileNotFoundError:
        hint = "install nftables: apt-get install nftables"
        raise Fault("firewall-failed", "run", "nft", "the command is not installed", hint) from None
    except subprocess.TimeoutExpired:
        raise Fault("firewall-failed", "run", "nft", f"no answer within {TIMEOUT:.0f} s") from None


def is_installed() -> bool:
    return shutil.which("nft", path=_PATH["PATH"]) is not None


def listed(arguments: list[str]) -> dict[str, Any] | None:
    """The JSON of a list command; None when there is no such table."""
    done = run(["-j", *arguments])
    if done.returncode:
        if "No such file or directory" in done.stderr:
            return None
        raise refused("read", done)
    document: dict[str, Any] = json.loads(done.stdout or "{}")
    return document


def refused(verb: str, done: subprocess.CompletedProcess[str]) -> Fault:
    lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    hint = ""
    if "Operation not supported" in done.stderr or "Protocol not supported" in done.stderr:
        hint = "load the kernel's nf_tables and nft_* modules, or install the full kernel package"
    cause = lines[0].removeprefix("/dev/stdin:").strip().lower()
    return Fault("firewall-failed", verb, "nftables table", cause, hint)
