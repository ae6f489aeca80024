"""Decisions and effects: what the kernel holds of a box's networks, as other tools show it, and every way to
take a piece of it away by hand.

Nothing of the product is asked: `ip` and `nft` say what is there, and what is whole is what was there before.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.net import addresses

_SETTINGS = (
    "ipv4/ip_forward",
    "ipv6/conf/all/forwarding",
)
_OF_BRIDGES = ("ipv4/conf/{}/route_localnet", "ipv6/conf/{}/disable_ipv6")


@dataclass(frozen=True)
class Fault:
    """`commands` take it away; each may be run although others were."""

    name: str
    commands: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Ground:
    """What is ours: links whose names begin with one of `marks`, the `tables` (family, name), and the network
    namespaces of containers by their names."""

    marks: tuple[str, ...]
    tables: tuple[tuple[str, str], ...]
    inside: dict[str, Path]

    @property
    def main(self) -> tuple[str, str]:
        """The table with the ports."""
        return next(table for table in self.tables if table[0] == "inet")


def ground(root: str, inside: dict[str, Path]) -> Ground:
    marks = (addresses.bridge_prefix(root), addresses.link_prefix(root))
    name = addresses.table_name(root)
    tables = [item["table"] for item in _nft("list", "tables") if "table" in item]
    ours = tuple((item["family"], name) for item in tables if item["name"] == name)
    assert ours
    return Ground(marks, ours, inside)


# ---------------------------------------------------------------- what is there


def snapshot(ground: Ground) -> dict[str, Any]:
    """The same for the same state: no indexes, handles, counters."""
    found: dict[str, Any] = {"host": _namespace(ground, None), "nft": _ruleset(ground)}
    for name, path in ground.inside.items():
        found[name] = _namespace(ground, path)
    names = [*_SETTINGS]
    for bridge in _bridges(found):
        names += [text.format(bridge) for text in _OF_BRIDGES]
    found["settings"] = {name: _setting(name) for name in names}
    return found


def difference(before: Any, after: Any, where: str = "") -> list[str]:
    """In words, for whoever reads that a test failed."""
    if isinstance(before, dict) and isinstance(after, dict):
        keys = sorted({*before, *after})
        return [
            text for key in keys for text in difference(before.get(key), after.get(key), f"{where}/{key}")
        ]
    if isinstance(before, list) and isinstance(after, list):
        lost, new = [x for x in before if x not in after], [x for x in after if x not in before]
        return [f"{where} lacks {item}" for item in lost] + [f"{where} has {item}" for item in new]
    return [] if before == after else [f"{where}: {before} -> {after}"]


def _bridges(found: dict[str, Any]) -> list[str]:
    return [name for name, link in found["host"]["links"].items() if link["kind"] == "bridge"]


def _setting(name: str) -> str:
    try:
        return Path("/proc/sys/net", name).read_text().strip()
    except FileNotFoundError:
        return ""


def _namespace(ground: Ground, path: Path | None) -> dict[str, Any]:
    of_links, of_addresses, *routes = _ip(
        path, "link show", "address show", "route show table main", "route show table local"
    )
    routes += _ip(path, "route show table main", "route show table local", family="-6")
    links = {}
    for item in of_links:
        name = item["ifname"]
        if path is None and not name.startswith(ground.marks):
            continue
        info = item.get("linkinfo", {})
        port = info.get("info_slave_data", {})
        is_port = path is None and bool(item.get("master"))
        links[name] = {
            "kind": info.get("info_kind", ""),
            "up": "UP" in item["flags"],
            "mtu": item["mtu"],
            "mac": item["address"] if path is not None or info.get("info_kind") == "bridge" else "",
            "master": item.get("master", ""),
            "hairpin": port.get("hairpin", False),
            "isolated": port.get("isolated", False),
            "filters": filters_of(name) if is_port else [],
            "macs": fixed_macs_of(name) if is_port else [],
        }
    given = {
        f"{item['ifname']} {address['local']}/{address['prefixlen']}"
        for item in of_addresses
        for address in item["addr_info"]
        if item["ifname"] in links and "local" in address and address["scope"] != "link"
    }
    ways = {
        text
        for number, found in enumerate(routes)
        for text in _routes(found, ("-4", "-6")[number // 2], ("main", "local")[number % 2], links)
    }
    return {"links": links, "addresses": sorted(given), "routes": sorted(ways)}


def filters_of(link: str) -> list[str]:
    """Programs that look at what comes from a port."""
    done = subprocess.run(
        ["tc", "-j", "filter", "show", "dev", link, "ingress"], capture_output=True, text=True, check=False
    )
    found = [item.get("options", {}) for item in json.loads(done.stdout or "[]")]
    return [item["bpf_name"] for item in found if "bpf_name" in item]


def fixed_macs_of(link: str) -> list[str]:
    shown = subprocess.run(
        ["bridge", "-j", "fdb", "show", "dev", link], capture_output=True, text=True, check=True
    )
    return [item["mac"] for item in json.loads(shown.stdout) if item.get("state") == "static"]


def _routes(found: list[Any], family: str, table: str, links: dict[str, Any]) -> Iterator[str]:
    """As `ip route del` takes them, but for those that the kernel makes for itself."""
    for item in found:
        kind, to, device = item.get("type", "unicast"), item["dst"], item.get("dev")
        hidden = kind in ("multicast", "broadcast", "anycast") or to.startswith("fe80") or device == "lo"
        if device in links and not hidden:
            by = f"via {item['gateway']} " if "gateway" in item else ""
            yield f"{family} {kind} {to} {by}dev {device} table {table}"


def _ruleset(ground: Ground) -> list[str]:
    """Of our tables."""
    texts = []
    for item in (item for table in ground.tables for item in _nft("list", "table", *table)):
        for kind, value in item.items():
            if kind == "metainfo":
                continue
            value.pop("handle", None)
            if "elem" in value:
                value["elem"] = sorted(json.dumps(element, sort_keys=True) for element in value["elem"])
            texts.append(json.dumps([kind, value], sort_keys=True))
    # chains of netdev stand in the order in which they were made, and mean the same in any
    return [text for text in texts if '"netdev"' not in text] + sorted(
        text for text in texts if '"netdev"' in text
    )


def _nft(*words: str) -> list[dict[str, Any]]:
    done = subprocess.run(["nft", "-j", *words], capture_output=True, text=True, check=False)
    return list(json.loads(done.stdout or "{}").get("nftables", ()))


def _ip(path: Path | None, *commands: str, family: str = "-4") -> list[list[dict[str, Any]]]:
    """What each of the commands says, by one process. `-4` shows links as well."""
    words = ["ip", "-j", "-d", *([family] if family == "-6" else []), "-batch", "-"]
    given = "".join(f"{command}\n" for command in commands)
    done = subprocess.run([*_enter(path), *words], input=given, capture_output=True, text=True, check=True)
    decoder, text, found = json.JSONDecoder(), done.stdout.lstrip(), []
    while text:
        document, end = decoder.raw_decode(text)
        found.append([item for item in document if item])
        text = text[end:].lstrip()
    assert len(found) == len(commands), done.stdout
    return found


def _enter(path: Path | None) -> tuple[str, ...]:
    return () if path is None else ("nsenter", f"--net={path}")


# ---------------------------------------------------------------- what may be taken away


def faults(ground: Ground, whole: dict[str, Any], spared: Collection[str] = ()) -> list[Fault]:
    """Every object of the snapshot `whole`, one by one, but what is in the `spared` containers."""
    found = [*_of_namespace("host", None, whole["host"])]
    for name, path in ground.inside.items():
        if name not in spared:
            found += _of_namespace(name, path, whole[name])
    for name, value in whole["settings"].items():
        other = {"0": "1", "1": "0"}.get(value)
        if other is not None:
            command = ("sh", "-c", f"echo {other} > /proc/sys/net/{name}")
            found.append(Fault(f"setting {name}", (command,)))
    return [*found, *_of_table(ground, whole["nft"])]


def _of_namespace(where: str, path: Path | None, found: dict[str, Any]) -> Iterator[Fault]:
    enter = _enter(path)
    for name, link in found["links"].items():
        if name != "lo":
            yield Fault(f"{where}: link {name} deleted", ((*enter, "ip", "link", "delete", name),))
        yield Fault(f"{where}: link {name} down", ((*enter, "ip", "link", "set", name, "down"),))
        if link["master"]:
            yield Fault(
                f"{where}: link {name} off its bridge", ((*enter, "ip", "link", "set", name, "nomaster"),)
            )
        for _ in link["filters"]:
            command = (*enter, "tc", "qdisc", "delete", "dev", name, "clsact")
            yield Fault(f"{where}: qdisc of {name}", (command,))
            command = (*enter, "tc", "filter", "delete", "dev", name, "ingress")
            yield Fault(f"{where}: filter of {name}", (command,))
        for mac in link["macs"]:
            command = (*enter, "bridge", "fdb", "delete", mac, "dev", name, "master")
            yield Fault(f"{where}: fixed MAC of {name}", (command,))
        if link["kind"] == "bridge":
            yield Fault(f"{where}: MTU of {name}", ((*enter, "ip", "link", "set", name, "mtu", "1400"),))
    for text in found["addresses"]:
        name, address = text.split()
        if name != "lo":
            command = (*enter, "ip", "address", "delete", address, "dev", name)
            yield Fault(f"{where}: address {address}", (command,))
    for text in found["routes"]:
        family, kind, rest = text.split(maxsplit=2)
        command = (*enter, "ip", family, "route", "delete", kind, *rest.split())
        yield Fault(f"{where}: route {text}", (command,))


def _of_table(ground: Ground, ruleset: list[str]) -> Iterator[Fault]:
    yield Fault("nft: the whole ruleset", (("nft", "flush", "ruleset"),))
    for table in ground.tables:
        yield Fault(f"nft: our table of {table[0]}", (("nft", "delete", "table", *table),))
    for text in ruleset:
        kind, value = json.loads(text)
        if kind == "table":
            continue
        table = (value["family"], value["table"])
        if kind == "chain":
            flush = ("nft", "flush", "chain", *table, value["name"])
            yield Fault(f"nft: chain {value['name']} flushed", (flush,))
            if "hook" in value:
                delete = ("nft", "delete", "chain", *table, value["name"])
                yield Fault(f"nft: chain {value['name']} deleted", (flush, delete))
        if kind in ("set", "map") and value.get("elem"):
            command = ("nft", "flush", kind, *table, value["name"])
            yield Fault(f"nft: {kind} {value['name']} flushed", (command,))
