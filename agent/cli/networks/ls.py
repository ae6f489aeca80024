"""Effects: `stead network ls`: a row for each network, by name."""

from __future__ import annotations

import json
import time

from agent.cli import formatting
from agent.cli.networks import choosing, rows

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from runtime.net.records import NetworkRecord
    from runtime.paths import Paths

HEADS = {
    "ID": "NETWORK ID",
    "Name": "NAME",
    "Driver": "DRIVER",
    "Scope": "SCOPE",
    "Source": "SOURCE",
    "Subnet": "SUBNET",
    "IPv4": "IPV4",
    "IPv6": "IPV6",
    "Internal": "INTERNAL",
    "Containers": "CONTAINERS",
    "CreatedAt": "CREATED AT",
    "Labels": "LABELS",
}
COLUMNS = ("ID", "Name", "Driver", "Scope", "Subnet", "Containers", "Source")
FILTERS = ("dangling", "driver", "id", "label", "name", "scope", "source", "type", "until")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-f", "--filter", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--format", default="", metavar="FORMAT", help='"table", "json" or a template')
    parser.add_argument("--json", action="store_const", dest="format", const="json", help="--format json")
    parser.add_argument("--no-trunc", action="store_true", help="show whole ids")
    parser.add_argument("-q", "--quiet", action="store_true", help="ids only")


def run(options: argparse.Namespace, paths: Paths) -> int:
    from runtime.net.records import read_leases

    members: dict[str, int] = {}
    with rows.reading(paths) as connection:
        known = rows.networks(connection)
        for lease in read_leases(connection) if connection is not None else ():
            members[lease.network] = members.get(lease.network, 0) + 1
    chosen = choosing.chosen(options.filter, FILTERS, list(known.values()), members, time.time())
    table = [_row(record, members.get(record.name, 0), options.no_trunc) for record in chosen]
    if options.quiet:
        print("".join(f"{row['ID']}\n" for row in table), end="")
        return 0
    for line in formatting.lines(table, options.format, HEADS, COLUMNS):
        print(line)
    return 0


def _row(record: NetworkRecord, members: int, whole: bool) -> dict[str, Any]:
    id = rows.id_of(record)
    made = time.localtime(record.created)
    return {
        "ID": id if whole else id[: rows.SHORT_ID],
        "Name": record.name,
        "Driver": record.options.driver,
        "Scope": "local",
        "Source": record.source or rows.UNMANAGED,
        "Subnet": ", ".join(filter(None, (record.subnet, record.subnet6))),
        "IPv4": "true",
        "IPv6": "true" if record.subnet6 else "false",
        "Internal": "true" if record.internal else "false",
        "Containers": str(members),
        "CreatedAt": time.strftime("%Y-%m-%d %H:%M:%S %z %Z", made),
        "Labels": ",".join(f"{key}={value}" for key, value in json.loads(record.labels).items()),
    }
