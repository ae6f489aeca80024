"""Effects: `stead network inspect`: all that is known of networks, as JSON with docker's keys."""

from __future__ import annotations

import hashlib
import json
import sys
from datetime import UTC, datetime

from agent.cli.main import Problem, need_root
from agent.cli.networks import rows
from agent.cli.template import Template, TemplateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    import sqlite3
    from collections.abc import Mapping
    from typing import Any

    from runtime.net.records import Lease, NetworkRecord
    from runtime.observations import ObservedNetwork
    from runtime.paths import Paths

_COUNTERS = (
    "rx_bytes",
    "rx_packets",
    "rx_errors",
    "rx_dropped",
    "tx_bytes",
    "tx_packets",
    "tx_errors",
    "tx_dropped",
)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="+", metavar="NETWORK")
    parser.add_argument("-f", "--format", default="", metavar="TEMPLATE", help='"json" or a template')


def run(options: argparse.Namespace, paths: Paths) -> int:
    need_root()
    try:
        template = Template.read(options.format) if options.format not in ("", "json") else None
        documents, missing = _documents(paths, options.names)
        if template is not None:
            for item in documents:
                print(template.render(item))
        elif options.format == "json":
            print(json.dumps(documents, separators=(",", ":"), ensure_ascii=False))
        else:
            print(json.dumps(documents, indent=4, ensure_ascii=False))
    except TemplateError as error:
        raise Problem(f"cannot read format {options.format!r}: {error}", 2) from error
    for line in missing:
        print(f"stead: {line}", file=sys.stderr)
    return 1 if missing else 0


def _documents(paths: Paths, names: list[str]) -> tuple[list[dict[str, Any]], list[str]]:
    from runtime.local import LocalRuntime
    from runtime.net.records import by_network, read_leases

    found, missing = [], []
    with LocalRuntime(paths) as runtime:
        connection = runtime.database.read()
        known, leases = rows.networks(connection), by_network(read_leases(connection))
        observed = {item.name: item for item in runtime.fabric.observe().networks}
        traffic = runtime.fabric.traffic()
        for name in names:
            try:
                record = rows.meant(known, name)
            except Problem as problem:
                missing.append(str(problem))
                continue
            members = leases.get(record.name, [])
            found.append(_document(connection, record, members, observed.get(record.name), traffic))
    return found, missing


def _document(
    connection: sqlite3.Connection,
    record: NetworkRecord,
    members: list[Lease],
    seen: ObservedNetwork | None,
    traffic: Mapping[tuple[str, str], Mapping[str, int]],
) -> dict[str, Any]:
    made = datetime.fromtimestamp(record.created, UTC).isoformat().replace("+00:00", "Z")
    options = record.options
    return {
        "Name": record.name,
        "Id": rows.id_of(record),
        "Created": made,
        "Scope": "local",
        "Driver": options.driver,
        "EnableIPv4": True,
        "EnableIPv6": bool(record.subnet6),
        "IPAM": {"Driver": "default", "Options": None, "Config": _pools(record)},
        "Internal": record.internal,
        "Attachable": True,
        "Ingress": False,
        "Containers": {lease.container: _member(connection, record, lease, traffic) for lease in members},
        "Options": _options(record),
        "Labels": json.loads(record.labels),
        "Source": record.source or rows.UNMANAGED,
        "Bridge": record.bridge if record.is_bridge else "",
        "MTU": record.mtu,
        "Defects": [defect.text for defect in seen.defects] if seen is not None else [],
    }


def _pools(record: NetworkRecord) -> list[dict[str, Any]]:
    options = record.options
    found = []
    for subnet, gateway, within in (
        (record.subnet, record.gateway, options.ip_range),
        (record.subnet6, record.gateway6, options.ip_range6),
    ):
        if subnet:
            reserved = [item for item in options.reserved if (":" in item) == (":" in subnet)]
            extra = {"IPRange": within} if within else {}
            aux = {f"reserved{number}": item for number, item in enumerate(reserved)}
            found.append(
                {
                    "Subnet": subnet,
                    **extra,
                    "Gateway": gateway,
                    **({"AuxiliaryAddresses": aux} if aux else {}),
                }
            )
    return found


def _options(record: NetworkRecord) -> dict[str, str]:
    """As they would be written in driver_opts."""
    from specs.networks import ICC, MASQUERADE, MODE, MTU, PARENT

    options = record.options
    found = {MTU: str(record.mtu)}
    if options.driver == "macvlan":
        return {**found, PARENT: options.parent, MODE: options.mode or "bridge"}
    for key, on in ((ICC, options.icc), (MASQUERADE, options.masquerade)):
        if not on:
            found[key] = "false"
    return found


def _member(
    connection: sqlite3.Connection,
    record: NetworkRecord,
    lease: Lease,
    traffic: Mapping[tuple[str, str], Mapping[str, int]],
) -> dict[str, Any]:
    from runtime.net.records import published_on, read_leases, read_networks, read_ports

    held = read_leases(connection, container=lease.container)
    leads_here = published_on(held, read_networks(connection))
    ports = []
    if leads_here is not None and leads_here.network == record.name and lease.active:
        ports = [str(row.binding) for row in read_ports(connection, lease.container)]
    counted = traffic.get((lease.container, lease.network), {})
    prefix6 = record.subnet6.partition("/")[2]
    return {
        "Name": lease.name,
        "EndpointID": hashlib.sha256(f"{lease.container} {lease.network}".encode()).hexdigest(),
        "MacAddress": lease.mac,
        "IPv4Address": f"{lease.address}/{record.net.prefixlen}",
        "IPv6Address": f"{lease.address6}/{prefix6}" if lease.address6 else "",
        "Interface": lease.inside,
        "Aliases": list(lease.aliases),
        "Running": lease.active,
        "Ports": ports,
        "Counters": {key: counted.get(key, 0) for key in _COUNTERS},
    }
