"""Values: subnets, gateways and interfaces of networks as a person writes them; shapes of pydantic fields."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any

from specs.shapes import Mistake, address, name_text, project_text, shape, text

#: The smallest networks that are of use: a gateway, and a few containers.
_SMALLEST = {4: 29, 6: 125}
#: IFNAMSIZ - 1, netdevice(7)
_NAME_LENGTH = 15

_ONE_OR_TWO = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 2},
    ]
}


def subnet(value: Any) -> str:
    """CIDR of either family, in canonical form."""
    found = text(value)
    try:
        network = ipaddress.ip_network(found)
    except ValueError as error:
        raise Mistake(f"cannot read subnet {found!r}: {error}", "such as 10.88.7.0/24") from None
    if network.prefixlen > _SMALLEST[network.version]:
        raise Mistake(f"cannot use subnet {found!r}: it has no room for containers")
    if network.is_multicast or network.is_link_local or network.is_loopback:
        hint = "such as fd12:3456:789a::/64" if network.version == 6 else "such as 10.88.7.0/24"
        raise Mistake(f"cannot use subnet {found!r}: it cannot be routed", hint)
    return str(network)


def part(value: Any) -> str:
    """CIDR of a part of a subnet, which may be one address."""
    found = text(value)
    try:
        return str(ipaddress.ip_network(found))
    except ValueError as error:
        raise Mistake(f"cannot read range {found!r}: {error}", "such as 10.88.7.128/25") from None


def subnets(value: Any) -> tuple[str, ...]:
    """One subnet, or one of each family, that of IPv4 first."""
    return _one_a_family([subnet(item) for item in _listed(value)], "subnet")


def gateways(value: Any) -> tuple[str, ...]:
    """One address, or one of each family, that of IPv4 first."""
    return _one_a_family(
        [address(item) for item in (value if isinstance(value, list) else [value])], "gateway"
    )


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _one_a_family(found: list[str], what: str) -> tuple[str, ...]:
    if not found:
        raise Mistake(f"write a {what}, or leave it out")
    for six in (False, True):
        same = [item for item in found if (":" in item) is six]
        if len(same) > 1:
            raise Mistake(
                f"there is one {what} of IPv{6 if six else 4} in a network, not {' and '.join(same)}"
            )
    return tuple(sorted(found, key=lambda item: ":" in item))


def network_name(value: Any) -> str:
    """PROJECT/NAME, or NAME for what was made by hand without a project."""
    found = text(value)
    project, slash, name = found.rpartition("/")
    name_text(name)
    if slash:
        project_text(project)
    return found if slash else f"default/{found}"


def interface_name(value: Any) -> str:
    """What an interface may be called: dev_valid_name() in Linux."""
    found = text(value)
    if (
        not found
        or len(found) > _NAME_LENGTH
        or re.search(r"[\s/:\x00-\x1f%]", found)
        or found in (".", "..")
    ):
        raise Mistake(
            f"an interface cannot be called {found!r}",
            f"up to {_NAME_LENGTH} characters, no blanks, no / : %",
        )
    if found == "lo":
        raise Mistake("lo is the container's loopback", "such as lan0")
    return found


def link_local(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise Mistake("write a list of addresses")
    found = [address(item) for item in value]
    for item in found:
        if not ipaddress.ip_address(item).is_link_local:
            raise Mistake(f"{item} is no link-local address", "of 169.254.0.0/16 or fe80::/10")
    return tuple(found)


Subnet = Annotated[str, *shape(subnet, {"type": "string"})]
Part = Annotated[str, *shape(part, {"type": "string"})]
Subnets = Annotated[tuple[str, ...], *shape(subnets, _ONE_OR_TWO, "CIDR, or a list of one of each family")]
Gateways = Annotated[tuple[str, ...], *shape(gateways, _ONE_OR_TWO, "an address, or a list of one of each")]
InterfaceName = Annotated[str, *shape(interface_name, {"type": "string"})]
LinkLocals = Annotated[tuple[str, ...], *shape(link_local, {"type": "array", "items": {"type": "string"}})]
