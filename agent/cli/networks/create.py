"""Effects: `stead network create`: a network that no source declares. The options are docker's, and mean what
the keys of [network.NAME] mean."""

from __future__ import annotations

import json

from agent.cli.images import store
from agent.cli.main import Problem, need_root
from agent.cli.networks import rows

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from runtime.paths import Paths
    from specs.desired import DesiredNetwork

FILE = "network.yaml"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="[PROJECT/]NAME")
    parser.add_argument("-d", "--driver", default="", metavar="DRIVER", help="bridge (default) or macvlan")
    parser.add_argument("--subnet", action="append", default=[], metavar="CIDR", help="one of each family")
    parser.add_argument("--gateway", action="append", default=[], metavar="ADDRESS")
    parser.add_argument("--ip-range", action="append", default=[], metavar="CIDR", help="part to give out")
    parser.add_argument(
        "--aux-address", action="append", default=[], metavar="NAME=ADDRESS", help="not to give"
    )
    parser.add_argument("--internal", action="store_true", help="no way out")
    parser.add_argument("--ipv6", action="store_true", help="IPv6 beside IPv4")
    parser.add_argument("--attachable", action="store_true", help="of no effect: every container may join")
    parser.add_argument("--label", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("-o", "--opt", action="append", default=[], metavar="KEY=VALUE", help="of the driver")
    parser.add_argument("--settings", metavar="FILE", help="settings of the node (its pools)")


def run(options: argparse.Namespace, paths: Paths) -> int:
    from agent import render
    from agent.cli import specs
    from agent.machine import open_runtime

    need_root()
    wanted = _wanted(options)
    with open_runtime(paths, specs.settings_of(options)) as runtime:
        if any(record.name == wanted.name for record in runtime.fabric.networks()):
            raise Problem(f"cannot create network {wanted.name}: there is one of this name")
        runtime.create_network(render.network_request("", wanted))
        made = next(record for record in runtime.fabric.networks() if record.name == wanted.name)
    print(rows.id_of(made))
    store.wake_agent(paths)
    return 0


def _wanted(options: argparse.Namespace) -> DesiredNetwork:
    """Checked as a spec is. Raises Problem with everything that is wrong."""
    from specs.resolve import resolve

    project, _, name = rows.full_name(options.name).rpartition("/")
    document = {"project": project, "network": {name: _table(options)}}
    desired, problems = resolve({FILE: json.dumps(document).encode()}, source="", variables={})
    if desired is None:
        texts = [problem.text.removeprefix(f"network.{name}.") for problem in problems]
        hints = [f" ({problem.hint})" if problem.hint else "" for problem in problems]
        lines = "; ".join(text + hint for text, hint in zip(texts, hints, strict=True))
        raise Problem(f"cannot create network {options.name}: {lines}", 2)
    return desired.networks[f"{project}/{name}"]


def _table(options: argparse.Namespace) -> dict[str, Any]:
    table: dict[str, Any] = {
        "driver": options.driver or None,
        "internal": options.internal or None,
        "enable_ipv6": options.ipv6 or None,
        "labels": _pairs(options.label, "--label"),
        "driver_opts": _pairs(options.opt, "--opt"),
    }
    pools = [{"subnet": _plain(subnet)} for subnet in options.subnet]
    for key, values in (("gateway", options.gateway), ("ip_range", options.ip_range)):
        for value in values:
            _pool(pools, value, key)[key] = _plain(value)
    for number, pair in enumerate(options.aux_address):
        name, equals, address = pair.partition("=")
        address = address if equals else name
        _pool(pools, address, "aux-address").setdefault("aux_addresses", {})[f"{number}"] = _plain(address)
    if pools:
        table["ipam"] = {"config": pools}
    return {key: value for key, value in table.items() if value}


def _pool(pools: list[dict[str, Any]], value: str, what: str) -> dict[str, Any]:
    """That of the value's family."""
    for pool in pools:
        if (":" in pool["subnet"]) == (":" in value):
            return pool
    raise Problem(f"cannot use --{what.replace('_', '-')} {value}: it needs a --subnet of its family", 2)


def _plain(value: str) -> str:
    """Not a variable."""
    return value.replace("$", "$$")


def _pairs(words: list[str], option: str) -> dict[str, str]:
    found = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not key or (option == "--opt" and not equals):
            raise Problem(f"cannot read {option} {word!r}: write KEY=VALUE", 2)
        found[key] = _plain(value)
    return found
