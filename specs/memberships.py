"""Decisions: which networks a container joins, and with which addresses."""

from __future__ import annotations

from collections.abc import Callable

from specs.declared import Declared, Index
from specs.desired import Attachment
from specs.documents import Container, Network, NetworkMembership
from specs.networks import Pool, is_external, is_host, name_of, pools

_Wrong = Callable[..., None]
#: (network, address or MAC) -> who asked for it
Asked = dict[tuple[str, str], Declared]


def memberships(
    declared: Declared, model: Container, index: Index, asked: Asked, wrong: _Wrong
) -> tuple[Attachment, ...]:
    """In the order in which its interfaces are numbered: those of higher `priority` first."""
    project = declared.project
    if model.network_mode is not None and model.networks:
        text = f"networks cannot be joined with network_mode {model.network_mode!r}"
        wrong(("networks",), text, "leave one of them out", at_key=True)
        return ()
    if not model.networks:
        bridged = model.network_mode in (None, "bridge")
        return (Attachment(name_of(index, f"{project}/default")),) if bridged else ()
    found: list[tuple[int, Attachment]] = []
    for name, member in model.networks.items():
        full = index.full_name(project, name)
        if index.get("network", full) is None and full != f"{project}/default":
            path, at_key = declared.item(("networks",), name)
            wrong(path, f"no network {name!r}", index.hint("network", project, name), at_key=at_key)
            continue
        _check(declared, index, asked, name, full, member, wrong)
        real = name_of(index, full)
        if any(item.network == real for _, item in found):
            path, at_key = declared.item(("networks",), name)
            wrong(path, f"network {real!r} stands here twice", at_key=at_key)
            continue
        found.append((member.priority or 0, _attachment(real, member)))
    ordered = tuple(item for _, item in sorted(found, key=lambda pair: -pair[0]))
    _check_names(ordered, index, project, wrong)
    return ordered


def _attachment(full: str, member: NetworkMembership) -> Attachment:
    return Attachment(
        full,
        member.aliases or (),
        member.ipv4_address or "",
        member.mac_address or "",
        member.ipv6_address or "",
        member.gw_priority or 0,
        member.interface_name or "",
        member.link_local_ips or (),
    )


def _check_names(attachments: tuple[Attachment, ...], index: Index, project: str, wrong: _Wrong) -> None:
    """Two interfaces of one name."""
    seen: dict[str, str] = {}
    for position, item in enumerate(attachments):
        name = item.interface_name or f"eth{position}"
        short = item.network.removeprefix(f"{project}/")
        if name in seen:
            other = seen[name]
            chosen = short if item.interface_name else other
            text = f"{name} is the interface on network {other if chosen == short else short!r} already"
            wrong(("networks", chosen, "interface_name"), text.replace("''", ""), "choose another name")
        seen.setdefault(name, short)


def _check(
    declared: Declared,
    index: Index,
    asked: Asked,
    name: str,
    full: str,
    member: NetworkMembership,
    wrong: _Wrong,
) -> None:
    """Addresses that are asked for, against the network and against other containers."""
    table = index.get("network", full)
    if table is not None and table.model is None:
        return  # that table has its own problem
    if is_external(table):
        return  # whoever makes it knows
    model = table.model if table is not None and isinstance(table.model, Network) else Network()
    four, six = pools(model)
    if member.ipv4_address:
        _check_address(declared, asked, name, full, "ipv4_address", member.ipv4_address, four, wrong)
    if member.ipv6_address:
        _check_address(declared, asked, name, full, "ipv6_address", member.ipv6_address, six, wrong)
    if member.mac_address:
        _claim(declared, asked, full, member.mac_address, ("networks", name, "mac_address"), wrong)
        options = model.driver_opts or {}
        if model.driver == "macvlan" and options.get("macvlan_mode") == "passthru":
            text = "in passthru mode it has the hardware address of the host's interface"
            wrong(("networks", name, "mac_address"), text, "leave it out")


def _check_address(
    declared: Declared,
    asked: Asked,
    name: str,
    full: str,
    field: str,
    address: str,
    pool: Pool,
    wrong: _Wrong,
) -> None:
    path = ("networks", name, field)
    net = pool.net
    if net is None:
        family = " of IPv6" if field == "ipv6_address" else ""
        text = f"network {name!r} has no subnet{family} of its own"
        wrong(path, text, f"write subnet in [network.{name}]")
        return
    if not is_host(address, net):
        wrong(path, f"{address} is not a host address of {net}")
    elif address == pool.router:
        wrong(path, f"{address} is the gateway of network {name!r}")
    _claim(declared, asked, full, address, path, wrong)


def _claim(
    declared: Declared, asked: Asked, full: str, what: str, path: tuple[str, ...], wrong: _Wrong
) -> None:
    other = asked.setdefault((full, what), declared)
    if other is not declared:
        wrong(path, f"{what} is asked for by {other.full!r} already ({other.place})")
