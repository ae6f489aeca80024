"""Effects: `stead network connect`: a container joins a network beside those that it is declared on."""

from __future__ import annotations

from agent.cli.images import store
from agent.cli.main import Problem, need_root
from agent.cli.networks import rows

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from runtime.paths import Paths
    from runtime.wishes import Attachment


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("network", metavar="NETWORK")
    parser.add_argument("container", metavar="CONTAINER")
    parser.add_argument("--alias", action="append", default=[], metavar="NAME", help="a further name there")
    parser.add_argument("--ip", default="", metavar="ADDRESS", help="its IPv4 address there")
    parser.add_argument("--ip6", default="", metavar="ADDRESS", help="its IPv6 address there")
    parser.add_argument("--mac-address", default="", metavar="MAC", help="its hardware address there")
    parser.add_argument("--link-local-ip", action="append", default=[], metavar="ADDRESS")
    parser.add_argument(
        "--interface-name", default="", metavar="NAME", help="eth and a number where left out"
    )
    parser.add_argument(
        "--gw-priority", type=int, default=0, metavar="N", help="the highest one has the default route"
    )


def run(options: argparse.Namespace, paths: Paths) -> int:
    from runtime import attend
    from runtime.local import LocalRuntime

    need_root()
    container = attend.find(paths, options.container).name
    with LocalRuntime(paths) as runtime:
        record = rows.meant(rows.networks(runtime.database.read()), options.network)
        runtime.containers.connect(container, _attachment(options, record.name))
    store.wake_agent(paths)
    return 0


def _attachment(options: argparse.Namespace, network: str) -> Attachment:
    """Checked as specs are. Raises Problem."""
    from runtime.wishes import Attachment
    from specs import shapes, subnets

    return Attachment(
        network,
        tuple(_checked("--alias", shapes.hostname, alias) for alias in options.alias),
        _checked("--ip", shapes.ipv4, options.ip),
        _checked("--mac-address", shapes.mac_address, options.mac_address),
        _checked("--ip6", shapes.ipv6, options.ip6),
        options.gw_priority,
        _checked("--interface-name", subnets.interface_name, options.interface_name),
        tuple(
            _checked("--link-local-ip", lambda text: subnets.link_local([text])[0], text)
            for text in options.link_local_ip
        ),
    )


def _checked(option: str, check: Callable[[str], str], value: str) -> str:
    try:
        return check(value) if value else ""
    except ValueError as error:
        raise Problem(f"cannot use {option}: {error}", 2) from None
