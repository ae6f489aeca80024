"""Effects: `stead port`: where a container's ports are to be reached on this machine."""

from __future__ import annotations

import sys

from agent.cli.main import Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from runtime.paths import Paths


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("port", nargs="?", default="", metavar="PORT[/PROTOCOL]", help="of the container")


def run(options: argparse.Namespace, paths: Paths) -> int:
    from runtime import attend

    record = attend.find(paths, options.name)
    live = attend.live_state(paths, record) is not None
    published = attend.read_ports(paths).get(record.id, []) if live else []
    if not options.port:
        for item in published:
            print(f"{item['container_port']}/{item['protocol']} -> {_address(item)}")
        return 0
    wanted = _wanted(options.port)
    fits = [item for item in published if (item["container_port"], item["protocol"]) == wanted]
    if not fits:
        port, protocol = wanted
        print(f"stead: no public port '{port}/{protocol}' published for {options.name}", file=sys.stderr)
        return 1
    for item in fits:
        print(_address(item))
    return 0


def _wanted(text: str) -> tuple[int, str]:
    port, _, protocol = text.partition("/")
    if not port.isdigit() or not 0 < int(port) < 65536:
        raise Problem(f"cannot read port {text!r}: write 80 or 80/tcp", 2)
    return int(port), protocol.lower() or "tcp"


def _address(item: dict[str, Any]) -> str:
    host = str(item["host_ip"]) or "0.0.0.0"
    return f"[{host}]:{item['host_port']}" if ":" in host else f"{host}:{item['host_port']}"
