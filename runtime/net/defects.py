"""Decisions: how a network's bridge and a container's links differ from their records, in words."""

from __future__ import annotations

from collections.abc import Mapping

from runtime.interface import Defect
from runtime.net import links
from runtime.net.records import Lease, NetworkRecord


def bridge_defects(
    record: NetworkRecord, found: Mapping[str, links.Link], given: Mapping[int, set[str]]
) -> tuple[Defect, ...]:
    link = found.get(record.bridge)
    if link is None:
        return (Defect("bridge", f"its bridge {record.bridge} is gone"),)
    texts = []
    if not link.up:
        texts.append(f"its bridge {record.bridge} is down")
    if link.mtu != record.mtu:
        texts.append(f"its bridge {record.bridge} has MTU {link.mtu} instead of {record.mtu}")
    if given.get(link.index, set()) != {record.gateway_interface}:
        texts.append(f"its bridge {record.bridge} does not have the address {record.gateway_interface}")
    if links.read_sysctl(f"ipv4/conf/{record.bridge}/route_localnet") != "1":
        texts.append(f"route_localnet of its bridge {record.bridge} is off")
    return tuple(Defect("bridge", text) for text in texts)


def link_defects(
    lease: Lease,
    record: NetworkRecord,
    link: links.Link | None,
    bridge: links.Link | None,
    hairpin: bool,
) -> tuple[Defect, ...]:
    """A bridge that is gone is the network's defect, not that of each member."""
    inside = f"eth{lease.position}"
    if link is None:
        text = f"{inside} on network {lease.network} is gone"
    elif bridge is not None and link.master != bridge.index:
        text = f"{inside} is not on the bridge of network {lease.network}"
    elif not link.up or not link.carrier:
        text = f"{inside} on network {lease.network} is down"
    elif bridge is not None and hairpin and not link.hairpin:
        text = f"{inside} cannot reach itself through its published ports (hairpin)"
    else:
        return ()
    return (Defect("link", text),)


def address_defects(
    lease: Lease, record: NetworkRecord, inside: links.Inside, link: links.Link
) -> tuple[Defect, ...]:
    wanted = f"{lease.address}/{record.net.prefixlen}"
    found = inside.addresses(link)
    if found is None or wanted in found:
        return ()
    return (Defect("address", f"eth{lease.position} does not have the address {wanted}"),)
