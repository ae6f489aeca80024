"""Decisions: how a network's bridge and a container's links differ from their records, in words."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from runtime.net import links
from runtime.net.records import Lease, NetworkRecord
from runtime.observations import Defect


def interfaces(lease: Lease, record: NetworkRecord) -> list[str]:
    """The addresses (CIDR) of a container's interface, that of IPv4 first."""
    found = [f"{lease.address}/{record.net.prefixlen}"]
    if lease.address6:
        found.append(f"{lease.address6}/{record.subnet6.partition('/')[2]}")
    return found + [f"{item}/{64 if ':' in item else 16}" for item in lease.link_local]


# ---------------------------------------------------------------- networks


def bridge_defects(
    record: NetworkRecord, found: Mapping[str, links.Link], given: Mapping[int, set[str]]
) -> tuple[Defect, ...]:
    link = found.get(record.bridge)
    if link is None:
        return (Defect("bridge", f"its bridge {record.bridge} is gone"),)
    texts = _link_texts(record, link)
    has = {item for item in given.get(link.index, set()) if not links.is_automatic(item)}
    wanted = {item for item in (record.gateway_interface, record.gateway6_interface) if item}
    for address in sorted(wanted - has):
        texts.append(f"its bridge {record.bridge} does not have the address {address}")
    for address in sorted(has - wanted):
        texts.append(f"its bridge {record.bridge} has the address {address}, which is none of its own")
    if links.read_sysctl(f"ipv4/conf/{record.bridge}/route_localnet") != "1":
        texts.append(f"route_localnet of its bridge {record.bridge} is off")
    if record.subnet6 and links.read_sysctl(f"ipv6/conf/{record.bridge}/disable_ipv6") == "1":
        texts.append(f"its bridge {record.bridge} has IPv6 switched off")
    return tuple(Defect("bridge", text) for text in texts)


def _link_texts(record: NetworkRecord, link: links.Link) -> list[str]:
    texts = []
    if not link.up:
        texts.append(f"its bridge {link.name} is down")
    if link.mtu != record.mtu:
        texts.append(f"its bridge {link.name} has MTU {link.mtu} instead of {record.mtu}")
    return texts


def shard_defects(
    record: NetworkRecord, name: str, ends: tuple[str, str], found: Mapping[str, links.Link]
) -> tuple[Defect, ...]:
    """Of a further bridge for members, and of the pair that ties it to the network's own."""
    link, own = found.get(name), found.get(record.bridge)
    if link is None:
        return (Defect("bridge", f"its further bridge {name} is gone"),)
    texts = _link_texts(record, link)
    if own is not None:
        uplink, downlink = (found.get(end) for end in ends)
        if uplink is None or downlink is None:
            texts.append(f"its bridges {record.bridge} and {name} are not tied to each other")
        elif (uplink.master, downlink.master) != (own.index, link.index) or not (uplink.up and downlink.up):
            texts.append(f"the tie between its bridges {record.bridge} and {name} is down")
    return tuple(Defect("bridge", text) for text in texts)


def parent_defects(record: NetworkRecord, found: Mapping[str, links.Link]) -> tuple[Defect, ...]:
    """Of the host's interface below a macvlan network, which is not ours to make."""
    parent = record.options.parent
    if parent not in found:
        return (Defect("parent", f"the host has no interface {parent} any more"),)
    if not found[parent].up:
        return (Defect("parent", f"the host's interface {parent} is down"),)
    return ()


# ---------------------------------------------------------------- containers


def link_defects(
    lease: Lease,
    record: NetworkRecord,
    link: links.Link | None,
    bridge: links.Link | None,
    hairpin: bool,
    crooked: Collection[int] = (),
) -> tuple[Defect, ...]:
    """A bridge that is gone is the network's defect, not that of each member. `crooked`: ports that lack
    what straight.py gives them."""
    inside = lease.inside
    if link is None:
        text = f"{inside} on network {lease.network} is gone"
    elif bridge is not None and link.master != bridge.index:
        text = f"{inside} is not on the bridge of network {lease.network}"
    elif not link.up or not link.carrier:
        text = f"{inside} on network {lease.network} is down"
    elif bridge is not None and hairpin and not link.hairpin:
        text = f"{inside} cannot reach itself through its published ports (hairpin)"
    elif bridge is not None and not record.options.icc and not link.isolated:
        text = f"{inside} reaches others on network {lease.network}, which keeps its members apart"
    elif bridge is not None and link.index in crooked:
        text = (
            f"{inside} has lost its fixed MAC on the bridge of network {lease.network}, or its straight way"
        )
    else:
        return ()
    return (Defect("link", text),)


def address_defects(lease: Lease, record: NetworkRecord, found: Collection[str] | None) -> tuple[Defect, ...]:
    """`found` are the addresses of its interface; None where the kernel does not tell."""
    if found is None:
        return ()
    missing = [item for item in interfaces(lease, record) if item not in found]
    return tuple(Defect("address", f"{lease.inside} does not have the address {item}") for item in missing)


def macvlan_defects(
    lease: Lease,
    record: NetworkRecord,
    link: links.Link | None,
    given: Collection[str],
    found: Mapping[str, links.Link],
) -> tuple[Defect, ...]:
    """`link` and `given` are its interface and addresses as seen inside, `found` the host's interfaces. A
    parent that is gone is the network's defect."""
    parent = found.get(record.options.parent)
    if parent is None:
        return ()
    if link is None or link.kind != "macvlan" or link.peer != parent.index:
        return (Defect("link", f"{lease.inside} on network {lease.network} is gone"),)
    if not link.up:
        return (Defect("link", f"{lease.inside} on network {lease.network} is down"),)
    return address_defects(lease, record, given)
